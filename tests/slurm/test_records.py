"""Submission records: written once, found again, and the measure of progress."""

from pathlib import Path
from typing import Any

import pytest

from themis.errors import StorageError
from themis_slurm.processes import this_process
from themis_slurm.records import (
    SubmissionRecord,
    create_record,
    job_name,
    read_records,
    tries_without_progress,
    update_record,
)


def record(number: int = 1, **changes: Any) -> SubmissionRecord:
    fields: dict[str, Any] = {
        "number": number,
        "kind": "slurm",
        "state": "submitted",
        "name": job_name("ab" * 32, number),
        "bundle": "ab" * 32,
        "group": 0,
        "shards": (4, 7),
        "items_done": (0, 0),
        "options": "options.json",
        "submitter": this_process(),
        "prepared": 1.0,
    }
    return SubmissionRecord(**(fields | changes))


def test_two_submitters_never_share_a_number(tmp_path: Path) -> None:
    first = create_record(tmp_path, record(1))
    second = create_record(tmp_path, record(1))

    assert (first.number, second.number) == (1, 2)
    assert read_records(tmp_path) == (first, second)


def test_an_update_replaces_the_record(tmp_path: Path) -> None:
    prepared = create_record(tmp_path, record(state="prepared"))

    update_record(tmp_path, prepared.model_copy(update={"state": "submitted", "job_id": "9"}))

    assert [(r.state, r.job_id) for r in read_records(tmp_path)] == [("submitted", "9")]


def test_a_damaged_record_is_not_ignored(tmp_path: Path) -> None:
    create_record(tmp_path, record())
    (tmp_path / "0002.json").write_text('{"number": 2')

    with pytest.raises(StorageError, match=r"0002\.json is damaged"):
        read_records(tmp_path)


def test_an_array_of_one_is_no_array() -> None:
    assert record(job_id="77").element(7) == "77_1"
    assert record(job_id="77", shards=(7,), items_done=(0,)).element(7) == "77"
    assert record(job_id=None).element(7) is None


def test_job_names_are_unique() -> None:
    assert len({job_name("ab" * 32, 1) for _ in range(100)}) == 100


class TestTriesWithoutProgress:
    """What counts is whether a submission finished something, not how many there were."""

    def test_tries_that_finished_nothing_count(self) -> None:
        tries = [record(n, items_done=(5, 0)) for n in (1, 2, 3)]

        assert tries_without_progress(tries, 4, finished=5) == 3

    def test_progress_starts_the_count_again(self) -> None:
        tries = [record(1, items_done=(0, 0)), record(2, items_done=(5, 0))]

        assert tries_without_progress(tries, 4, finished=5) == 1
        assert tries_without_progress(tries, 4, finished=6) == 0

    def test_cancelled_and_refused_submissions_were_no_tries(self) -> None:
        tries = [record(1, cancelled=(4,)), record(2, state="refused"), record(3)]

        assert tries_without_progress(tries, 4, finished=0) == 1

    def test_other_shards_do_not_matter(self) -> None:
        assert tries_without_progress([record(1)], 5, finished=0) == 0
