"""Run the command line in a project that `themis init` made."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from themis.cli import main

Themis = Callable[..., Result]


@pytest.fixture
def themis() -> Themis:
    """Run `themis` with arguments; paths are converted."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def project(tmp_path: Path, themis: Themis, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh scaffold, and the current directory."""
    directory = tmp_path / "my-eval"
    assert themis("init", directory).exit_code == 0
    monkeypatch.chdir(directory)
    return directory
