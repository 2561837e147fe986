"""`themis config-report`: what was configured, from files, a run or a function, without secrets."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Themis = Callable[..., Result]


@pytest.mark.parametrize(
    ("form", "holds"),
    [
        ("json", '"benchmark_id"'),
        ("yaml", "name: benchmark_id"),
        ("markdown", "| benchmark\\_id | my-eval |"),
        ("latex", r"\quad benchmark\_id & my-eval \\"),
    ],
)
def test_a_benchmark_is_reported_in_every_format(
    project: Path, themis: Themis, form: str, holds: str
) -> None:
    assert project.exists()

    done = themis("config-report", "benchmark.toml", "--format", form)

    assert done.exit_code == 0, done.stderr
    assert holds in done.stdout


def test_a_run_is_reported_from_the_store_alone(project: Path, themis: Themis) -> None:
    assert themis("run", "benchmark.toml").exit_code == 0
    (project / "benchmark.toml").unlink()

    done = themis("config-report", "--run", "my-eval", "--format", "json")

    document = json.loads(done.stdout)
    assert [child["name"] for child in document["config"]["children"]] == ["project", "benchmark"]
    assert document["header"]["entrypoint"] == "themis config-report"


def test_a_database_address_never_shows_its_password(project: Path, themis: Themis) -> None:
    text = (project / "project.toml").read_text()
    start = text.index("[storage]")
    url = "postgresql://me:hunter2@db/themis"
    storage = f'[storage]\nbackend = "postgres_blob"\ndatabase_url = "{url}"\nblob_root_dir = "b"\n'
    (project / "project.toml").write_text(text[:start] + storage)

    for form in ("json", "yaml", "markdown", "latex"):
        done = themis("config-report", "--format", form, "--verbosity", "full")

        assert done.exit_code == 0, done.stderr
        assert "hunter2" not in done.stdout
        assert "REDACTED" in done.stdout


def test_a_function_can_make_what_is_reported(
    project: Path, themis: Themis, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "setup_of_mine.py").write_text("def make():\n    return {'depth': 3}\n")
    monkeypatch.syspath_prepend(project)

    done = themis("config-report", "--factory", "setup_of_mine:make", "--out", "setup.md")

    assert done.exit_code == 0, done.stderr
    assert "| depth | 3 |" in (project / "setup.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["benchmark.toml", "--run", "x"], "give one of"),
        (["--factory", "nowhere:make"], "No module named"),
        (["missing.toml"], "no such file"),
    ],
)
def test_what_cannot_be_reported_is_a_usage_error(
    project: Path, themis: Themis, arguments: list[str], says: str
) -> None:
    assert project.exists()

    done = themis("config-report", *arguments)

    assert done.exit_code == 2
    assert says in done.stderr
