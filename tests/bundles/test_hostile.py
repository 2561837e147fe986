"""Whatever bytes arrive: no crash, no record that nobody wrote, and a named place."""

import hashlib
import json
import os
import resource
import shutil
import struct
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from themis_bundles import (
    Bundle,
    BundleInvalidError,
    ResultWriter,
    canonical_json,
    chosen,
    finished,
    shard_state,
    verify,
)
from themis_bundles.errors import CanonicalError
from themis_bundles.frames import compressor
from themis_bundles.receipts import Status, load

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

FUZZ = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ODD_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
Edit = Callable[[bytes], bytes]


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    """A change to some bytes: flipped, cut, repeated, moved, inserted, or made zero."""
    kind = draw(st.sampled_from(["flip", "cut", "drop", "repeat", "swap", "insert", "zero"]))
    one, two = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    junk = draw(st.binary(min_size=1, max_size=30))
    bit = draw(st.integers(0, 7))

    def edit(data: bytes) -> bytes:
        a, b = sorted((int(one * len(data)), int(two * len(data))))
        a = min(a, max(len(data) - 1, 0))
        return {
            "flip": data[:a] + bytes([data[a] ^ (1 << bit)]) + data[a + 1 :],
            "cut": data[:a],
            "drop": data[:a] + data[b:],
            "repeat": data[:b] + data[a:b] + data[b:],
            "swap": data[:a] + data[b:] + data[a:b],
            "insert": data[:a] + junk + data[a:],
            "zero": data[:a] + bytes(b - a) + data[b:],
        }[kind]

    return edit


