"""Every record is counted as what it is, and no decision depends on the order of files."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from themis_bundles import Bundle, BundleInvalidError, ResultWriter, canonical_json, chosen, verify
from themis_bundles.frames import compressor

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

Change = Callable[[dict[str, Any]], object]


def verdicts(bundle: Bundle) -> list[str]:
    return [found.verdict for shard in bundle.shards for found in chosen(bundle, shard.index)]


def raw_record(
    bundle: Bundle, seq: int, record: dict[str, Any], changes: dict[str, Any] | None = None
) -> dict[str, Any]:
    shard = next(s for s in bundle.shards if seq < s.first_seq + s.items)
    digest = bundle.item_digests(shard.index).hex()[64 * (seq - shard.first_seq) :][:64]
    return {"item_sha256": digest, "record": record, "seq": seq, "status": "ok", **(changes or {})}


def append_raw(path: Path, *lines: bytes) -> None:
    """Forge a frame at the end of a result file that has no footer."""
    with path.open("ab") as file:
        file.write(compressor(3).compress(b"".join(line + b"\n" for line in lines)))


@pytest.fixture
def open_attempt(bundle: Bundle) -> Path:
    """A result file of shard 0 with a header only, as a killed attempt leaves it."""
    writer = ResultWriter(bundle, 0, "open", header={})
    return writer.path


def test_a_fresh_bundle_is_sound_and_incomplete(bundle: Bundle) -> None:
    census = verify(bundle)

    assert (census.complete, census.refused, census.problems) == (False, False, ())
    assert census.counts["missing"] == census.items == 10


def test_a_complete_bundle_is_complete(bundle: Bundle, kit: "Kit") -> None:
    kit.work_all(bundle)

    for quick in (False, True):
        census = verify(bundle, quick=quick, require_results=True)
        assert (census.complete, census.refused, census.problems) == (True, False, ())
        assert census.counts["ok"] == 10
        assert census.shards[2]["ok"] == 2
        assert json.loads(json.dumps(census.to_dict()))["complete"]


def test_missing_results_are_a_problem_when_they_are_required(bundle: Bundle, kit: "Kit") -> None:
    kit.work_all(bundle, [0, 2])

    census = verify(bundle, require_results=True)

    assert [str(p) for p in census.problems] == [
        "results/00001: no-results: no attempt gave results"
    ]
    assert census.refused


def test_each_item_has_one_verdict(bundle: Bundle, kit: "Kit") -> None:
    kit.work(bundle, 0, "a", {0: kit.answer(), 1: kit.failure("model"), 2: kit.failure("infra")})
    kit.work(bundle, 1, "a", {4: kit.answer("4"), 5: kit.failure("infra")})
    kit.work(bundle, 1, "b", {4: kit.answer("5"), 5: kit.answer(), 6: kit.answer()})
    kit.work(bundle, 1, "c", {6: kit.answer(latency_ms=1.0)})

    census = verify(bundle)

    assert {key: count for key, count in census.counts.items() if count} == {
        "ok": 3,
        "model_error": 1,
        "infra_error": 1,
        "missing": 4,
        "conflict": 1,
        "duplicate": 1,
        "superseded": 1,
    }
    assert census.refused
    assert verdicts(bundle) == [
        *("ok", "model_error", "infra_error", "missing"),
        *("conflict", "ok", "ok", "missing"),
        *("missing", "missing"),
    ]


def test_the_choice_depends_on_no_order(tmp_path: Path, kit: "Kit") -> None:
    """Attempts are written in every order, with every name; the same records are chosen."""
    records = [
        {0: kit.failure("infra"), 1: kit.answer("1"), 2: kit.answer("2"), 3: kit.failure("model")},
        {0: kit.answer("0"), 1: kit.answer("1", latency_ms=9.0), 3: kit.failure("infra")},
        {0: kit.failure("model"), 2: kit.answer("x")},
    ]
    outcomes = set()
    for number, order in enumerate(itertools.permutations(range(3))):
        bundle = kit.bundle(tmp_path / str(number), items=4)
        for name, index in zip("abc", order, strict=True):
            kit.work(bundle, 0, name, records[index])
        outcomes.add(
            tuple((c.verdict, c.record and c.record.record.get("text")) for c in chosen(bundle, 0))
        )

    assert outcomes == {(("ok", "0"), ("ok", "1"), ("conflict", None), ("model_error", None))}


@pytest.mark.parametrize("clocks", [(0.0, 4e9), (4e9, 0.0), (1.0, 1.0)])
def test_no_answer_depends_on_a_clock(
    bundle: Bundle, kit: "Kit", monkeypatch: pytest.MonkeyPatch, clocks: tuple[float, float]
) -> None:
    attempts = (
        {0: kit.failure("model"), 1: kit.answer("1", latency_ms=1.0), 2: kit.answer("x")},
        {0: kit.answer("0"), 1: kit.answer("1", latency_ms=2.0), 2: kit.answer("y")},
    )
    for name, records, clock in zip("ab", attempts, clocks, strict=True):
        monkeypatch.setattr("time.time", lambda clock=clock: clock)
        kit.work(bundle, 0, name, records)

    found = [(c.verdict, c.record and c.record.record["text"]) for c in chosen(bundle, 0)]

    assert found == [("ok", "0"), ("ok", "1"), ("conflict", None), ("missing", None)]


class TestConflict:
    """Answers that differ are a person's to decide."""

    def test_none_is_chosen_unless_the_first_is_asked_for(self, bundle: Bundle, kit: "Kit") -> None:
        kit.work(bundle, 0, "z", {0: kit.answer("first")})
        kit.work(bundle, 0, "a", {0: kit.answer("second")})

        refused = next(chosen(bundle, 0))
        first = next(chosen(bundle, 0, resolve="first"))

        assert (refused.verdict, refused.record) == ("conflict", None)
        assert first.verdict == "conflict"
        assert first.record is not None
        assert (first.record.attempt, first.record.record["text"]) == ("z", "first")

    def test_how_long_an_answer_took_is_no_difference(self, bundle: Bundle, kit: "Kit") -> None:
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "cached_tokens": 8}
        kit.work(bundle, 0, "a", {0: kit.answer("x", latency_ms=1.0)})
        kit.work(bundle, 0, "b", {0: kit.answer("x", latency_ms=2.0, usage=usage)})

        census = verify(bundle)

        assert (census.counts["ok"], census.counts["duplicate"], census.refused) == (1, 1, False)


