"""Opening and reading trusts nothing: every refusal names the file and the rule."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from themis_bundles import Bundle, BundleInvalidError, canonical_json

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = orjson.loads(path.read_bytes())
    change(value)
    path.write_bytes(canonical_json(value) + b"\n")


def refusal(path: Path) -> tuple[str, ...]:
    with pytest.raises(BundleInvalidError) as caught:
        Bundle.open(path)
    assert str(path) in str(caught.value)
    return caught.value.problems


def shard(value: dict[str, Any], index: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = value["groups"][0]["shards"][index]
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(format="zip"), "schema: format:"),
        (lambda m: m.update(version="2.0"), "schema: version:"),
        (lambda m: m.update(surprise=1), "schema: surprise:"),
        (lambda m: m.pop("run_id"), "schema: run_id:"),
        (lambda m: m.update(line_limit=2**40), "schema: line_limit:"),
        (lambda m: m.update(date="yesterday"), "schema: date:"),
        (lambda m: m.update(plan_digest="A" * 64), "schema: plan_digest:"),
        (lambda m: m.update(plan_digest="a" * 64 + "\n"), "schema: plan_digest:"),
        (lambda m: m["components"].update(path="../../etc/passwd"), "schema: components.path:"),
        (lambda m: shard(m).update(path="../../etc/passwd"), "contradiction: shard 0: path must"),
        (lambda m: shard(m).update(path="/etc/passwd"), "contradiction: shard 0: path must"),
        (lambda m: shard(m, 1).update(index=0), "contradiction: shard 0: shards must be numbered"),
        (lambda m: shard(m, 1).update(first_seq=5), "contradiction: shard 1: first_seq is 5"),
        (lambda m: shard(m, 1).update(items=5), "contradiction: shard 2: first_seq is 8"),
        (lambda m: shard(m, 1).update(items=True), "schema: groups.0.shards.1.items:"),
        (lambda m: shard(m, 1).update(items=4.0), "schema: groups.0.shards.1.items:"),
        (lambda m: shard(m, 1).update(frames=9), "contradiction: shard 1: 9 frames"),
        (lambda m: m["totals"].update(items=11), "contradiction: totals:"),
        (lambda m: m["groups"][0].update(model=99), "contradiction: groups.0.model:"),
    ],
)
def test_a_wrong_manifest_is_refused_by_field(
    bundle: Bundle, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit(bundle.path / "data/manifest.json", change)

    problems = refusal(bundle.path)

    assert any(problem.startswith(f"data/manifest.json: {words}") for problem in problems), problems


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1], "json: the line has no end"),
        (lambda data: b" " + data, "json: not canonical from byte 0"),
        (lambda data: data[: len(data) // 2], "json: "),
        (lambda _: b"", "json: "),
        (lambda data: data.replace(b'"format"', b'"format":"x","format"'), "json: the key"),
        (lambda _: b"[" * 100_000 + b"\n", "json: not JSON"),
        (lambda data: data.replace(b'"items":10', b'"items":1e400'), "json: "),
    ],
)
def test_a_manifest_in_another_form_is_refused(
    bundle: Bundle, change: Callable[[bytes], bytes], words: str
) -> None:
    path = bundle.path / "data/manifest.json"
    path.write_bytes(change(path.read_bytes()))

    assert refusal(bundle.path)[0].startswith(f"data/manifest.json: {words}")


@pytest.mark.parametrize("kind", ["missing", "link", "folder", "pipe", "linked folder"])
def test_a_manifest_that_is_not_a_file_is_refused(
    bundle: Bundle, kind: str, tmp_path: Path
) -> None:
    path = bundle.path / "data/manifest.json"
    aside = path.rename(tmp_path / "aside")
    if kind == "link":
        path.symlink_to(aside)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "linked folder":
        aside.rename(path)
        (bundle.path / "data").rename(tmp_path / "data")
        (bundle.path / "data").symlink_to(tmp_path / "data")

    assert refusal(bundle.path)[0].startswith("data/manifest.json: unreadable: ")


def test_a_shard_that_the_bundle_lacks_is_an_index_error(bundle: Bundle) -> None:
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"3 shards; there is no {index}"):
            bundle.group_of(index)


def test_every_byte_of_a_shard_matters(bundle: Bundle) -> None:
    path = bundle.path / "data/items/00001.jsonl.zst"
    good = path.read_bytes()
    lines = [item.line for item in bundle.iter_items(1)]

    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        read: list[bytes] = []
        with pytest.raises(BundleInvalidError, match=r"data/items/00001\.jsonl\.zst: "):
            read.extend(item.line for item in bundle.iter_items(1))
        assert read in ([], lines)


def test_a_shard_cut_or_extended_is_refused(bundle: Bundle) -> None:
    path = bundle.path / "data/items/00001.jsonl.zst"
    good = path.read_bytes()

    for data in (b"", good[:-1], good[:40], good + b"\0", good + good):
        path.write_bytes(data)
        with pytest.raises(BundleInvalidError, match=r"00001\.jsonl\.zst: size: "):
            list(bundle.iter_items(1))


def test_a_foreign_shard_is_refused_at_its_first_line(bundle: Bundle, kit: "Kit") -> None:
    folder = bundle.path / "data/items"
    same_size = (folder / "00000.jsonl.zst").read_bytes()
    (folder / "00001.jsonl.zst").write_bytes(same_size)
    fields = {"bytes": len(same_size), "sha256": bundle.shards[0].sha256}
    edit(bundle.path / "data/manifest.json", lambda m: shard(m, 1).update(fields))
    edit(
        bundle.path / "data/manifest.json",
        lambda m: m["totals"].update(bytes=sum(s["bytes"] for s in m["groups"][0]["shards"])),
    )

    with pytest.raises(BundleInvalidError, match=r"frame 0, line 1: seq: .* seq 4 was expected"):
        list(Bundle.open(bundle.path).iter_items(1))


@pytest.mark.parametrize("change", [b"", b"x" * 128, b"x" * 129, b"x" * 127])
def test_wrong_item_digests_are_refused(bundle: Bundle, change: bytes) -> None:
    (bundle.path / "data/items/00000.ids").write_bytes(change)

    with pytest.raises(BundleInvalidError, match=r"data/items/00000\.ids: "):
        bundle.item_digests(0)


def test_a_link_in_place_of_a_shard_is_not_followed(bundle: Bundle, tmp_path: Path) -> None:
    path = bundle.path / "data/items/00000.jsonl.zst"
    path.rename(tmp_path / "aside")
    path.symlink_to(tmp_path / "aside")

    with pytest.raises(BundleInvalidError, match="unreadable: a link"):
        list(bundle.iter_items(0))


def test_the_group_must_name_its_model(bundle: Bundle) -> None:
    edit(bundle.path / "data/manifest.json", lambda m: m["groups"][0].update(model=1))

    with pytest.raises(BundleInvalidError, match="group: 0: component 1 is not its model"):
        Bundle.open(bundle.path).components()


def test_errors_survive_pickling() -> None:
    import pickle

    error = BundleInvalidError(Path("b"), ("one", "two"))

    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301
