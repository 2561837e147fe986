"""Files that a result writes: whole or not at all."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import orjson

from themis.storage.tables import CandidateDetail


@dataclass(frozen=True, slots=True)
class ArtifactBundle:
    """The files of a result.

    Attributes:
        aggregate_json_path: `benchmark-aggregate-<scope>.json`.
        summary_markdown_path: `benchmark-summary-<scope>.md`.
    """

    aggregate_json_path: Path
    summary_markdown_path: Path


def write_artifacts(
    directory: Path, benchmark_id: str, scope: str, rows: Sequence[Mapping[str, Any]]
) -> ArtifactBundle:
    """Write the means of a result as JSON and as a list in Markdown.

    Args:
        directory: Made when it does not exist.
        benchmark_id: The benchmark.
        scope: Which score passes the rows are about; a part of the files' names.
        rows: From `BenchmarkResult.aggregate`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    bundle = ArtifactBundle(
        directory / f"benchmark-aggregate-{scope}.json",
        directory / f"benchmark-summary-{scope}.md",
    )
    body = {"benchmark_id": benchmark_id, "scope": scope, "rows": list(rows)}
    text = json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    _write(bundle.aggregate_json_path, lambda file: file.write(text))
    lines = [f"# {benchmark_id} ({scope})", "", *map(_bullet, rows), ""]
    _write(bundle.summary_markdown_path, lambda file: file.write("\n".join(lines)))
    return bundle


def write_json(
    path: Path,
    head: Mapping[str, Any],
    trials: Iterable[CandidateDetail] | None,
    names: Collection[str],
) -> Path:
    """Write a result to a JSON file, its candidates one a line and one at a time in memory.

    Args:
        path: The file.
        head: Its other entries.
        trials: The candidates; None leaves them out.
        names: The score passes whose records are written.
    """

    def write(file: TextIO) -> None:
        file.write(json.dumps(head, indent=2, sort_keys=True, ensure_ascii=False)[:-2])
        if trials is not None:
            file.write(',\n  "trials": [')
            for place, candidate in enumerate(trials):
                file.write(",\n    " if place else "\n    ")
                line = orjson.dumps(_trial(candidate, names), option=orjson.OPT_SORT_KEYS)
                file.write(line.decode())
            file.write("\n  ]")
        file.write("\n}\n")

    _write(path, write)
    return path


def _write(path: Path, write: Callable[[TextIO], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _trial(candidate: CandidateDetail, names: Collection[str]) -> dict[str, Any]:
    return {
        "trial_hash": candidate.trial_hash,
        "sample": candidate.sample,
        "model_id": candidate.model["model_id"],
        "slice_id": candidate.slice_id,
        "prompt_variant_id": candidate.prompt_variant_id,
        "params": candidate.params,
        "item_id": candidate.item_id,
        "item": candidate.payload,
        "status": candidate.status,
        "output": candidate.output,
        "evaluations": {
            name: record for name, record in candidate.evaluations.items() if name in names
        },
    }


def _bullet(row: Mapping[str, Any]) -> str:
    """Write one row in one line: where, the mean, its interval, and what is absent."""
    names = ("model_id", "slice_id", "metric_id", "prompt_variant_id", "evaluation")
    where = ", ".join(str(row[name]) for name in names if row.get(name) is not None)
    mean = "no score" if row["mean"] is None else f"{row['mean']:.4f}"
    if row["ci_lower"] is not None:
        mean += f" ({row['ci_level']:.0%} CI {row['ci_lower']:.4f} to {row['ci_upper']:.4f})"
    absent = [
        f"{row[name]:,} {name.removeprefix('n_')}"
        for name in ("n_failed", "n_missing")
        if row[name]
    ]
    counted = ", ".join((f"{row['n_scored']:,} of {row['n_planned']:,} scored", *absent))
    return f"- {where}: {mean}; {counted}"
