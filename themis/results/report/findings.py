"""Paired differences as sentences: what the data say, with what it rests on."""

from collections.abc import Iterator, Sequence

from themis.results.compare import PairedRow
from themis.results.report import numbers

_VERBS = {
    "better": "scores higher than",
    "worse": "scores lower than",
    "equivalent": "is equivalent to",
    "inconclusive": "cannot be told from",
}

MOST = 12


def findings(rows: Sequence[PairedRow]) -> Iterator[str]:
    """Say the comparisons in words, the ones that the data support first; at most `MOST`."""
    order = ("better", "worse", "equivalent", "inconclusive")
    ranked = sorted(rows, key=lambda row: (order.index(row.verdict), row.p_value or 1.0))
    for row in ranked[:MOST]:
        yield sentence(row)
    if len(ranked) > MOST:
        yield f"{len(ranked) - MOST} more are in the table."


def sentence(row: PairedRow) -> str:
    """Say one comparison: the difference, its interval, the p to judge by, and the census."""
    where = ", ".join(value for value in row.keys.values() if value)
    place = f" on {where}" if where else ""
    if row.delta_mean is None:
        return f"{row.treatment} and {row.baseline} have no item in common{place}."
    said = f"{row.treatment} {_VERBS[row.verdict]} {row.baseline}{place}: "
    said += f"{row.metric_id} {numbers.signed(row.delta_mean)}"
    if row.ci_lower is not None and row.ci_upper is not None:
        ends = f"{numbers.signed(row.ci_lower)} to {numbers.signed(row.ci_upper)}"
        said += f", {100 * row.ci_level:.4g}% CI {ends}"
    adjusted = row.adjusted_p_value is not None and row.adjustment_method != "none"
    p = row.adjusted_p_value if adjusted else row.p_value
    if p is not None:
        word = f"p ({row.adjustment_method})" if adjusted else "p"
        said += f", {word} {numbers.p_value(p)}"
    absent = row.unpaired_baseline + row.unpaired_treatment
    only = f", {numbers.count(absent)} scored on one side only" if absent else ""
    missing = row.n_planned - row.pair_count - absent
    neither = f", {numbers.count(missing)} on neither" if missing > 0 else ""
    return f"{said}; on the same {numbers.count(row.pair_count)} items{only}{neither}."
