"""Make the golden bundles, or prove that they are what this code makes.

`valid/` holds bundles that every reader must take, byte for byte what the writer gives, with
the notes that `verify` makes about them.
`invalid/` holds one broken bundle per rule, named after its defect, with the words that
`verify` says about it in `PROBLEMS`. `vectors.jsonl` holds canonical lines with their digests.

    python bundles/golden/generate.py            # write them
    python bundles/golden/generate.py --check    # prove them
"""

# ruff: noqa: D103 -- the name of a defect says what it breaks
import argparse
import hashlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import zstandard

from themis_bundles import (
    Bundle,
    BundleInfo,
    BundleInvalidError,
    BundleWriter,
    GroupSpec,
    ResultWriter,
    bag,
    canonical_json,
    sha256_hex,
    verify,
)
from themis_bundles.bagcheck import payload_digests
from themis_bundles.frames import compressor, seek_table
from themis_bundles.manifest import VERSION

GOLDEN = Path(__file__).parent
SHARD = "data/items/00000.jsonl.zst"
IDS = "data/items/00000.ids"
MANIFEST = "data/manifest.json"
COMPONENTS = "data/components.jsonl.zst"
ATTEMPT = "results/00000/first.jsonl.zst"

FROZEN: dict[str, dict[str, str]] = {
    "1.0": {
        "empty": "af74d06f6151a8b1222185ed182fc54a3eaf8f524c46355ba88468b365efdd38",
        "evaluation": "c2239ccece1ccfae5994223a2497c56e77f5236f533b426e86fe14ac1a9bf5db",
        "generation": "1eb3ca5f3e84da6ae3128ff755167fc0cf51df3b8e1c6a1c5055c55964fad542",
        "killed": "2b910154870fe7dbda87af992c73cf4da197df3dff92a459c741119f0a444e9d",
        "resumed": "2db9b2bfe36a3ee3bf7f0df42dc0a7dd96099cc4475487a8ab30b6bd044f6303",
        "worked": "142ff92e3f64cdd38239d30e081c1f6b0e7bf5222596b3a009cd8a1fd29770f6",
    }
}
"""The digest of every valid bundle, by format version. Nothing writes these but a person.

Bytes that change under one version would part readers and writers that both call themselves by
it. So this tool writes no valid bundle whose digest is not here: raise `VERSION`, keep the old
bundles under another name, and add the digests of the new ones. A new kind of valid bundle is
added under the version that it has.
"""

Defect = Callable[[Path], None]
DEFECTS: dict[str, tuple[Callable[[Path], Bundle], Defect]] = {}


def generation(path: Path, *, items: int = 3) -> Bundle:
    """Write the generation bundle that all others are made from."""
    info = BundleInfo("generation", "run-1", {"project": "demo", "benchmark": "sums"}, "2026-01-02")
    with BundleWriter(path, info, shard_items=2) as writer:
        model = writer.component("model", {"model_id": "echo", "provider": "demo"})
        params = writer.component("params", {"max_tokens": 16, "temperature": 0.0})
        prompt = writer.component("prompt", {"id": "plain"})
        slice_ = writer.component("slice", {"id": "sums"})
        refs = {"model": model, "params": params, "prompt": prompt, "slice": slice_}
        writer.start_group(GroupSpec(model, "demo", "echo", {"max_model_len": 512}))
        for number in range(items):
            messages = [{"role": "user", "content": f"{number} + {number} = ? Grüße ∑ 🦉"}]
            item = {"id": f"{number:032x}", "sample": 0, "refs": refs}
            request = {"messages": messages, "seed": 1000 + number}
            writer.add({**item, "request": request}, prompt_tokens=9, max_new_tokens=16)
    return Bundle.open(path)