@pytest.fixture(scope="module")
def worked(kit: "Kit", tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two shards; each item was answered by one of two attempts."""
    bundle = kit.bundle(tmp_path_factory.mktemp("hostile") / "b", items=6, shard_items=4)
    for shard in bundle.shards:
        seqs = range(shard.first_seq, shard.first_seq + shard.items)
        for name, part in (("a", seqs[::2]), ("b", seqs[1::2])):
            records = {seq: kit.answer(f"answer {seq}") for seq in part}
            kit.work(bundle, shard.index, name, records, flush_records=1)
    assert verify(bundle).complete
    return bundle


def read(bundle: Bundle) -> dict[int, Any]:
    """Use everything that reads results; return the records that were taken."""
    found = {}
    for shard in bundle.shards:
        finished(bundle, shard.index)
        shard_state(bundle, shard.index)
        shard_state(bundle, shard.index, exact=True)
        for c in chosen(bundle, shard.index):
            if c.record is not None:
                found[c.item.seq] = c.record.record
    return found


class Changed:
    """Replaces a file, and puts it back."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data = path, data

    def __enter__(self) -> None:
        self.good = self.path.read_bytes()
        self.path.write_bytes(self.data)

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(self.good)


def vouches(name: str, changed: bytes, good: bytes) -> bool:
    """Tell whether a status file still vouches for the same bytes; the rest of it proves nothing.

    An edited time, host or cause is a claim that no verdict depends on.
    """
    try:
        found, before = (load(Status, data) for data in (changed, good))
    except (CanonicalError, ValueError):
        return False
    proved = {"format", "version", "bundle", "shard", "attempt", "bytes", "sha256"}
    return name == "a.json" and found.model_dump(include=proved) == before.model_dump(
        include=proved
    )


@FUZZ
@given(edits(), st.sampled_from(["a.jsonl.zst", "b.jsonl.zst", "a.json", "done.json"]))
def test_no_edit_of_results_crashes_or_is_believed(worked: Bundle, edit: Edit, name: str) -> None:
    path = worked.results_dir / "00000" / name
    changed = edit(path.read_bytes())
    original = read(worked)

    good = path.read_bytes()
    with Changed(path, changed):
        for quick in (True, False):
            census = verify(worked, quick=quick)
            # Receipts vouch for what they knew; what follows it takes reading to find.
            grown = changed.startswith(good) and path.suffix == ".zst"
            sound = changed == good or (quick and grown) or vouches(name, changed, good)
            assert census.refused == (not sound)
            assert census.complete == sound
            assert sound or census.problems[0].path.startswith("results/00000")
        found = read(worked)

    assert all(original[seq] == record for seq, record in found.items())


PAYLOAD = (
    "bagit.txt",
    "bag-info.txt",
    "manifest-sha256.txt",
    "tagmanifest-sha256.txt",
    "data/manifest.json",
    "data/components.jsonl.zst",
    "data/items/00000.jsonl.zst",
    "data/items/00001.ids",
)


@FUZZ
@given(edits(), st.sampled_from(PAYLOAD))
def test_no_edit_of_a_bundle_crashes_or_is_believed(worked: Bundle, edit: Edit, name: str) -> None:
    path = worked.path / name
    good = path.read_bytes()
    changed = edit(good)
    problems: tuple[str, ...] = ()

    with Changed(path, changed):
        for quick in (True, False):
            try:
                census = verify(Bundle.open(worked.path), quick=quick)
            except BundleInvalidError as error:
                problems = error.problems
                assert problems[0].startswith("data/manifest.json: ")
            else:
                problems = tuple(str(p) for p in census.problems)
                assert census.refused == (changed != good)
        assert changed == good or any(name in problem for problem in problems), problems


@FUZZ
@given(st.lists(ODD_JSON | st.binary(max_size=20), max_size=4), st.booleans())
def test_any_lines_in_a_whole_frame_are_judged_one_by_one(
    kit: "Kit",
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[Any],
    good_first: bool,  # noqa: FBT001
) -> None:
    bundle = _fresh(kit, tmp_path_factory)
    writer = ResultWriter(bundle, 0, "a", header={})
    digest = bundle.item_digests(0)[:32].hex()
    record = {"item_sha256": digest, "record": kit.answer(), "seq": 0, "status": "ok"}
    written = [line if isinstance(line, bytes) else canonical_json(line) for line in lines]
    written = [line.replace(b"\n", b" ") for line in written]
    written.insert(0 if good_first else len(written), canonical_json(record))
    with writer.path.open("ab") as file:
        file.write(compressor(3).compress(b"".join(line + b"\n" for line in written)))

    census = verify(bundle)

    assert census.counts["ok"] == 1
    assert census.counts["corrupt"] == len(lines)
    assert set(read(bundle)) == {0}


@FUZZ
@given(ODD_JSON, st.sampled_from(["record", "seq", "item_sha256", "status", "error", "usage"]))
def test_a_record_with_any_value_in_any_field_is_proved(
    kit: "Kit", tmp_path_factory: pytest.TempPathFactory, value: Any, field: str
) -> None:
    bundle = _fresh(kit, tmp_path_factory)
    writer = ResultWriter(bundle, 0, "a", header={})
    digest = bundle.item_digests(0)[:32].hex()
    record: dict[str, Any] = kit.answer() if field != "error" else kit.failure()
    line: dict[str, Any] = {"item_sha256": digest, "record": record, "seq": 0, "status": "ok"}
    if field == "error":
        line["status"] = "error"
    (record if field in ("error", "usage") else line)[field] = value
    with writer.path.open("ab") as file:
        file.write(compressor(3).compress(canonical_json(line) + b"\n"))

    census = verify(bundle)

    counts = census.counts
    judged = ("ok", "model_error", "infra_error", "corrupt", "foreign", "mismatched")
    assert sum(counts[key] for key in judged) == 1
    read(bundle)


def _fresh(kit: "Kit", factory: pytest.TempPathFactory) -> Bundle:
    return kit.bundle(factory.mktemp("fresh") / "b", items=1)


class TestSealedAgain:
    """An attacker who computes every digest anew still cannot pass off other work."""

    def test_a_bundle_that_was_changed_and_sealed_again_is_another_bundle(
        self, worked: Bundle, kit: "Kit", tmp_path: Path
    ) -> None:
        forged = kit.bundle(tmp_path / "forged", items=7, shard_items=4)
        shutil.copytree(worked.results_dir, forged.results_dir)

        census = verify(forged)

        assert forged.digest != worked.digest
        assert census.refused
        assert (census.counts["ok"], census.counts["foreign"] > 0) == (0, True)

    @pytest.mark.parametrize("part", ["record", "item_sha256", "both"])
    def test_swapped_records_are_refused_or_stay_with_their_item(
        self, bundle: Bundle, kit: "Kit", part: str
    ) -> None:
        digests = bundle.item_digests(0).hex()
        lines = [
            {
                "item_sha256": digests[64 * seq :][:64],
                "record": kit.answer(f"answer {seq}"),
                "seq": seq,
                "status": "ok",
            }
            for seq in range(2)
        ]
        for key in ("item_sha256", "seq") if part == "both" else ("seq",):
            lines[0][key], lines[1][key] = lines[1][key], lines[0][key]
        if part == "record":
            lines[0]["item_sha256"] = lines[1]["item_sha256"]
        writer = ResultWriter(bundle, 0, "a", header={})
        with writer.path.open("ab") as file:
            data = b"".join(canonical_json(line) + b"\n" for line in lines)
            file.write(compressor(3).compress(data))

        census = verify(bundle)

        # Swapping both is what an honest worker that mixed up its answers would write; only
        # prompt_sha256 and a signature can tell. Everything else is refused.
        assert census.refused == (part != "both")

    def test_the_header_cannot_be_borrowed(self, bundle: Bundle, kit: "Kit") -> None:
        path = kit.work(bundle, 0, "a")
        target = bundle.results_dir / "00001/a.jsonl.zst"
        target.parent.mkdir()
        target.write_bytes(path.read_bytes())

        assert verify(bundle).counts["foreign"] > 0
        assert finished(bundle, 1) == {}


def in_a_small_child(megabytes: int, run: Callable[[], object]) -> None:
    """Run a function in a child process that may grow by so much, and no more."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "ok"
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * os.sysconf("SC_PAGE_SIZE") + megabytes * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            run()
        except BaseException:  # noqa: BLE001 -- whatever it was, the parent says so
            said = traceback.format_exc()
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read().decode() == "ok"


def _noise(size: int) -> bytes:
    blocks = (hashlib.sha256(b"%d" % n).hexdigest().encode() for n in range(size // 64 + 1))
    return b"".join(blocks)[:size]


def _frame_head(content: int, window: int | None = None) -> bytes:
    """The first bytes of a frame that claims so much content, and so large a window."""
    if window is None:
        return b"\x28\xb5\x2f\xfd" + bytes([0b1110_0100]) + struct.pack("<Q", content)
    return b"\x28\xb5\x2f\xfd" + bytes([0b1100_0100, window]) + struct.pack("<Q", content)


_LAST_BLOCK = (1).to_bytes(3, "little") + bytes(4)
COSTLY: dict[str, Callable[[], bytes]] = {
    "sixty-four bombs": lambda: compressor(3).compress(bytes(2**24)) * 64,
    "a window of two gigabytes": lambda: _frame_head(2, 0xA8) + _LAST_BLOCK,
    "a claim of a terabyte": lambda: _frame_head(2**40) + _LAST_BLOCK,
    "a million empty frames": lambda: compressor(3).compress(b"") * 10**6,
    "a million skippable frames": lambda: struct.pack("<II", 0x184D2A50, 0) * 10**6,
    "a skippable frame of four gigabytes": lambda: struct.pack("<II", 0x184D2A50, 2**32 - 1),
    "a frame without an end": lambda: _frame_head(2**20) + bytes(3) * 2**20,
    "a line of ten megabytes": lambda: compressor(3).compress(_noise(10 * 2**20) + b"\n"),
    "a string of ten megabytes": lambda: compressor(3).compress(b'"%b"\n' % _noise(10 * 2**20)),
    "a line of sixteen megabytes and more": lambda: compressor(3).compress(_noise(2**24 + 1)),
    "half a million lines": lambda: compressor(3).compress(b"\n" * 2**19) * 100,
    "half a million brackets": lambda: compressor(3).compress(b"[" * 2**19 + b"\n") * 20,
    "a depth of ten thousand": lambda: compressor(3).compress(b"[" * 10**4 + b"]" * 10**4 + b"\n"),
    "an integer of a million digits": lambda: compressor(3).compress(b"1" * 10**6 + b"\n"),
}


class TestMemory:
    """Whatever a file claims, reading it takes no more than the format allows."""

    @pytest.mark.parametrize("name", COSTLY)
    def test_a_costly_result_file_is_refused_within_bounds(
        self, bundle: Bundle, kit: "Kit", name: str
    ) -> None:
        path = kit.work(bundle, 0, "a")
        with path.open("ab") as file:
            file.write(COSTLY[name]())

        def run() -> None:
            census = verify(bundle)
            assert census.refused
            assert any(str(p).startswith("results/00000/a.jsonl.zst: ") for p in census.problems)

        in_a_small_child(160, run)

    @pytest.mark.parametrize("name", COSTLY)
    def test_a_costly_item_file_is_refused_within_bounds(self, bundle: Bundle, name: str) -> None:
        path = bundle.path / "data/items/00000.jsonl.zst"
        data = COSTLY[name]()
        path.write_bytes(data)
        manifest = bundle.path / "data/manifest.json"
        value = json.loads(manifest.read_bytes())
        entry = value["groups"][0]["shards"][0]
        value["totals"]["bytes"] += len(data) - entry["bytes"]
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        manifest.write_bytes(canonical_json(value) + b"\n")

        def run() -> None:
            census = verify(Bundle.open(bundle.path))
            place = "data/items/00000.jsonl.zst: "
            assert any(str(p).startswith(place) for p in census.problems)

        in_a_small_child(160, run)

    @pytest.mark.parametrize(
        "text",
        [b"[" * 2**20, b'{"a":' * 10**5, b'"' + b"x" * 2**24, b"1" * 2**24, b" " * 2**24],
        ids=["brackets", "objects", "string", "digits", "spaces"],
    )
    @pytest.mark.parametrize("name", ["data/manifest.json", "results/00000/a.json"])
    def test_a_costly_json_file_is_refused_within_bounds(
        self, bundle: Bundle, kit: "Kit", name: str, text: bytes
    ) -> None:
        kit.work(bundle, 0, "a")
        (bundle.path / name).write_bytes(text + b"\n")

        def run() -> None:
            try:
                problems = [str(p) for p in verify(Bundle.open(bundle.path)).problems]
            except BundleInvalidError as error:
                problems = list(error.problems)
            assert any(problem.startswith(f"{name}: ") for problem in problems)

        in_a_small_child(160, run)


class TestBombs:
    """Memory and time stay bounded by what the reader declared, not by what the file does."""

    def test_a_gigabyte_of_zeros_in_a_small_file(self, bundle: Bundle) -> None:
        writer = ResultWriter(bundle, 0, "a", header={})
        frame = compressor(3).compress(bytes(2**24))
        with writer.path.open("ab") as file:
            file.write(frame * 64)

        census = verify(bundle)

        assert writer.path.stat().st_size < 100_000
        assert census.counts["corrupt"] == 64
        assert {p.rule for p in census.problems} == {"frame-limit"}

    def test_a_million_empty_frames(self, bundle: Bundle) -> None:
        writer = ResultWriter(bundle, 0, "a", header={})
        with writer.path.open("ab") as file:
            file.write(compressor(3).compress(b"") * 10**6)

        census = verify(bundle)

        assert census.counts["corrupt"] == len(census.problems) == 1001
        assert census.counts["ok"] == 0
        said = "results/00000/a.jsonl.zst: flood: 1000 problems; the rest of the file is not read"
        assert str(census.problems[-1]) == said

    @pytest.mark.parametrize(
        ("line", "problems"), [(b"", 1001), (b"{}", 1001), (b"1", 1001), (b"\xff", 1001)]
    )
    def test_half_a_million_lines_in_forty_bytes(
        self, bundle: Bundle, line: bytes, problems: int
    ) -> None:
        writer = ResultWriter(bundle, 0, "a", header={})
        content = (line + b"\n") * (2**19 // (len(line) + 1))
        with writer.path.open("ab") as file:
            file.write(compressor(3).compress(content))

        census = verify(bundle)

        assert writer.path.stat().st_size < 1000
        assert len(census.problems) <= problems
        assert {p.rule for p in census.problems} <= {"json", "schema", "flood"}
        assert census.refused

    def test_the_same_record_without_end(self, bundle: Bundle, kit: "Kit") -> None:
        digest = bundle.item_digests(0)[:32].hex()
        record = {"item_sha256": digest, "record": kit.answer(), "seq": 0, "status": "ok"}
        writer = ResultWriter(bundle, 0, "a", header={})
        frame = compressor(3).compress((canonical_json(record) + b"\n") * 1000)
        with writer.path.open("ab") as file:
            file.write(frame * 100)

        census = verify(bundle)

        assert [p.rule for p in census.problems] == ["flood"]
        assert census.counts["duplicate"] == 999

    def test_a_manifest_that_claims_a_billion_items(self, bundle: Bundle) -> None:
        path = bundle.path / "data/manifest.json"
        value = json.loads(path.read_bytes())
        value["groups"][0]["shards"][2]["items"] = 10**9
        value["totals"]["items"] = 10**9 + 8
        path.write_bytes(canonical_json(value) + b"\n")

        census = verify(Bundle.open(bundle.path))

        assert census.refused
        assert any(p.path == "data/items/00002.ids" for p in census.problems)

    def test_a_bundle_with_a_line_of_ten_megabytes_is_only_long(
        self, tmp_path: Path, kit: "Kit"
    ) -> None:
        noise = "".join(hashlib.sha256(b"%d" % n).hexdigest() for n in range(160_000))
        bundle = kit.bundle(tmp_path / "b", items=1)
        kit.work(bundle, 0, "a", {0: kit.answer(noise)})

        assert verify(bundle).complete
        assert read(bundle)[0]["text"] == noise
