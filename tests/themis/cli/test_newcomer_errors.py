"""The mistakes that a newcomer makes first: each names the place, the rule and the way out."""

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Themis = Callable[..., Result]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_unknown_model_directory(project: Path, themis: Themis) -> None:
    edit(project / "benchmark.toml", 'provider = "demo"', 'provider = "hf"')
    edit(project / "benchmark.toml", 'model_id = "arithmetic"', 'model_id = "org/no-such-model"')

    result = themis("run", "benchmark.toml")

    assert result.exit_code == 4
    assert "org/no-such-model" in result.stderr
    assert "--model" in result.stderr


def test_a_missing_dataset_file(project: Path, themis: Themis) -> None:
    (project / "data" / "questions.jsonl").rename(project / "data" / "question.jsonl")

    result = themis("plan", "benchmark.toml")

    assert result.exit_code == 2
    assert "Slice 'sums'" in result.stderr
    assert str(project / "data" / "questions.jsonl") in result.stderr
    assert "question.jsonl" in result.stderr.replace("questions.jsonl", "")


def test_a_dataset_malformed_at_a_line(project: Path, themis: Themis) -> None:
    path = project / "data" / "questions.jsonl"
    lines = path.read_text().splitlines()
    lines[6] = lines[6].replace(",", ",,", 1)
    path.write_text("\n".join(lines))

    result = themis("plan", "benchmark.toml")

    assert result.exit_code == 2
    assert "questions.jsonl, line 7" in result.stderr


def test_a_template_field_that_items_lack(project: Path, themis: Themis) -> None:
    edit(project / "benchmark.toml", 'content = "{item.question}"', 'content = "{item.quesion}"')

    result = themis("plan", "benchmark.toml")

    assert result.exit_code == 2
    for named in ("'sums'", "'q01'", "'plain'", "quesion", "question"):
        assert named in result.stderr


def test_a_bundle_directory_that_is_not_empty(project: Path, themis: Themis) -> None:
    (project / "bundle").mkdir()
    (project / "bundle" / "mine.txt").write_text("keep me")

    result = themis("export", "generation", "benchmark.toml", "--out", "bundle")

    assert result.exit_code == 2
    assert "bundle" in result.stderr
    assert "empty" in result.stderr
    assert [path.name for path in (project / "bundle").iterdir()] == ["mine.txt"]


def test_no_slurm_on_this_machine(
    project: Path, themis: Themis, monkeypatch: pytest.MonkeyPatch
) -> None:
    themis("export", "generation", "benchmark.toml", "--out", "bundle")
    (project / "cluster.toml").write_text('kind = "slurm"\npartition = "gpu"\n')
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))

    result = themis("slurm", "submit", "bundle", "--profile", "cluster.toml")

    assert result.exit_code == 4
    assert "Slurm" in result.stderr


def test_an_engine_whose_library_is_not_installed(
    project: Path, themis: Themis, monkeypatch: pytest.MonkeyPatch, tiny_chat: Path
) -> None:
    edit(project / "benchmark.toml", 'provider = "demo"', 'provider = "hf"')
    for module in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)

    result = themis("run", "benchmark.toml", "--model", f"arithmetic={tiny_chat}")

    assert result.exit_code == 4
    assert "pip install 'themis-hpc[hf]'" in result.stderr


def test_a_store_from_a_newer_version(project: Path, themis: Themis) -> None:
    themis("plan", "benchmark.toml")
    with sqlite3.connect(project / "store" / "themis.sqlite3") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'store_format'")
    db.close()

    result = themis("run", "benchmark.toml")

    assert result.exit_code == 4
    assert "this store has format 99" in result.stderr
    assert "Install a newer Themis" in result.stderr


def test_every_problem_of_a_benchmark_file_is_named_at_once(project: Path, themis: Themis) -> None:
    edit(project / "benchmark.toml", 'provider = "demo"', "provider = 3")
    edit(project / "benchmark.toml", "max_tokens = 64", "max_tokens = 0\nmax_tokenz = 1")

    result = themis("plan", "benchmark.toml")

    assert result.exit_code == 2
    assert "models[0].provider: Input should be a valid string" in result.stderr
    assert "inference_grid.params[0].max_tokens: Input should be greater than 0" in result.stderr
    assert "inference_grid.params[0].max_tokenz: Extra inputs are not permitted" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "bench.toml"], "bench.toml: no such file"),
        (["plan", "data/questions.jsonl"], "must end in .toml, .json or .yaml"),
        (["exprot"], "Did you mean 'export'?"),
        (["verify", "no-such-bundle"], "no-such-bundle"),
        (["results", "nothing"], "no store here"),
        (["work", "bundle"], "Name a shard with --shard N, or give --all"),
    ],
)
def test_a_wrong_name_is_named(
    project: Path, themis: Themis, arguments: list[str], said: str
) -> None:
    assert project.exists()

    result = themis(*arguments)

    assert result.exit_code != 0
    assert said in result.stderr


def test_a_shard_that_the_bundle_does_not_have(project: Path, themis: Themis) -> None:
    assert project.exists()
    themis("export", "generation", "benchmark.toml", "--out", "bundle")

    result = themis("work", "bundle", "--shard", 99)

    assert result.exit_code == 2
    assert "the bundle has shards 0 to 0" in result.stderr


def test_a_metric_that_does_not_exist(project: Path, themis: Themis) -> None:
    edit(project / "benchmark.toml", '"numeric_match"', '"numeric_mtach"')

    result = themis("plan", "benchmark.toml")

    assert result.exit_code == 2
    assert "did you mean 'numeric_match'?" in result.stderr


def test_a_project_file_that_is_nowhere(project: Path, themis: Themis) -> None:
    (project / "project.toml").unlink()

    result = themis("plan", "benchmark.toml")

    assert result.exit_code == 2
    assert "no project file" in result.stderr
    assert "--project" in result.stderr