def evaluation(path: Path) -> Bundle:
    """Write an evaluation bundle."""
    info = BundleInfo(
        "evaluation",
        "run-1",
        {"project": "demo", "benchmark": "sums"},
        "2026-01-02",
        (("exact_match", "1"), ("last_number", "2")),
    )
    with BundleWriter(path, info) as writer:
        model = writer.component("model", {"model_id": "echo", "provider": "demo"})
        refs = {
            "slice": writer.component("slice", {"id": "sums"}),
            "transform": writer.component("transform", {"extractor": "last_number"}),
            "evaluation": writer.component("evaluation", {"metrics": ["exact_match"]}),
        }
        writer.start_group(GroupSpec(model, "demo", "echo"))
        for number in range(2):
            item = {"id": f"{number:032x}", "sample": 0, "refs": refs, "output": answer(number)}
            writer.add(
                {**item, "payload": {"answer": str(number)}}, prompt_tokens=0, max_new_tokens=0
            )
    return Bundle.open(path)


def answer(number: int) -> dict[str, Any]:
    """Return the record of an item that was answered."""
    return {
        "text": f"It is {number + number}.",
        "finish_reason": "stop",
        "stop_reason": None,
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "cached_tokens": None},
        "latency_ms": 12.5,
        "prompt_sha256": sha256_hex(b"%d" % number),
    }


def failure(kind: str) -> dict[str, Any]:
    """Return the record of an item that failed."""
    return {"error": {"kind": kind, "code": "example", "message": "no", "retryable": False}}


def work(
    bundle: Bundle, shard: int, attempt: str, records: Mapping[int, Any], *, second: int = 0
) -> None:
    """Record results with a clock that stands still."""
    digests = {item.seq: item.sha256 for item in bundle.iter_items(shard)}
    with (
        mock.patch("time.time", return_value=1767312000.0 + second),
        mock.patch("os.getpid", return_value=4711),
        mock.patch("socket.gethostname", return_value="node"),
        ResultWriter(bundle, shard, attempt, header={"engine": "echo"}) as writer,
    ):
        for seq, record in records.items():
            writer.append(seq, digests[seq], "error" if "error" in record else "ok", record)


def worked(path: Path) -> Bundle:
    """Write a bundle whose items were all answered."""
    bundle = generation(path)
    work(bundle, 0, "first", {1: answer(1), 0: answer(0)})
    work(bundle, 1, "first", {2: answer(2)})
    return bundle


def resumed(path: Path) -> Bundle:
    """Write a bundle whose first attempt was killed in the middle of a write."""
    bundle = generation(path)
    work(bundle, 0, "first", {0: failure("infra")})
    killed = path / ATTEMPT
    killed.with_name("first.json").unlink()
    *_, footer = _frame_starts(killed.read_bytes())
    killed.write_bytes(killed.read_bytes()[: footer + 20])
    work(bundle, 0, "second", {0: answer(0), 1: failure("model")}, second=60)
    return bundle


def killed(path: Path) -> Bundle:
    """Write a bundle whose two attempts were killed: one at its start, one by a power loss."""
    bundle = generation(path)
    work(bundle, 0, "first", {0: answer(0)})
    work(bundle, 0, "second", {1: answer(1)}, second=60)
    for name in ("first", "second"):
        (path / f"results/00000/{name}.json").unlink()
    (path / "results/00000/done.json").unlink()
    first, second = (path / f"results/00000/{name}.jsonl.zst" for name in ("first", "second"))
    first.write_bytes(first.read_bytes()[:20])
    *_, footer = _frame_starts(second.read_bytes())
    second.write_bytes(second.read_bytes()[:footer] + bytes(100))
    return bundle


def empty(path: Path) -> Bundle:
    """Write a bundle without items."""
    info = BundleInfo("generation", "run-1", {"project": "demo", "benchmark": "none"}, "2026-01-02")
    with BundleWriter(path, info):
        pass
    return Bundle.open(path)


def one(path: Path) -> Bundle:
    """Write a bundle of one shard, to be broken."""
    return generation(path, items=2)


