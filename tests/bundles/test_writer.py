"""A bundle appears whole or not at all, and the same plan gives the same bytes."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from themis_bundles import (
    Bundle,
    BundleExistsError,
    BundleWriter,
    CanonicalError,
    GroupSpec,
    canonical_json,
)

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

SCRIPT = """
import sys
from themis_bundles import BundleInfo, BundleWriter, GroupSpec
info = BundleInfo("generation", "run", {"benchmark": "b", "project": "p"}, "2026-01-02",
                  (("exact", "1"),))
with BundleWriter(sys.argv[1], info, shard_items=3) as writer:
    body = {key: key for key in set("abcdefgh")}
    model = writer.component("model", body)
    writer.start_group(GroupSpec(model, "demo", "echo", {"context": 8, **body}))
    for number in range(8):
        writer.add({**body, "number": number}, prompt_tokens=1, max_new_tokens=2)
"""


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_same_plan_gives_the_same_bytes_under_any_hash_seed(tmp_path: Path) -> None:
    for seed in ("0", "1", "2"):
        subprocess.run(
            [sys.executable, "-c", SCRIPT, tmp_path / seed],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )

    first = content(tmp_path / "0")
    assert len(first) == 4 + 2 + 2 * 3
    assert content(tmp_path / "1") == first
    assert content(tmp_path / "2") == first


def test_a_line_holds_the_item_with_its_number_and_its_digest_is_returned(
    tmp_path: Path, kit: "Kit"
) -> None:
    with BundleWriter(tmp_path / "b", kit.info) as writer:
        writer.start_group(GroupSpec(writer.component("model", {}), "demo", "echo"))
        digests = [writer.add({"n": n}, prompt_tokens=1, max_new_tokens=1) for n in range(3)]

    items = list(Bundle.open(tmp_path / "b").iter_items(0))

    assert [item.line for item in items] == [b'{"n":%d,"seq":%d}' % (n, n) for n in range(3)]
    assert [item.sha256 for item in items] == digests
    assert digests[1] == hashlib.sha256(b'{"n":1,"seq":1}').hexdigest()
    ids = (tmp_path / "b/data/items/00000.ids").read_bytes()
    assert ids == b"".join(bytes.fromhex(digest) for digest in digests)


def test_serialised_items_give_the_bundle_of_their_values(tmp_path: Path, kit: "Kit") -> None:
    items = [{"id": "é\n", "n": [n, {"a": None, "b": n / 4}]} for n in range(7)]
    for name in ("values", "bytes"):
        with BundleWriter(tmp_path / name, kit.info, shard_items=3) as writer:
            writer.start_group(GroupSpec(writer.component("model", {}), "demo", "echo"))
            for item in items:
                if name == "values":
                    writer.add(item, prompt_tokens=2, max_new_tokens=1)
                else:
                    writer.add_canonical(canonical_json(item), 2, 1)

    assert content(tmp_path / "bytes") == content(tmp_path / "values")


def test_a_run_can_be_named_at_the_end_and_must_be(tmp_path: Path, kit: "Kit") -> None:
    nameless = dataclasses.replace(kit.info, run_id=None)
    with BundleWriter(tmp_path / "b", nameless) as writer:
        writer.name_run(kit.info.run_id or "")
    with BundleWriter(tmp_path / "same", kit.info):
        pass

    assert content(tmp_path / "b") == content(tmp_path / "same")
    with pytest.raises(ValueError, match="name_run"), BundleWriter(tmp_path / "never", nameless):
        pass
    assert not (tmp_path / "never").exists()


def test_a_component_is_stored_once_and_kinds_are_kept_apart(tmp_path: Path, kit: "Kit") -> None:
    with BundleWriter(tmp_path / "b", kit.info) as writer:
        found = [
            writer.component("model", {"a": 1, "b": 2}),
            writer.component("params", {"a": 1, "b": 2}),
            writer.component("model", {"b": 2, "a": 1}),
            writer.component("model", {}),
        ]

    components = Bundle.open(tmp_path / "b").components()

    assert found == [0, 1, 0, 2]
    assert [(c.index, c.kind, c.body) for c in components] == [
        (0, "model", {"a": 1, "b": 2}),
        (1, "params", {"a": 1, "b": 2}),
        (2, "model", {}),
    ]
    assert components[0].sha256 == hashlib.sha256(canonical_json({"a": 1, "b": 2})).hexdigest()


def test_a_new_group_starts_a_new_shard_and_an_old_one_can_be_taken_up(
    tmp_path: Path, kit: "Kit"
) -> None:
    with BundleWriter(tmp_path / "b", kit.info, shard_items=2) as writer:
        specs = [GroupSpec(writer.component("model", {"n": n}), "demo", f"m{n}") for n in range(3)]
        for number in (0, 0, 0, 1, 1, 0, 1):
            writer.start_group(specs[number])
            writer.add({"of": number}, prompt_tokens=number, max_new_tokens=1)
        writer.start_group(specs[2])

    bundle = Bundle.open(tmp_path / "b")
    groups = [[s.index for s in group.shards] for group in bundle.manifest.groups]
    assert groups == [[0, 1, 3], [2, 4]]
    assert [bundle.group_of(i).model_id for i in range(5)] == ["m0", "m0", "m1", "m0", "m1"]
    assert [s.items for s in bundle.shards] == [2, 1, 2, 1, 1]
    assert [s.first_seq for s in bundle.shards] == [0, 2, 3, 5, 6]
    assert [i.body["of"] for s in range(5) for i in bundle.iter_items(s)] == [0, 0, 0, 1, 1, 0, 1]
    assert bundle.manifest.totals.cost.prompt_tokens == 3


@pytest.mark.parametrize(
    ("seconds", "rate", "sizes"),
    [
        (10.0, 3.0, [3, 3, 2]),
        (1.0, 5.0, [1] * 8),
        (6.0, lambda prompt, _: float(prompt), [4, 1, 1, 1, 1]),
    ],
    ids=["by number", "never empty", "by tokens"],
)
def test_shards_can_be_cut_by_expected_seconds(
    tmp_path: Path, kit: "Kit", seconds: float, rate: float, sizes: list[int]
) -> None:
    with BundleWriter(
        tmp_path / "b", kit.info, shard_seconds=seconds, seconds_per_item=rate
    ) as writer:
        writer.start_group(GroupSpec(writer.component("model", {}), "demo", "echo"))
        for number in range(8):
            writer.add({}, prompt_tokens=number, max_new_tokens=1)

    assert [s.items for s in Bundle.open(tmp_path / "b").shards] == sizes


def test_the_plan_digest_does_not_depend_on_sharding_or_compression(
    tmp_path: Path, kit: "Kit"
) -> None:
    one = kit.bundle(tmp_path / "1", shard_items=3)
    two = kit.bundle(tmp_path / "2", shard_items=100, level=9)
    other = kit.bundle(tmp_path / "3", items=9)

    assert one.manifest.plan_digest == two.manifest.plan_digest
    assert one.digest != two.digest
    assert other.manifest.plan_digest != one.manifest.plan_digest


def test_the_identity_is_the_digest_of_the_manifest_file(tmp_path: Path, kit: "Kit") -> None:
    with BundleWriter(tmp_path / "b", kit.info) as writer:
        kit.fill(writer)

    data = (tmp_path / "b/data/manifest.json").read_bytes()
    assert writer.digest == hashlib.sha256(data).hexdigest() == Bundle.open(tmp_path / "b").digest
    assert canonical_json(json.loads(data)) + b"\n" == data
    assert writer.manifest == Bundle.open(tmp_path / "b").manifest


def test_a_bundle_without_items_is_a_bundle(tmp_path: Path, kit: "Kit") -> None:
    bundle = kit.bundle(tmp_path / "b", models=0)

    assert bundle.shards == ()
    assert bundle.components() == ()


def test_frames_are_cut_by_size_as_well_as_by_number(tmp_path: Path, kit: "Kit") -> None:
    noise = "".join(hashlib.sha256(b"%d" % n).hexdigest() for n in range(6000))
    with BundleWriter(tmp_path / "b", kit.info, shard_items=2000) as writer:
        writer.start_group(GroupSpec(writer.component("model", {}), "demo", "echo"))
        for size in (10, 300_000, 300_000, 300_000, 300_000, 10):
            writer.add({"text": noise[:size]}, prompt_tokens=1, max_new_tokens=1)
        for _ in range(1100):
            writer.add({}, prompt_tokens=1, max_new_tokens=1)

    entry = Bundle.open(tmp_path / "b").manifest.groups[0].shards[0]
    assert entry.frames == 1 + 1 + 2
    assert len(list(Bundle.open(tmp_path / "b").iter_items(0))) == 1106


class TestNothingHalf:
    """A path holds a whole bundle or what it held before."""

    @pytest.mark.parametrize("kind", ["folder", "file", "link"])
    def test_what_exists_is_never_overwritten(self, tmp_path: Path, kit: "Kit", kind: str) -> None:
        target = tmp_path / "b"
        if kind == "folder":
            target.mkdir()
            (target / "mine").write_text("precious")
        elif kind == "file":
            target.write_text("precious")
        else:
            target.symlink_to(tmp_path)

        with pytest.raises(BundleExistsError, match=r"b exists and is not empty"):
            kit.bundle(target)

        assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]

    def test_an_empty_folder_becomes_the_bundle(self, tmp_path: Path, kit: "Kit") -> None:
        (tmp_path / "b").mkdir()

        assert kit.bundle(tmp_path / "b").manifest.totals.items == 10

    def test_of_two_writers_one_wins_and_the_other_says_so(
        self, tmp_path: Path, kit: "Kit"
    ) -> None:
        with BundleWriter(tmp_path / "b", kit.info) as first:
            kit.fill(first, items=3)
            second = BundleWriter(tmp_path / "b", kit.info)
            kit.fill(second, items=4)

        with pytest.raises(BundleExistsError):
            second.__exit__(None, None, None)

        assert Bundle.open(tmp_path / "b").digest == first.digest
        assert [path.name for path in tmp_path.iterdir()] == ["b"]

    def test_an_error_leaves_nothing(self, tmp_path: Path, kit: "Kit") -> None:
        with (  # noqa: PT012
            pytest.raises(CanonicalError, match="lone surrogate"),
            BundleWriter(tmp_path / "b", kit.info) as writer,
        ):
            kit.fill(writer)
            writer.add({"text": "\ud800"}, prompt_tokens=1, max_new_tokens=1)

        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_there_before_the_block_ends(self, tmp_path: Path, kit: "Kit") -> None:
        with BundleWriter(tmp_path / "b", kit.info) as writer:
            kit.fill(writer)

            assert not (tmp_path / "b").exists()
            with pytest.raises(ValueError, match="published"):
                _ = writer.manifest


class TestRefused:
    """What cannot be read back is not written."""

    def test_a_line_beyond_the_limit(self, tmp_path: Path, kit: "Kit") -> None:
        with BundleWriter(tmp_path / "b", kit.info, line_limit=2000) as writer:
            kit.fill(writer, items=1)
            with pytest.raises(CanonicalError, match="item 1: a line of 2021 bytes"):
                writer.add({"t": "x" * 2005}, prompt_tokens=1, max_new_tokens=1)
            with pytest.raises(CanonicalError, match="component 4: a line of"):
                writer.component("model", {"t": "x" * 2005})

        assert Bundle.open(tmp_path / "b").manifest.totals.items == 1

    def test_a_line_that_readers_take_for_a_bomb(self, tmp_path: Path, kit: "Kit") -> None:
        with (  # noqa: PT012
            pytest.raises(CanonicalError, match="decompression bomb"),
            BundleWriter(tmp_path / "b", kit.info) as writer,
        ):
            kit.fill(writer, items=1)
            writer.add({"t": "x" * 2**23}, prompt_tokens=1, max_new_tokens=1)

        assert list(tmp_path.iterdir()) == []

    def test_an_item_before_any_group(self, tmp_path: Path, kit: "Kit") -> None:
        with (
            pytest.raises(ValueError, match="start_group"),
            BundleWriter(tmp_path / "b", kit.info) as writer,
        ):
            writer.add({}, prompt_tokens=1, max_new_tokens=1)

    @pytest.mark.parametrize(
        "options",
        [
            {"shard_items": 0},
            {"shard_seconds": 5.0},
            {"seconds_per_item": 5.0},
            {"shard_seconds": 0.0, "seconds_per_item": 1.0},
        ],
    )
    def test_sizes_that_make_no_sense(
        self, tmp_path: Path, kit: "Kit", options: dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError, match=r"shard|belong"):
            kit.bundle(tmp_path / "b", **options)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=40), max_size=4), max_size=30),
    st.integers(1, 40),
)
def test_whatever_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    kit: "Kit",
    items: list[dict[str, str]],
    shard_items: int,
) -> None:
    path = tmp_path_factory.mktemp("any") / "b"
    items = [{k: v for k, v in item.items() if k != "seq"} for item in items]
    with BundleWriter(path, kit.info, shard_items=shard_items) as writer:
        writer.start_group(GroupSpec(writer.component("model", {}), "demo", "echo"))
        for item in items:
            writer.add(item, prompt_tokens=1, max_new_tokens=1)

    bundle = Bundle.open(path)
    found = [i.body for s in bundle.shards for i in bundle.iter_items(s.index)]

    assert found == [{**item, "seq": seq} for seq, item in enumerate(items)]
    assert all(s.items <= shard_items for s in bundle.shards)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"date": "today"}, "date"),
        ({"stage": "cooking"}, "stage"),
        ({"run_id": ""}, "run_id"),
        ({"created_for": {"project": "p"}}, "benchmark"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_written(
    tmp_path: Path, kit: "Kit", change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        BundleWriter(tmp_path / "b", dataclasses.replace(kit.info, **change))

    assert list(tmp_path.iterdir()) == []
