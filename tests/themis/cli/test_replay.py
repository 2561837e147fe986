"""A store's answers can be served again, to score them differently or to another project."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Themis = Callable[..., Any]


def test_a_run_is_replayed_from_its_store(project: Path, themis: Themis) -> None:
    first = themis("run", "benchmark.toml", "--json")
    assert first.exit_code == 0, first.stderr
    text = (project / "benchmark.toml").read_text()
    assert '"demo"' in text
    (project / "again.toml").write_text(text.replace('"demo"', '"replay"'))

    again = themis("run", "again.toml", "--engine-option", "source=store", "--json")

    assert again.exit_code == 0, again.stderr
    before, after = json.loads(first.stdout), json.loads(again.stdout)
    assert after["generated"] == before["generated"] > 0
    assert [row["mean"] for row in after["rows"]] == [row["mean"] for row in before["rows"]]