def one_worked(path: Path) -> Bundle:
    """Write a bundle of one shard with its results, to be broken."""
    bundle = one(path)
    work(bundle, 0, "first", {1: answer(1), 0: answer(0)})
    return bundle


VALID: dict[str, Callable[[Path], Bundle]] = {
    "generation": generation,
    "evaluation": evaluation,
    "worked": worked,
    "resumed": resumed,
    "killed": killed,
    "empty": empty,
}

VECTORS: tuple[Any, ...] = (
    {},
    {"b": 1, "a": 2, "B": 3, "é": 4, "\uffff": 5, "🦉": 6},
    [0.1, 1.0, -0.0, 1e16, 1e22, 1.5e300, 5e-324, 1e-7, 123456789.125],
    [0, -1, 2**53 - 1, -(2**53) + 1],
    ["\x00\x1f\x7f", '"\\/\b\f\n\r\t', "\u2028\u2029\x85", "🦉"],
    {"nested": [{"a": [[], {}]}, None, True, False]},
)


def defect(base: Callable[[Path], Bundle] = one_worked) -> Callable[[Defect], Defect]:
    """Register a function that breaks one rule of a valid bundle."""

    def register(change: Defect) -> Defect:
        DEFECTS[change.__name__.replace("_", "-")] = (base, change)
        return change

    return register


# The manifest ------------------------------------------------------------------------------


@defect()
def manifest_with_an_unknown_field(path: Path) -> None:
    _manifest(path, lambda m: m.update(surprise=1))


@defect()
def manifest_of_another_version(path: Path) -> None:
    _manifest(path, lambda m: m.update(version="2.0"))


@defect()
def manifest_not_canonical(path: Path) -> None:
    _replace(path / MANIFEST, b'{"canonical"', b'{ "canonical"')


@defect()
def manifest_with_a_key_twice(path: Path) -> None:
    _replace(path / MANIFEST, b'"run_id":', b'"run_id":"run-2","run_id":')


@defect()
def manifest_with_a_path_outside(path: Path) -> None:
    _manifest(path, lambda m: m["groups"][0]["shards"][0].update(path="../../../etc/passwd"))


@defect(worked)
def manifest_with_a_gap_between_shards(path: Path) -> None:
    _manifest(path, lambda m: m["groups"][0]["shards"][1].update(index=2))


@defect(worked)
def manifest_with_a_gap_between_items(path: Path) -> None:
    _manifest(path, lambda m: m["groups"][0]["shards"][1].update(first_seq=3))


@defect()
def manifest_with_wrong_totals(path: Path) -> None:
    _manifest(path, lambda m: m["totals"].update(items=3))


@defect()
def manifest_edited(path: Path) -> None:
    """Everything in it is well-formed; only the bag and the results know another one."""
    _manifest(path, lambda m: m["created_for"].update(project="other"))


# The bag -----------------------------------------------------------------------------------


@defect()
def bag_with_an_unlisted_file(path: Path) -> None:
    (path / "data/items/extra.jsonl.zst").write_bytes(b"")


@defect()
def bag_with_a_fetch_list(path: Path) -> None:
    (path / "fetch.txt").write_bytes(b"https://example.org/x - data/items/00000.ids\n")


@defect()
def bag_without_a_tag_file(path: Path) -> None:
    (path / "bag-info.txt").unlink()


@defect()
def bag_with_another_list(path: Path) -> None:
    _replace(path / bag.PAYLOAD_MANIFEST, b"  data/manifest.json", b"  data/../../secret")


@defect()
def bag_with_an_edited_description(path: Path) -> None:
    _replace(path / "bag-info.txt", b"2026-01-02", b"2026-01-03")


# Components --------------------------------------------------------------------------------


@defect()
def component_edited(path: Path) -> None:
    _flip(path / COMPONENTS, 30)


