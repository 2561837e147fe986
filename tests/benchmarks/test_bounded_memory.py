"""Twenty thousand items go through every step of the path in bounded memory."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ITEMS = 20_000
MOST_MB = 200


@pytest.mark.timeout(900)
def test_every_step_of_the_path_stays_within_200_mb(tmp_path: Path) -> None:
    script = Path(__file__).with_name("bench_pipeline.py")
    spec = importlib.util.spec_from_file_location("bench_pipeline", script)
    assert spec is not None
    assert spec.loader is not None
    bench: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)

    rows = bench.measure(ITEMS, tmp_path)

    assert [row["step"] for row in rows] == list(bench.STEPS)
    assert {row["step"]: row["peak_mb"] for row in rows if row["peak_mb"] > MOST_MB} == {}