def test_a_chosen_record_comes_with_its_item_and_its_bytes(bundle: Bundle, kit: "Kit") -> None:
    kit.work_all(bundle)

    found = [c for shard in bundle.shards for c in chosen(bundle, shard.index)]

    assert [c.item.seq for c in found] == list(range(10))
    for c in found:
        assert c.record is not None
        assert c.record.record["text"] == str(c.item.seq)
        assert json.loads(c.record.line)["item_sha256"] == c.item.sha256 == c.record.item_sha256
        assert c.record.attempt.startswith("first-")


@pytest.mark.parametrize(
    ("changes", "kind", "rule"),
    [
        ({"seq": 4}, "foreign", "foreign"),
        ({"seq": 10**9}, "foreign", "foreign"),
        ({"seq": 1}, "mismatched", "mismatched"),
        ({"item_sha256": "0" * 64}, "mismatched", "mismatched"),
        ({"seq": -1}, "corrupt", "schema"),
        ({"seq": "0"}, "corrupt", "schema"),
        ({"seq": True}, "corrupt", "schema"),
        ({"status": "maybe"}, "corrupt", "schema"),
        ({"status": "error"}, "corrupt", "schema"),
        ({"extra": 1}, "corrupt", "schema"),
        ({"record": {"text": "x"}}, "corrupt", "schema"),
        ({"record": []}, "corrupt", "schema"),
    ],
)
def test_a_forged_record_is_refused_with_its_place(
    bundle: Bundle, kit: "Kit", open_attempt: Path, changes: dict[str, Any], kind: str, rule: str
) -> None:
    good = canonical_json(raw_record(bundle, 2, kit.answer()))
    bad = canonical_json(raw_record(bundle, 0, kit.answer(), changes))
    append_raw(open_attempt, good, bad)

    census = verify(bundle)

    assert census.refused
    assert census.counts[kind] == 1
    assert census.counts["ok"] == 1
    (problem,) = census.problems
    assert (problem.path, problem.frame, problem.line) == ("results/00000/open.jsonl.zst", 1, 2)
    assert problem.rule == rule


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"7",
        b"not json",
        b"[" * 5000,
        b'{"seq":1e400}',
        b'{"seq":NaN}',
        b'{"seq":"\\ud800"}',
        b'{"footer":{}}x',
        b'{"header":{}}',
        b"\x00",
        b'{"a":' * 70 + b"1" + b"}" * 70,
        b"x" * 10_000_000,
    ],
    ids=lambda line: str(line[:16]),
)
def test_a_hostile_line_is_corrupt_and_nothing_else(
    bundle: Bundle, open_attempt: Path, line: bytes
) -> None:
    append_raw(open_attempt, line, b"{}")

    census = verify(bundle)

    assert census.counts["corrupt"] in (1, 2)
    assert census.counts["ok"] == 0
    assert census.problems[0].path == "results/00000/open.jsonl.zst"