@defect(one)
def component_with_another_digest(path: Path) -> None:
    lines = _lines(path / COMPONENTS)
    lines[1] = lines[1].replace(b'"temperature":0.0', b'"temperature":1.0')
    _seal(path, COMPONENTS, _file(lines))


@defect(one)
def component_of_another_kind(path: Path) -> None:
    _manifest(path, lambda m: m["groups"][0].update(model=1))
    _seal_bag(path)


# Items -------------------------------------------------------------------------------------


@defect()
def item_edited(path: Path) -> None:
    _flip(path / SHARD, 60)


@defect(one)
def item_edited_and_sealed_again(path: Path) -> None:
    _items(path, lambda lines: [lines[0].replace(b"0 + 0", b"0 + 1"), *lines[1:]])


@defect(one)
def items_swapped(path: Path) -> None:
    _items(path, lambda lines: lines[::-1])


@defect(one)
def item_left_out(path: Path) -> None:
    _items(path, lambda lines: lines[:1])


@defect(one)
def item_not_canonical(path: Path) -> None:
    _items(path, lambda lines: [lines[0].replace(b'":', b'": ', 1), *lines[1:]])


@defect(one)
def item_with_a_key_twice(path: Path) -> None:
    _items(path, lambda lines: [lines[0].replace(b'"seed":', b'"seed":1,"seed":'), *lines[1:]])


@defect(one)
def item_with_nan(path: Path) -> None:
    _items(path, lambda lines: [lines[0].replace(b'"sample":0', b'"sample":NaN'), *lines[1:]])


@defect(one)
def item_with_a_huge_integer(path: Path) -> None:
    _items(path, lambda lines: [lines[0].replace(b'"seed":1000', b'"seed":1%030d' % 0), *lines[1:]])


@defect(one)
def item_with_a_lone_surrogate(path: Path) -> None:
    _items(path, lambda lines: [lines[0].replace(b'"user"', rb'"\ud800"'), *lines[1:]])


@defect(one)
def item_nested_too_deep(path: Path) -> None:
    deep = b"[" * 70 + b"]" * 70
    _items(path, lambda lines: [lines[0].replace(b'"sample":0', b'"sample":' + deep), *lines[1:]])


@defect(one)
def item_of_another_type(path: Path) -> None:
    """Whoever writes a bundle can seal anything; so types are proved, not only digests."""
    _plan(path, lambda item: item["request"].update(seed="1001"))


@defect(one)
def item_without_a_prompt(path: Path) -> None:
    _plan(path, lambda item: item["request"].update(messages=[]))


@defect(one)
def item_that_refers_to_nothing(path: Path) -> None:
    _plan(path, lambda item: item["refs"].update(params=9))


@defect(one)
def item_of_another_model(path: Path) -> None:
    _plan(path, lambda item: item["refs"].update(model=1))


@defect(one)
def items_without_a_seek_table(path: Path) -> None:
    _seal(path, SHARD, _frame(_lines(path / SHARD)))


@defect(one)
def items_in_a_frame_without_checksum(path: Path) -> None:
    plain = zstandard.ZstdCompressor(level=3)
    data = b"".join(line + b"\n" for line in _lines(path / SHARD))
    frame = plain.compress(data)
    _seal(path, SHARD, frame + seek_table([(len(frame), len(data))]))


@defect(one)
def items_in_a_bomb(path: Path) -> None:
    frame = compressor(3).compress(bytes(2**25))
    _seal(path, SHARD, frame + seek_table([(len(frame), 2**25)]))


@defect(one)
def items_without_a_last_line_end(path: Path) -> None:
    data = b"\n".join(_lines(path / SHARD))
    frame = compressor(3).compress(data)
    _seal(path, SHARD, frame + seek_table([(len(frame), len(data))]))


@defect(one)
def items_with_a_line_beyond_the_limit(path: Path) -> None:
    _manifest(path, lambda m: m.update(line_limit=1024))
    _items(path, lambda lines: [lines[0].replace(b"0 + 0", b"0 + 0" * 300), *lines[1:]])


