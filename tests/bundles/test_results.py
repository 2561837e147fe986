"""Whatever was flushed is kept, nothing is written twice, and attempts never share a file."""

import dataclasses
import hashlib
import json
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from themis_bundles import (
    Bundle,
    BundleExistsError,
    CanonicalError,
    RecordRefusedError,
    ResultWriter,
    finished,
    incomplete_shards,
    new_attempt_id,
    shard_state,
    verify,
)

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit


def status_of(path: Path) -> dict[str, Any]:
    name = path.name.removesuffix(".jsonl.zst") + ".json"
    value: dict[str, Any] = json.loads(path.with_name(name).read_bytes())
    return value


def test_a_worked_shard_has_three_files_and_is_done(bundle: Bundle, kit: "Kit") -> None:
    path = kit.work(bundle, 1, "a")

    assert sorted(p.name for p in path.parent.iterdir()) == ["a.json", "a.jsonl.zst", "done.json"]
    assert incomplete_shards(bundle) == (0, 2)
    state = shard_state(bundle, 1)
    assert (state.items, state.ok, state.missing, state.done) == (4, 4, 0, True)
    assert state == shard_state(bundle, 1, exact=True)
    receipt = status_of(path)
    assert (receipt["state"], receipt["outcome"], receipt["items_done"]) == ("ended", "complete", 4)
    assert receipt["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_record_is_durable_after_its_flush_and_not_before(bundle: Bundle, kit: "Kit") -> None:
    writer = ResultWriter(bundle, 0, "a", header={}, flush_records=2)

    kit.append(writer, bundle, {0: kit.answer(), 1: kit.answer(), 2: kit.answer()})

    assert writer.flushed == 2
    assert finished(bundle, 0) == {0: "ok", 1: "ok"}
    writer.flush()
    assert finished(bundle, 0) == {0: "ok", 1: "ok", 2: "ok"}
    writer.close("partial", "timeout")
    assert status_of(writer.path)["cause"] == "timeout"


def test_records_are_flushed_when_the_time_is_due(bundle: Bundle, kit: "Kit") -> None:
    with ResultWriter(bundle, 0, "a", header={}, flush_seconds=0.0) as writer:
        kit.append(writer, bundle, {0: kit.answer()})

        assert writer.flushed == 1


def test_a_second_attempt_does_what_is_missing_and_done_names_both(
    bundle: Bundle, kit: "Kit"
) -> None:
    one = kit.work(bundle, 0, "one", {1: kit.answer(), 3: kit.failure("model")})
    assert not (one.parent / "done.json").exists()
    assert shard_state(bundle, 0).missing == 2

    left = {seq: kit.answer() for seq in range(4) if seq not in finished(bundle, 0)}
    two = kit.work(bundle, 0, "two", left)

    assert sorted(left) == [0, 2]
    done = json.loads((one.parent / "done.json").read_bytes())
    assert (done["ok"], done["model_error"], done["items"]) == (3, 1, 4)
    assert [
        (entry["attempt"], entry["sha256"], entry["records"]) for entry in done["attempts"]
    ] == [
        (path.name.removesuffix(".jsonl.zst"), hashlib.sha256(path.read_bytes()).hexdigest(), 2)
        for path in (one, two)
    ]


class TestFinished:
    """A new attempt is told exactly what it need not do."""

    def test_failures_of_the_machine_are_done_again(self, bundle: Bundle, kit: "Kit") -> None:
        records = {0: kit.failure("infra"), 1: kit.failure("model"), 2: kit.answer()}
        kit.work(bundle, 0, "a", records)

        assert finished(bundle, 0) == {1: "error", 2: "ok"}
        assert not shard_state(bundle, 0).done
        assert shard_state(bundle, 0).infra_error == 1

    @pytest.mark.parametrize(
        ("retry", "left"),
        [((), {0, 1}), (("model",), set()), (("too_long",), {1}), (("other",), {0, 1})],
    )
    def test_chosen_failures_can_be_tried_again(
        self, bundle: Bundle, kit: "Kit", retry: tuple[str, ...], left: set[int]
    ) -> None:
        failures = {0: kit.failure("model", "too_long"), 1: kit.failure("model", "rejected")}
        kit.work(bundle, 0, "a", failures)

        assert set(finished(bundle, 0, retry_errors=retry)) == left

    def test_success_clears_a_failure(self, bundle: Bundle, kit: "Kit") -> None:
        kit.work(bundle, 0, "z", {0: kit.failure("model")})
        kit.work(bundle, 0, "a", {0: kit.answer()})
        kit.work(bundle, 0, "m", {0: kit.failure("infra")})

        assert finished(bundle, 0) == {0: "ok"}
        assert shard_state(bundle, 0, exact=True).model_error == 0

    def test_a_torn_tail_is_dropped_and_the_file_left_as_it_is(
        self, bundle: Bundle, kit: "Kit"
    ) -> None:
        with ResultWriter(bundle, 0, "a", header={}, flush_records=1) as writer:
            kit.append(writer, bundle, {0: kit.answer(), 1: kit.answer()})
            size = writer.path.stat().st_size
        torn = writer.path.read_bytes()[: size - 3]
        writer.path.write_bytes(torn)

        assert finished(bundle, 0) == {0: "ok"}
        kit.work(bundle, 0, "b", {1: kit.answer(), 2: kit.answer(), 3: kit.answer()})
        assert writer.path.read_bytes() == torn
        assert incomplete_shards(bundle) == (1, 2)

    def test_records_of_other_bundles_count_for_nothing(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit"
    ) -> None:
        other = kit.bundle(tmp_path / "other", items=9, shard_items=4)
        path = kit.work(other, 0, "a")
        (bundle.results_dir / "00000").mkdir(parents=True)
        (bundle.results_dir / "00000/a.jsonl.zst").write_bytes(path.read_bytes())

        assert finished(bundle, 0) == {}


class TestRefused:
    """A worker cannot write what the verifier would refuse."""

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"text": None}, r"record\.text"),
            ({"text": "\ud800"}, "lone surrogate"),
            ({"latency_ms": float("nan")}, "not a JSON number"),
            ({"usage": {"prompt_tokens": -1, "completion_tokens": 1}}, r"usage\.prompt_tokens"),
            ({"finish_reason": 3}, r"record\.finish_reason"),
            ({"prompt_sha256": "short"}, r"record\.prompt_sha256"),
            ({"logprobs": 2**60}, r"beyond 2\^53"),
            ({"text": "x" * 5000}, "longer than the limit of 4000"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_a_record_that_breaks_the_format(
        self, tmp_path: Path, kit: "Kit", change: dict[str, Any], words: str
    ) -> None:
        bundle = kit.bundle(tmp_path / "b", line_limit=4000)
        with ResultWriter(bundle, 0, "a", header={}) as writer:
            with pytest.raises(RecordRefusedError, match=f"item 3 .*{words}"):
                kit.append(writer, bundle, {3: kit.answer(**change)})
            kit.append(writer, bundle, {4: kit.answer()})

        assert finished(bundle, 0) == {4: "ok"}
        assert not verify(bundle).refused

    def test_an_error_without_a_known_kind(self, bundle: Bundle, kit: "Kit") -> None:
        with (
            ResultWriter(bundle, 0, "a", header={}) as writer,
            pytest.raises(RecordRefusedError, match=r"record\.error\.kind"),
        ):
            kit.append(writer, bundle, {0: kit.failure("gremlins")})

    def test_an_item_of_another_shard_or_content(self, bundle: Bundle, kit: "Kit") -> None:
        foreign = next(bundle.iter_items(1))
        with ResultWriter(bundle, 0, "a", header={}) as writer:
            with pytest.raises(RecordRefusedError, match="not in this shard"):
                writer.append(foreign.seq, foreign.sha256, "ok", kit.answer())
            with pytest.raises(RecordRefusedError, match="not the planned item's digest"):
                writer.append(0, foreign.sha256, "ok", kit.answer())

    def test_a_record_that_readers_take_for_a_bomb(self, bundle: Bundle, kit: "Kit") -> None:
        with (
            ResultWriter(bundle, 0, "a", header={}) as writer,
            pytest.raises(RecordRefusedError, match="decompression bomb"),
        ):
            kit.append(writer, bundle, {0: kit.answer("x" * 2**23)})

        assert not verify(bundle).refused

    @pytest.mark.parametrize("name", ["", "done", ".hidden", "a/b", "..", "a b", "é", "a" * 81])
    def test_a_name_that_cannot_be_a_file(self, bundle: Bundle, name: str) -> None:
        with pytest.raises(ValueError, match="cannot name an attempt"):
            ResultWriter(bundle, 0, name, header={})

    def test_an_attempt_that_has_a_file(self, bundle: Bundle, kit: "Kit") -> None:
        path = kit.work(bundle, 0, "a", {0: kit.answer()})
        before = path.read_bytes()

        with pytest.raises(BundleExistsError, match=r"a\.jsonl\.zst"):
            kit.work(bundle, 0, "a")

        assert path.read_bytes() == before


def test_an_evaluation_bundle_takes_evaluations_only(tmp_path: Path, kit: "Kit") -> None:
    info = dataclasses.replace(kit.info, stage="evaluation", required_plugins=(("exact", "1"),))
    bundle = kit.bundle(tmp_path / "b", info=info)
    found = {"extraction": None, "scores": [{"metric": "exact", "value": 1.0, "details": {}}]}

    with pytest.raises(RecordRefusedError, match=r"record"):
        kit.work(bundle, 0, "bad", {0: kit.answer()})
    kit.work(bundle, 0, "a", {0: found, 1: kit.failure()})

    assert finished(bundle, 0) == {0: "ok", 1: "error"}
    assert bundle.manifest.required_plugins[0].id == "exact"


def test_a_block_that_raises_keeps_what_it_had_and_says_why(bundle: Bundle, kit: "Kit") -> None:
    writer = ResultWriter(bundle, 0, "a", header={})
    with pytest.raises(KeyError), writer:  # noqa: PT012
        kit.append(writer, bundle, {0: kit.answer()})
        raise KeyError("gpu")

    assert finished(bundle, 0) == {0: "ok"}
    assert status_of(writer.path)["outcome"] == "failed"
    assert status_of(writer.path)["cause"] == "KeyError: 'gpu'"


class TestStatus:
    """The status file says how far an attempt is, without being written all the time."""

    def test_it_is_replaced_at_most_every_ten_seconds(self, bundle: Bundle, kit: "Kit") -> None:
        with ResultWriter(bundle, 0, "a", header={}, flush_records=1) as writer:
            writer.status(tokens=1)
            kit.append(writer, bundle, {0: kit.answer()})
            writer.status(tokens=2)
            assert status_of(writer.path)["items_done"] == 0
            assert status_of(writer.path)["tokens"] == 1
            writer.status(tokens=3, force=True)

            found = status_of(writer.path)

        assert (found["items_done"], found["items_total"], found["tokens"]) == (1, 4, 3)
        assert (found["state"], found["pid"]) == ("running", os.getpid())

    def test_it_counts_what_former_attempts_did(self, bundle: Bundle, kit: "Kit") -> None:
        kit.work(bundle, 0, "a", {0: kit.answer(), 1: kit.failure("infra")})
        with ResultWriter(bundle, 0, "b", header={}, flush_records=1) as writer:
            kit.append(writer, bundle, {1: kit.answer()})
            writer.status(force=True)

            state = shard_state(bundle, 0)

        assert (state.ok, state.infra_error, state.missing) == (2, 0, 2)
        assert state.attempts == ("a", "b")
        assert not state.done

    def test_what_a_caller_says_cannot_replace_the_facts(self, bundle: Bundle) -> None:
        with ResultWriter(bundle, 0, "a", header={}) as writer:
            writer.status(force=True, items_done=99, state="ended", note="hello")

            found = status_of(writer.path)

        assert (found["items_done"], found["state"], found["note"]) == (0, "running", "hello")

    def test_a_field_that_is_no_json_value_is_refused_and_forgotten(
        self, bundle: Bundle, kit: "Kit"
    ) -> None:
        with ResultWriter(bundle, 0, "a", header={}) as writer:
            with pytest.raises(CanonicalError, match="nan is not a JSON number"):
                writer.status(rate=float("nan"))
            kit.append(writer, bundle, {seq: kit.answer() for seq in range(4)})

        assert "rate" not in status_of(writer.path)
        assert shard_state(bundle, 0).done


def test_many_workers_on_one_shard_give_one_record_per_item(bundle: Bundle, kit: "Kit") -> None:
    start = threading.Barrier(8)

    def run(number: int) -> None:
        start.wait()
        kit.work(bundle, 0, f"w{number}", flush_records=1)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    census = verify(bundle)
    assert (census.counts["ok"], census.counts["duplicate"]) == (4, 28)
    assert not census.refused
    assert shard_state(bundle, 0).done
    assert not list((bundle.results_dir / "00000").glob(".*"))


def test_a_done_file_that_is_damaged_completes_nothing(bundle: Bundle, kit: "Kit") -> None:
    path = kit.work(bundle, 0, "a").with_name("done.json")
    path.write_bytes(b"{}")

    kit.work(bundle, 0, "b", {})

    assert 0 in incomplete_shards(bundle)
    assert path.read_bytes() == b"{}"
    assert any(p.path == "results/00000/done.json" for p in verify(bundle).problems)


def test_results_can_lie_elsewhere(tmp_path: Path, bundle: Bundle, kit: "Kit") -> None:
    elsewhere = Bundle.open(bundle.path, results=tmp_path / "scratch" / "results")

    path = kit.work(elsewhere, 0, "a")

    assert path.is_relative_to(tmp_path / "scratch")
    assert not bundle.results_dir.exists()
    assert incomplete_shards(elsewhere) == (1, 2)


@pytest.mark.parametrize(
    ("variables", "pattern"),
    [
        ({}, rf"local-{os.getpid()}\.[0-9a-f]{{8}}"),
        ({"SLURM_JOB_ID": "7"}, r"7_0\.r0\.[0-9a-f]{8}"),
        (
            {
                "SLURM_JOB_ID": "9",
                "SLURM_ARRAY_JOB_ID": "7",
                "SLURM_ARRAY_TASK_ID": "12",
                "SLURM_RESTART_COUNT": "2",
            },
            r"7_12\.r2\.[0-9a-f]{8}",
        ),
    ],
)
def test_an_attempt_is_named_after_its_job(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], pattern: str
) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    names = {new_attempt_id() for _ in range(100)}

    assert len(names) == 100
    assert all(re.fullmatch(pattern, name) for name in names)
