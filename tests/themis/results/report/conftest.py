from collections.abc import Callable
from dataclasses import replace

import pytest

from themis.records.score_table import ScoreStatus, ScoreTable
from themis.results.aggregate import aggregate
from themis.results.compare import paired_compare
from themis.results.report.data import (
    ItemDetail,
    ItemExtraction,
    ItemScore,
    Message,
    ReportData,
    score_census,
)

HOSTILE = (
    '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>\x1b[31m\u202e'
)


@pytest.fixture(scope="session")
def scores(table: Callable[..., ScoreTable]) -> ScoreTable:
    """Three models on two slices; one model has names that try to break out of every format."""
    right = {"base": (30, 20), "tuned_v2": (45, 22), "50% <b>|$&\\{x}*": (28, 20)}
    rows = [
        {"model": model, "slice": name, "item": f"{name}-{i}", "value": float(i < n)}
        for model, counts in right.items()
        for name, n in zip(("gsm8k", "math_500"), counts, strict=True)
        for i in range(60)
    ]
    failed = {"status": ScoreStatus.GENERATION_FAILED}
    extra = {"model": "base", "slice": "gsm8k", "item": "gsm8k-60"}
    return table([*rows, {**extra, **failed}])


@pytest.fixture(scope="session")
def items(scores: ScoreTable) -> tuple[ItemDetail, ...]:
    """One detail per row of the table; item gsm8k-7 of `base` is hostile."""
    return tuple(
        ItemDetail(
            slice_id=scores.slices[scores.slice[row]],
            model_id=scores.models[scores.model[row]],
            prompt_variant_id="plain",
            item_id=scores.items[scores.item[row]],
            messages=(Message("system", "Answer."), Message("user", f"What is {row} + 1?")),
            output=None
            if scores.status[row]
            else HOSTILE
            if scores.items[scores.item[row]] == "gsm8k-7"
            else f"It is {row + 1}.",
            finish_reason="stop",
            extractions=()
            if scores.status[row]
            else (ItemExtraction("regex", success=True, value=str(row + 1)),),
            scores=(
                ItemScore(
                    "default",
                    "default",
                    None if scores.status[row] else float(scores.value[row]),
                    ScoreStatus(int(scores.status[row])),
                ),
            ),
            expected=str(row + 1),
            error="context window of 4096 tokens exceeded" if scores.status[row] else None,
        )
        for row in range(scores.rows)
    )


@pytest.fixture(scope="session")
def data(scores: ScoreTable, items: tuple[ItemDetail, ...]) -> ReportData:
    return ReportData(
        title="Tuning & <tests>",
        run_id="run-7",
        created="2026-11-23",
        census=score_census(scores),
        aggregates=tuple(aggregate(scores, ("model_id", "metric_id"))),
        paired=tuple(paired_compare(scores, baseline="base", p_value_correction="holm")),
        slices=tuple(aggregate(scores, ("slice_id", "model_id", "metric_id"))),
        provenance={"engine": {"name": "demo", "version": "1"}, "seed": 7, "gpu": None},
        items=items,
        notes=("One item could not be generated.",),
    )


@pytest.fixture(scope="session")
def plain_data(data: ReportData) -> ReportData:
    return replace(data, items=())