@defect(one)
def items_with_junk_at_their_end(path: Path) -> None:
    _seal(path, SHARD, (path / SHARD).read_bytes() + b"junk")


@defect(one)
def items_cut_off(path: Path) -> None:
    (path / SHARD).write_bytes((path / SHARD).read_bytes()[:-1])


@defect(one)
def items_in_more_frames_than_promised(path: Path) -> None:
    frames = [_frame([line]) for line in _lines(path / SHARD)]
    sizes = [(len(frame), zstandard.frame_content_size(frame)) for frame in frames]
    _seal(path, SHARD, b"".join(frames) + seek_table(sizes))


@defect()
def item_digests_edited(path: Path) -> None:
    _flip(path / IDS, 5)


# Records -----------------------------------------------------------------------------------


@defect(one)
def record_of_an_item_that_was_not_planned(path: Path) -> None:
    _attempt(path, _record(path, 0, seq=9))


@defect(generation)
def record_of_another_shard(path: Path) -> None:
    _attempt(path, _record(path, 0, seq=2))


@defect(one)
def record_of_an_item_that_was_changed(path: Path) -> None:
    _attempt(path, _record(path, 0, item_sha256="0" * 64))


@defect(one)
def record_without_a_required_field(path: Path) -> None:
    _attempt(path, _record(path, 0, record={"text": "no more"}))


@defect(one)
def record_with_a_key_twice(path: Path) -> None:
    _attempt(path, _record(path, 0).replace(b'"text":', b'"text":"x","text":'))


@defect(one)
def record_that_is_not_json(path: Path) -> None:
    _attempt(path, b"{")


@defect(one)
def answers_that_differ(path: Path) -> None:
    _attempt(path, _record(path, 0), _record(path, 0, record={**answer(0), "text": "It is 1."}))


@defect(one)
def records_without_end(path: Path) -> None:
    """A small file can hold the same record a million times."""
    _attempt(path, *[_record(path, 0)] * 1033)


# Result files ------------------------------------------------------------------------------


@defect(worked)
def attempt_under_another_name(path: Path) -> None:
    for suffix in (".jsonl.zst", ".json"):
        (path / "results/00001" / f"first{suffix}").rename(path / f"results/00001/other{suffix}")


@defect(worked)
def attempt_at_another_shard(path: Path) -> None:
    shutil.copy(path / ATTEMPT, path / "results/00001/first.jsonl.zst")


@defect()
def attempt_with_a_damaged_frame(path: Path) -> None:
    data = (path / ATTEMPT).read_bytes()
    _flip(path / ATTEMPT, _frame_starts(data)[1] + 40)


@defect()
def attempt_cut_off_after_its_receipt(path: Path) -> None:
    data = (path / ATTEMPT).read_bytes()
    (path / ATTEMPT).write_bytes(data[: _frame_starts(data)[2]])


@defect()
def attempt_with_junk_at_its_end(path: Path) -> None:
    with (path / ATTEMPT).open("ab") as file:
        file.write(b"junk")


@defect()
def attempt_with_a_frame_after_its_footer(path: Path) -> None:
    with (path / ATTEMPT).open("ab") as file:
        file.write(_frame([_record(path, 0)]))


@defect()
def attempt_with_a_wrong_footer(path: Path) -> None:
    data = (path / ATTEMPT).read_bytes()
    start = _frame_starts(data)[2]
    footer = orjson.loads(zstandard.ZstdDecompressor().decompress(data[start:]))
    footer["footer"]["records"] = 3
    (path / ATTEMPT).write_bytes(data[:start] + _frame([canonical_json(footer)]))
    for name in ("first.json", "done.json"):
        (path / "results/00000" / name).unlink()


@defect()
def attempt_without_a_header(path: Path) -> None:
    data = (path / ATTEMPT).read_bytes()
    (path / ATTEMPT).write_bytes(data[_frame_starts(data)[1] :])
    for name in ("first.json", "done.json"):
        (path / "results/00000" / name).unlink()


