"""A benchmark written in Python, beside the user."""

import subprocess
import sys
from pathlib import Path

BENCHMARK = """
from themis import *


def make():
    return BenchmarkSpec(
        benchmark_id="in-python",
        models=[ModelSpec(model_id="echo", provider="demo")],
        slices=[
            SliceSpec(
                slice_id="said",
                dataset=DatasetSpec(source="memory", dataset_id="mine:items"),
                generation={},
                scores=[ScoreSpec(name="said", metrics=["contains"])],
            )
        ],
        prompt_variants=[
            PromptVariantSpec(id="p", messages=[PromptMessage(role="user", content="{said}")])
        ],
        inference_grid=InferenceGridSpec(params=[InferenceParamsSpec(max_tokens=9)]),
    )


def items():
    return [
        {"id": "1", "said": "say yes", "answer": "yes"},
        {"id": "2", "said": "say no", "answer": "maybe"},
    ]
"""


def test_a_module_in_the_current_directory_holds_the_benchmark_and_its_items(
    project: Path,
) -> None:
    (project / "mine.py").write_text(BENCHMARK)
    code = "from themis.cli import main; main()"

    done = subprocess.run(
        [sys.executable, "-c", code, "run", "mine:make"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "2 scores planned, 2 scored, 0 failed, 0 missing" in done.stdout
    assert "0.500" in done.stdout
