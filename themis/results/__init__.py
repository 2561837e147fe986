"""Reading results: means with intervals, paired comparisons, leaderboards, and reports.

`BenchmarkResult` opens a run of a store. Beneath it everything takes a
`themis.records.score_table.ScoreTable` and gives frozen rows; it reads no clock and no
environment, and nothing here writes to a store.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from themis.results.result import BenchmarkResult as BenchmarkResult
    from themis.results.result import ExperimentResult as ExperimentResult
    from themis.results.timeline import RecordTimelineView as RecordTimelineView

_HOMES = {
    "BenchmarkResult": "themis.results.result",
    "ExperimentResult": "themis.results.result",
    "RecordTimelineView": "themis.results.timeline",
}
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that tables cost no store."""
    if name not in _HOMES:
        raise AttributeError(f"module 'themis.results' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