@defect()
def receipt_edited(path: Path) -> None:
    _replace(path / "results/00000/first.json", b'"sha256":"', b'"sha256":"f', cut=1)


@defect()
def done_without_its_attempt(path: Path) -> None:
    (path / ATTEMPT).unlink()
    (path / "results/00000/first.json").unlink()


@defect()
def done_that_does_not_add_up(path: Path) -> None:
    _replace(path / "results/00000/done.json", b'"ok":2', b'"ok":1')


@defect()
def results_of_an_unknown_shard(path: Path) -> None:
    (path / "results/00000").rename(path / "results/00007")


@defect()
def results_behind_a_link(path: Path) -> None:
    (path / "dispatch").mkdir()
    (path / "results/00000").rename(path / "dispatch/moved")
    (path / "results/00000").symlink_to("../dispatch/moved")


@defect(one)
def results_that_are_required(path: Path) -> None:
    """Nothing is wrong but that nobody worked; `verify` is asked to require results."""


# Tools -------------------------------------------------------------------------------------


def _manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = orjson.loads((path / MANIFEST).read_bytes())
    change(value)
    (path / MANIFEST).write_bytes(canonical_json(value) + b"\n")


def _items(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the items of the first shard and seal everything but their digests again."""
    _seal(path, SHARD, _file(change(_lines(path / SHARD))))


def _plan(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the second item and seal everything again, as if it had been planned so."""
    lines = _lines(path / SHARD)
    item = orjson.loads(lines[1])
    change(item)
    lines[1] = canonical_json(item)
    ids = b"".join(hashlib.sha256(line).digest() for line in lines)
    (path / IDS).write_bytes(ids)
    digest = sha256_hex(ids)
    _manifest(path, lambda m: m["groups"][0]["shards"][0].update(items_digest=digest))
    _seal(path, SHARD, _file(lines))


def _seal(path: Path, name: str, data: bytes) -> None:
    """Replace a payload file and make the manifest and the bag agree with it."""
    (path / name).write_bytes(data)
    fields = {"sha256": sha256_hex(data), "bytes": len(data)}

    def change(manifest: dict[str, Any]) -> None:
        shards = manifest["groups"][0]["shards"]
        (shards[0] if name == SHARD else manifest["components"]).update(fields)
        manifest["totals"]["bytes"] = sum(shard["bytes"] for shard in shards)

    _manifest(path, change)
    _seal_bag(path)


def _seal_bag(path: Path) -> None:
    bundle = Bundle.open(path)
    payload = payload_digests(bundle)
    octets = sum((path / name).stat().st_size for name in payload)
    info = bag.bag_info(
        date=bundle.manifest.date, identifier=bundle.digest, files=len(payload), octets=octets
    )
    for name, data in bag.tag_files(payload, info).items():
        (path / name).write_bytes(data)


def _record(path: Path, number: int, **changes: Any) -> bytes:
    digest = (path / IDS).read_bytes()[32 * number :][:32].hex()
    value = {"item_sha256": digest, "seq": number, "status": "ok", "record": answer(number)}
    return canonical_json({**value, **changes})


def _attempt(path: Path, *lines: bytes) -> None:
    """Write a result file as an attempt that was killed leaves it."""
    work(Bundle.open(path), 0, "first", {})
    file = path / ATTEMPT
    file.with_name("first.json").unlink()
    data = file.read_bytes()
    file.write_bytes(data[: _frame_starts(data)[1]] + _frame(lines))


def _frame(lines: Iterable[bytes]) -> bytes:
    return compressor(3).compress(b"".join(line + b"\n" for line in lines))


def _file(lines: list[bytes]) -> bytes:
    frame = _frame(lines)
    return frame + seek_table([(len(frame), sum(len(line) + 1 for line in lines))])


def _lines(path: Path) -> list[bytes]:
    return zstandard.ZstdDecompressor().decompress(path.read_bytes()).splitlines()


def _frame_starts(data: bytes) -> list[int]:
    magic = zstandard.FRAME_HEADER
    return [at for at in range(len(data)) if data.startswith(magic, at)]


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def _replace(path: Path, old: bytes, new: bytes, *, cut: int = 0) -> None:
    """Replace bytes, and drop as many of those that follow as `cut` says."""
    data = path.read_bytes()
    place = data.index(old)
    path.write_bytes(data[:place] + new + data[place + len(old) + cut :])


def problems(path: Path) -> list[str]:
    """Return what a reader says about a bundle, without the words of other libraries."""
    try:
        required = path.name == "results-that-are-required"
        census = verify(Bundle.open(path), require_results=required)
        found = [str(problem) for problem in census.problems]
    except BundleInvalidError as error:
        found = list(error.problems)
    return [re.sub(r"(cannot be inflated|not JSON): .*", r"\1", line) for line in found]


def generate(folder: Path) -> None:
    """Write every golden bundle below a folder."""
    for name, make in VALID.items():
        make(folder / "valid" / name)
        said = "".join(f"{line}\n" for line in problems(folder / "valid" / name))
        (folder / "valid" / f"{name}.PROBLEMS").write_text(said)
    for name, (base, change) in DEFECTS.items():
        path = folder / "invalid" / name
        base(path)
        change(path)
        said = "".join(f"{line}\n" for line in problems(path))
        (path.parent / f"{name}.PROBLEMS").write_text(said)
    lines = [canonical_json(value) for value in VECTORS]
    vectors = [{"canonical": line.decode(), "sha256": sha256_hex(line)} for line in lines]
    data = b"".join(canonical_json(vector) + b"\n" for vector in vectors)
    (folder / "vectors.jsonl").write_bytes(data)


def content(folder: Path) -> dict[str, bytes]:
    """Return every golden file, by its path."""
    return {
        str(path.relative_to(folder)): _bytes(path)
        for path in sorted(folder.rglob("*"))
        if (path.is_file() or path.is_symlink()) and path.suffix not in {".py", ".pyc"}
    }


def _bytes(path: Path) -> bytes:
    return b"link to " + bytes(path.readlink()) if path.is_symlink() else path.read_bytes()


def differences() -> list[str]:
    """Return the golden files that are not what this code makes."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        made, found = content(Path(folder)), content(GOLDEN)
    return sorted(name for name in made.keys() | found.keys() if made.get(name) != found.get(name))


def thawed(folder: Path) -> list[str]:
    """Return the digests of valid bundles that are not those of this version of the format."""
    found = {path.name: _digest(path) for path in (folder / "valid").iterdir() if path.is_dir()}
    frozen = FROZEN.get(VERSION, {})
    return sorted(
        f"{name}: {found.get(name)}"
        for name in found.keys() | frozen.keys()
        if found.get(name) != frozen.get(name)
    )


def _digest(folder: Path) -> str:
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_hex(path.read_bytes())}  {path.relative_to(folder)}\n" for path in names]
    return sha256_hex("".join(lines).encode())


def main() -> None:
    """Write the golden bundles, or prove them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, name differences")
    if parser.parse_args().check:
        wrong = differences()
        sys.stdout.write("".join(f"{name} is not what the code makes\n" for name in wrong))
        sys.exit(bool(wrong))
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        changed = thawed(Path(folder))
        if changed:
            words = f"the bytes of format {VERSION} would change; read FROZEN in this file:"
            sys.exit("\n  ".join((words, *changed)))
        for name in ("valid", "invalid"):
            shutil.rmtree(GOLDEN / name, ignore_errors=True)
            shutil.copytree(Path(folder) / name, GOLDEN / name, symlinks=True)
        shutil.copy(Path(folder) / "vectors.jsonl", GOLDEN)


if __name__ == "__main__":
    main()