def test_a_duplicate_key_in_a_record_is_corrupt(
    bundle: Bundle, kit: "Kit", open_attempt: Path
) -> None:
    line = canonical_json(raw_record(bundle, 0, kit.answer("4")))
    append_raw(open_attempt, line.replace(b'"text":"4"', b'"text":"5","text":"4"'))

    (problem,) = verify(bundle).problems

    assert (problem.rule, problem.message) == ("json", "the key 'text' appears twice")


class TestFiles:
    """Files that are moved, changed or invented are refused by name."""

    def test_every_byte_of_a_finished_result_file_matters(self, bundle: Bundle, kit: "Kit") -> None:
        path = kit.work(bundle, 2, "a")
        good = path.read_bytes()

        for place in range(len(good)):
            path.write_bytes(good[:place] + bytes([good[place] ^ 0x41]) + good[place + 1 :])
            for quick in (True, False):
                census = verify(bundle, quick=quick)
                assert census.refused
                assert any("00002" in problem.path for problem in census.problems)

    def test_a_finished_result_file_cut_anywhere_is_refused(
        self, bundle: Bundle, kit: "Kit"
    ) -> None:
        path = kit.work(bundle, 2, "a")
        good = path.read_bytes()

        for cut in range(len(good)):
            path.write_bytes(good[:cut])
            census = verify(bundle)
            assert census.refused
            assert census.counts["ok"] in (0, 2)

    def test_an_unfinished_result_file_cut_anywhere_gives_its_whole_frames(
        self, bundle: Bundle, kit: "Kit"
    ) -> None:
        writer = ResultWriter(bundle, 0, "a", header={}, flush_records=1)
        ends = [writer.path.stat().st_size]
        for seq in range(3):
            kit.append(writer, bundle, {seq: kit.answer()})
            ends.append(writer.path.stat().st_size)
        good = writer.path.read_bytes()

        for cut in range(len(good)):
            writer.path.write_bytes(good[:cut])
            census = verify(bundle)

            assert not census.refused
            assert census.counts["ok"] == max(0, sum(end <= cut for end in ends) - 1)
            assert [p.rule for p in census.problems] == ([] if cut in ends else ["torn-tail"])

    @pytest.mark.parametrize("what", ["shard", "attempt", "bundle"])
    def test_a_file_in_the_wrong_place_is_foreign(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit", what: str
    ) -> None:
        source = bundle if what != "bundle" else kit.bundle(tmp_path / "other", items=9)
        path = kit.work(source, 0, "a")
        folder, name = ("00001", "a") if what == "shard" else ("00000", "a")
        target = bundle.results_dir / folder / f"{'b' if what == 'attempt' else name}.jsonl.zst"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())

        census = verify(bundle)

        assert census.counts["foreign"] > 0
        assert census.refused
        problem = next(p for p in census.problems if p.kind == "foreign")
        assert problem.message.startswith(f"the header says {what} ")

    @pytest.mark.parametrize("name", ["done.json", "a.json"])
    def test_every_byte_of_a_receipt_matters(self, bundle: Bundle, kit: "Kit", name: str) -> None:
        path = kit.work(bundle, 2, "a").with_name(name)
        good = path.read_bytes()
        digest = good.index(b'"sha256":"') + 12

        for place in (0, 5, digest, len(good) - 1):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            census = verify(bundle)
            assert census.refused
            assert census.problems[0].path == f"results/00002/{name}"

    def test_a_receipt_for_a_file_that_is_gone_is_refused(self, bundle: Bundle, kit: "Kit") -> None:
        kit.work(bundle, 2, "a").unlink()

        for quick in (True, False):
            census = verify(bundle, quick=quick)
            assert census.refused
            assert not census.complete

    @pytest.mark.parametrize("kind", ["link", "folder", "shard link"])
    def test_links_are_not_followed(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit", kind: str
    ) -> None:
        path = kit.work(bundle, 0, "a")
        if kind == "shard link":
            aside = path.parent.rename(tmp_path / "aside")
            path.parent.symlink_to(aside)
        else:
            aside = path.rename(tmp_path / "aside")
            path.mkdir() if kind == "folder" else path.symlink_to(aside)

        for quick in (True, False):
            census = verify(bundle, quick=quick)
            assert census.refused
            assert quick or census.counts["ok"] == 0

    def test_what_does_not_belong_is_named(self, bundle: Bundle, kit: "Kit") -> None:
        kit.work_all(bundle)
        (bundle.path / "fetch.txt").write_text("http://example.org - data/x\n")
        (bundle.path / "data/items/extra").write_text("x")
        (bundle.path / "results/99999").mkdir()
        (bundle.path / "results/00000/notes.txt").write_text("x")
        (bundle.path / "results/00000/.a.json.0123.tmp").write_text("x")

        census = verify(bundle)

        assert [(p.path, p.kind) for p in census.problems] == [
            ("fetch.txt", "corrupt"),
            ("data/items/extra", "corrupt"),
            ("results/00000/notes.txt", "note"),
            ("results/99999", "foreign"),
        ]

    @pytest.mark.parametrize(
        "name",
        [
            "bagit.txt",
            "bag-info.txt",
            "manifest-sha256.txt",
            "tagmanifest-sha256.txt",
            "data/components.jsonl.zst",
            "data/items/00001.jsonl.zst",
            "data/items/00001.ids",
        ],
    )
    def test_every_file_of_the_bag_matters(self, bundle: Bundle, name: str) -> None:
        path = bundle.path / name
        good = path.read_bytes()
        damages = (good[:-1], good[:9] + bytes([good[9] ^ 1]) + good[10:], good + good, b"", None)
        for data in damages:
            path.unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)

            for quick in (True, False):
                census = verify(bundle, quick=quick)
                assert census.refused
                assert name in {problem.path for problem in census.problems}

    def test_a_record_that_changes_while_it_is_read_is_refused(
        self, bundle: Bundle, kit: "Kit", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("themis_bundles.scan._CACHE", 0)
        path = kit.work(bundle, 0, "a", flush_records=1)
        found = chosen(bundle, 0)
        next(found)
        data = path.read_bytes()
        path.write_bytes(data[:-200] + bytes(200))

        with pytest.raises(BundleInvalidError, match="changed: "):
            list(found)


def test_a_damaged_frame_costs_only_itself(bundle: Bundle, kit: "Kit") -> None:
    with ResultWriter(bundle, 0, "a", header={}, flush_records=1) as writer:
        kit.append(writer, bundle, {0: kit.answer()})
        place = writer.path.stat().st_size + 30
        kit.append(writer, bundle, {seq: kit.answer() for seq in range(1, 4)})
    data = bytearray(writer.path.read_bytes())
    data[place] ^= 0xFF
    writer.path.write_bytes(data)

    census = verify(bundle)

    assert verdicts(bundle)[:4] == ["ok", "missing", "ok", "ok"]
    assert census.refused
    assert (census.problems[0].path, census.problems[0].frame) == ("results/00000/a.jsonl.zst", 2)
