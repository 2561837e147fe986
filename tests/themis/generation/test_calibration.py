"""How fast a model answers is measured on what a shard would do, and plans can read it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from themis.cli import main
from themis.errors import EnvironmentNotReadyError, SpecValidationError
from themis.generation.calibration import calibrate, read_calibration, write_calibration
from themis.generation.worker import WorkOptions
from themis_bundles import Bundle

Write = Callable[..., Path]


def test_the_rate_is_that_of_the_engine(write_generation_bundle: Write) -> None:
    path = write_generation_bundle([f"one two q{n}" for n in range(300)], shard_items=50)

    (found,) = calibrate(path, WorkOptions(engine_options={"latency_ms": 10}), items=20)

    # Three words an answer, 10 ms each: 300 words a second.
    assert (found.items, found.failed, found.completion_tokens) == (20, 0, 60)
    assert 100 < found.tokens_per_second <= 300
    assert found.planned_per_second == pytest.approx(found.tokens_per_second * 32 / 3)
    assert found.start_seconds >= 0.01
    assert not (path / "results").exists()


def test_the_sample_is_spread_over_the_shards(
    write_generation_bundle: Write, engines: list[Any]
) -> None:
    path = write_generation_bundle([f"q{n}" for n in range(100)], shard_items=10)

    calibrate(path, WorkOptions(), items=19)

    submitted = sorted(engines[0].submitted)
    assert len(submitted) == 20
    assert {number // 10 for number in submitted} == set(range(10))
    assert engines[0].closed


@pytest.mark.parametrize("shard_items", [7, 64, 99, 512])
def test_the_sample_is_as_large_as_asked_however_shards_are_cut(
    write_generation_bundle: Write, shard_items: int
) -> None:
    path = write_generation_bundle([f"q{n}" for n in range(100)], shard_items=shard_items)

    (found,) = calibrate(path, WorkOptions(), items=70)

    assert found.items == 70


def test_more_items_than_there_are_measure_all(write_generation_bundle: Write) -> None:
    path = write_generation_bundle(["a", "b", "c"])

    (found,) = calibrate(path, WorkOptions(), items=100)

    assert found.items == 2


def test_items_that_fail_are_counted_and_none_that_is_answered_is_an_error(
    write_generation_bundle: Write, engines: list[Any]
) -> None:
    some = write_generation_bundle(["a", "reject", "b"], name="some")
    none = write_generation_bundle(["reject"] * 3, name="none")

    (found,) = calibrate(some, WorkOptions(), items=2)

    assert (found.items, found.failed) == (2, 1)
    with pytest.raises(EnvironmentNotReadyError, match="too long"):
        calibrate(none, WorkOptions(), items=2)


def test_a_model_that_the_bundle_does_not_have_is_named(write_generation_bundle: Write) -> None:
    path = write_generation_bundle(["a"])

    with pytest.raises(SpecValidationError, match="it has echo"):
        calibrate(path, WorkOptions(), items=1, model_id="other")


def test_what_was_written_is_read_again(write_generation_bundle: Write, tmp_path: Path) -> None:
    measured = calibrate(write_generation_bundle(["a", "b"]), WorkOptions(), items=1)
    file = tmp_path / "calibration.json"

    write_calibration(file, measured)

    assert read_calibration(file) == measured
    file.write_text('{"format": "other"}')
    with pytest.raises(SpecValidationError, match="no calibration"):
        read_calibration(file)


@pytest.mark.usefixtures("project")
class TestCommands:
    """`themis calibrate` writes what `plan` and `export` read."""

    @pytest.fixture
    def project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        assert CliRunner().invoke(main, ["init", str(tmp_path / "p")]).exit_code == 0
        monkeypatch.chdir(tmp_path / "p")
        return tmp_path / "p"

    def run(self, *arguments: str) -> Any:
        done = CliRunner().invoke(main, list(arguments))
        assert done.exit_code == 0, done.output
        return done

    def calibrated(self, start_seconds: float, per_second: float) -> str:
        self.run("export", "generation", "benchmark.toml", "--out", "b")
        self.run("calibrate", "b", "--items", "4", "--out", "c.json")
        body = json.loads(Path("c.json").read_bytes())
        (model,) = body["models"]
        model["start_seconds"] = start_seconds
        model["seconds"] = model["max_new_tokens"] / per_second
        Path("c.json").write_text(json.dumps(body))
        return "c.json"

    def test_a_plan_counts_work_and_start_up(self) -> None:
        file = self.calibrated(start_seconds=90, per_second=1000)

        with_rate = self.run("plan", "benchmark.toml", "--tokens-per-second", "1000", "--json")
        measured = self.run("plan", "benchmark.toml", "--calibration", file, "--json")

        plain = json.loads(with_rate.stdout)["estimate"]
        found = json.loads(measured.stdout)["estimate"]
        start = 90 / 3600 * found["shards"]
        assert found["gpu_hours"] == pytest.approx(plain["gpu_hours"] + start)
        assert found["shard_minutes"] == pytest.approx(plain["shard_minutes"] + 1.5)
        told = self.run("plan", "benchmark.toml", "--calibration", file).stdout
        assert "model loading also counted" in " ".join(told.split())

    def test_an_export_cuts_shards_by_what_is_left_after_start_up(self, project: Path) -> None:
        file = self.calibrated(start_seconds=30, per_second=100)
        limit = json.loads(Path("c.json").read_bytes())["models"][0]["max_new_tokens"] / 4
        of_one = limit / 100

        self.run(
            *("export", "generation", "benchmark.toml", "--out", "cut"),
            *("--shard-minutes", str(0.5 + 10.5 * of_one / 60), "--calibration", file),
        )

        assert Bundle.open(project / "cut").shard(0).items == 10

    def test_a_shard_shorter_than_the_start_is_refused(self) -> None:
        file = self.calibrated(start_seconds=120, per_second=100)

        done = CliRunner().invoke(
            main,
            [
                *("export", "generation", "benchmark.toml", "--out", "cut"),
                *("--shard-minutes", "1", "--calibration", file),
            ],
        )

        assert done.exit_code == 2
        assert "2.0 minutes that the engine takes to start" in done.output

    def test_a_rate_and_a_calibration_exclude_each_other(self) -> None:
        file = self.calibrated(start_seconds=1, per_second=100)

        done = CliRunner().invoke(
            main,
            ["plan", "benchmark.toml", "--calibration", file, "--tokens-per-second", "5"],
        )

        assert done.exit_code == 2
