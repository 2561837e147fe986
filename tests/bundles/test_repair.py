"""Repair keeps every intact record, sets damaged files aside, and invents nothing."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.bundles.disks import FaultyDisk
from themis_bundles import (
    Bundle,
    BundleInvalidError,
    ResultWriter,
    canonical_json,
    chosen,
    finished,
    incomplete_shards,
    shard_state,
    verify,
)
from themis_bundles.frames import compressor
from themis_bundles.repair import repair

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

Damage = Callable[[Path], None]


def flip(place: int) -> Damage:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[place] ^= 0x55
        path.write_bytes(data)

    return damage


def cut(count: int) -> Damage:
    def damage(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-count])

    return damage


def frames_of(path: Path) -> list[int]:
    """Where the frames of a file begin."""
    data = path.read_bytes()
    return [at for at in range(len(data)) if data.startswith(b"\x28\xb5\x2f\xfd", at)]


@pytest.fixture
def done(bundle: Bundle, kit: "Kit") -> Bundle:
    """A bundle whose every shard was answered, with one frame per record."""
    for shard in bundle.shards:
        kit.work(bundle, shard.index, "a", flush_records=1)
    assert verify(bundle).complete
    return bundle


def texts(bundle: Bundle) -> dict[int, str]:
    return {
        found.item.seq: found.record.record["text"]
        for shard in bundle.shards
        for found in chosen(bundle, shard.index)
        if found.record is not None
    }


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (flip(900), 3),
        (flip(30), 4),
        (cut(1), 4),
        (cut(300), 3),
        (lambda path: path.write_bytes(path.read_bytes() + b"junk"), 4),
        (lambda path: path.write_bytes(b""), 0),
        (lambda path: path.with_suffix("").with_suffix(".json").write_bytes(b"{}"), 4),
    ],
    ids=["frame", "header", "footer", "two frames", "junk", "empty", "receipt"],
)
def test_what_is_intact_is_kept_and_the_rest_can_be_done_again(
    done: Bundle, kit: "Kit", damage: Damage, kept: int
) -> None:
    before = texts(done)
    path = done.results_dir / "00000/a.jsonl.zst"
    damage(path)
    data = path.read_bytes()
    assert verify(done).refused

    (repaired,) = repair(done)

    census = verify(done)
    assert not census.refused, census.problems
    assert [(old, count) for old, _, count in repaired.salvaged] == [("a", kept)]
    assert len(finished(done, 0)) == kept
    assert all(before[seq] == text for seq, text in texts(done).items())
    assert (done.results_dir / ".damaged/00000/a.jsonl.zst").read_bytes() == data
    assert incomplete_shards(done) == (() if kept == 4 else (0,))
    kit.work(done, 0, "b", {s: kit.answer(str(s)) for s in range(4) if s not in finished(done, 0)})
    assert texts(done) == before
    assert verify(done).complete
    assert repair(done) == ()


def test_every_damaged_attempt_of_a_shard_is_salvaged_and_sound_ones_stay(
    bundle: Bundle, kit: "Kit"
) -> None:
    for attempt, seqs in (("a", (0, 1)), ("b", (2, 3)), ("sound", (0, 2))):
        records = {seq: kit.answer(str(seq)) for seq in seqs}
        kit.work(bundle, 0, attempt, records, flush_records=1)
    folder = bundle.results_dir / "00000"
    (folder / "done.json").unlink()
    flip(frames_of(folder / "a.jsonl.zst")[2] + 30)(folder / "a.jsonl.zst")
    cut(300)(folder / "b.jsonl.zst")
    sound = (folder / "sound.jsonl.zst").read_bytes()

    (repaired,) = repair(bundle)

    assert [(old, count) for old, _, count in repaired.salvaged] == [("a", 1), ("b", 1)]
    assert (folder / "sound.jsonl.zst").read_bytes() == sound
    assert texts(bundle) == {0: "0", 2: "2"}
    assert not verify(bundle).refused
    aside = bundle.results_dir / ".damaged/00000"
    assert {p.name for p in aside.iterdir()} == {
        *("a.json", "a.jsonl.zst", "b.json", "b.jsonl.zst"),
    }


def test_every_intact_frame_around_a_damaged_one_is_kept(tmp_path: Path, kit: "Kit") -> None:
    bundle = kit.bundle(tmp_path / "b", items=5)
    path = kit.work(bundle, 0, "a", flush_records=1)
    whole = path.read_bytes()
    starts = frames_of(path)
    receipts = {file: file.read_bytes() for file in path.parent.glob("*.json")}

    for number in range(1, 6):
        shutil.rmtree(bundle.results_dir)
        path.parent.mkdir(parents=True)
        for file, data in receipts.items():
            file.write_bytes(data)
        path.write_bytes(whole)
        flip(starts[number] + 30)(path)

        repair(bundle)

        assert sorted(texts(bundle)) == [seq for seq in range(5) if seq != number - 1]
        assert not verify(bundle).refused


def test_wrong_lines_of_an_intact_frame_are_left_out_and_repeated_ones_kept_once(
    bundle: Bundle, kit: "Kit"
) -> None:
    digests = bundle.item_digests(0).hex()
    good = [
        canonical_json(
            {
                "item_sha256": digests[64 * seq :][:64],
                "record": kit.answer(str(seq)),
                "seq": seq,
                "status": "ok",
            }
        )
        for seq in range(2)
    ]
    lines = [b"{", good[0], b"[]", good[1].replace(b'"seq":1', b'"seq":9'), good[1], good[0]]
    writer = ResultWriter(bundle, 0, "a", header={})
    with writer.path.open("ab") as file:
        file.write(compressor(3).compress(b"".join(line + b"\n" for line in lines * 500)))

    (dry,) = repair(bundle, dry_run=True)
    (repaired,) = repair(bundle)

    assert dry.salvaged == (("a", "", 2),)
    assert [(old, count) for old, _, count in repaired.salvaged] == [("a", 2)]
    assert texts(bundle) == {0: "0", 1: "1"}
    assert verify(bundle).counts["duplicate"] == 0


def test_a_repair_that_is_killed_before_any_call_is_finished_by_the_next(
    tmp_path: Path, kit: "Kit", monkeypatch: pytest.MonkeyPatch
) -> None:
    source = kit.bundle(tmp_path / "source", items=4)
    kit.work(source, 0, "a", flush_records=1)
    flip(900)(source.results_dir / "00000/a.jsonl.zst")
    kept = {0, 1, 3}
    disk = FaultyDisk(monkeypatch)
    shutil.copytree(source.path, tmp_path / "undisturbed")
    undisturbed = Bundle.open(tmp_path / "undisturbed")
    calls = disk.calls_of(lambda: repair(undisturbed))
    assert set(texts(undisturbed)) == kept

    for place, (name, number) in enumerate(calls):
        shutil.copytree(source.path, tmp_path / str(place))
        bundle = Bundle.open(tmp_path / str(place))
        pid = os.fork()
        if pid == 0:
            with disk.failing(name, number, signal.SIGKILL):
                repair(bundle)
            os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])

        repair(bundle)

        assert set(texts(bundle)) == kept, (name, number)
        assert not verify(bundle).refused, (name, number)
        assert repair(bundle) == ()


def test_a_sound_bundle_is_left_alone(done: Bundle, kit: "Kit", bundle: Bundle) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.path.rglob("*")}

    assert repair(done) == ()
    assert {path: path.stat().st_mtime_ns for path in done.path.rglob("*")} == before


def test_a_torn_tail_needs_no_repair(bundle: Bundle, kit: "Kit") -> None:
    writer = ResultWriter(bundle, 0, "killed", header={}, flush_records=1)
    kit.append(writer, bundle, {0: kit.answer(), 1: kit.answer()})
    cut(4)(writer.path)

    assert repair(bundle) == ()
    assert len(finished(bundle, 0)) == 1


def test_a_dry_run_says_what_it_would_keep_and_changes_nothing(done: Bundle) -> None:
    flip(900)(done.results_dir / "00001/a.jsonl.zst")
    before = {path: path.stat().st_mtime_ns for path in done.path.rglob("*")}

    (found,) = repair(done, dry_run=True)

    assert (found.shard, found.salvaged) == (1, (("a", "", 3),))
    assert found.problems[0].path == "results/00001/a.jsonl.zst"
    assert found.moved == ("00001/a.json", "00001/a.jsonl.zst", "00001/done.json")
    assert {path: path.stat().st_mtime_ns for path in done.path.rglob("*")} == before


def test_records_of_another_bundle_are_set_aside_not_taken_over(
    tmp_path: Path, bundle: Bundle, kit: "Kit"
) -> None:
    other = kit.bundle(tmp_path / "other", items=9, shard_items=4)
    path = kit.work(other, 0, "a")
    target = bundle.results_dir / "00000/a.jsonl.zst"
    target.parent.mkdir(parents=True)
    target.write_bytes(path.read_bytes())

    (repaired,) = repair(bundle)

    assert repaired.salvaged == (("a", "", 0),)
    assert not verify(bundle).refused
    assert shard_state(bundle, 0).ok == 0


def test_conflicts_are_left_to_a_person(bundle: Bundle, kit: "Kit") -> None:
    kit.work(bundle, 0, "a", {0: kit.answer("4")})
    kit.work(bundle, 0, "b", {0: kit.answer("5")})

    assert repair(bundle) == ()
    assert verify(bundle).counts["conflict"] == 1


def test_damaged_items_cannot_be_repaired(done: Bundle) -> None:
    flip(40)(done.path / "data/items/00000.jsonl.zst")

    with pytest.raises(BundleInvalidError, match=r"data/items/00000\.jsonl\.zst"):
        repair(done)

    assert not (done.results_dir / ".damaged").exists()
