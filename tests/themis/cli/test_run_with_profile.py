"""`themis run --profile`: the same job through local processes, wherever results go."""

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Themis = Callable[..., Result]


def test_results_may_lie_outside_the_bundle(project: Path, themis: Themis) -> None:
    (project / "elsewhere.toml").write_text('kind = "local"\nslots = 2\nresults = "results"\n')
    command = ("run", "benchmark.toml", "--profile", "elsewhere.toml", "--shard-items", 30)

    first = themis(*command)
    second = themis(*command)

    assert first.exit_code == 0, first.stderr
    assert "80 scores planned, 80 scored, 0 failed, 0 missing" in first.stdout
    assert list((project / "results").rglob("done.json"))
    assert not list((project / "store" / "bundles").rglob("done.json"))
    assert "nothing to do" in second.stderr
