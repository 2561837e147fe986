"""A benchmark of as many items as a test of crashes needs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write_benchmark(tmp_path: Path) -> Callable[[int], Path]:
    """Write a project with a benchmark of so many items, and return the benchmark's file."""

    def write(items: int) -> Path:
        rows = [
            {"id": f"q{n}", "question": f"{n} + 1 = ?", "answer": str(n + 1)} for n in range(items)
        ]
        (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / "project.toml").write_text(
            'project_name = "kills"\nresearcher_id = "nobody"\nglobal_seed = 1\n'
            '[storage]\nbackend = "sqlite_blob"\nroot_dir = "store"\n'
        )
        path = tmp_path / "benchmark.json"
        path.write_text(
            json.dumps(
                {
                    "benchmark_id": "kills",
                    "models": [{"model_id": "arithmetic", "provider": "demo"}],
                    "slices": [
                        {
                            "slice_id": "all",
                            "dataset": {"source": "local", "data_dir": "items.jsonl"},
                            "generation": {},
                            "scores": [{"name": "s", "metrics": ["response_length"]}],
                        }
                    ],
                    "prompt_variants": [
                        {
                            "id": "plain",
                            "messages": [{"role": "user", "content": "{item.question}"}],
                        }
                    ],
                    "inference_grid": {"params": [{"max_tokens": 16}]},
                }
            )
        )
        return path

    return write
