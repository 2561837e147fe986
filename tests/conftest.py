"""Fixtures that every test folder shares."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Require = Callable[[object, str], None]

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def require() -> Require:
    """Skip with a reason when something is missing here; in CI that is a failure."""

    def check(available: object, reason: str) -> None:
        if available:
            return
        if os.environ.get("CI") == "true":
            pytest.fail(f"missing in CI: {reason}", pytrace=False)
        pytest.skip(reason)

    return check


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of data that the tests read."""
    return ROOT / "tests" / "fixtures"


@pytest.fixture(scope="session")
def tiny_chat(fixtures: Path) -> Path:
    """A 1.4 MB chat model that knows 200 answers by heart."""
    return fixtures / "tiny_chat"
