"""Paired differences as sentences: what the data say, with what it rests on."""

from collections.abc import Container, Iterator, Sequence

from themis.results.compare import SHOWN, PairedRow
from themis.results.report import numbers

_VERBS = {"equivalent": "is equivalent to", "inconclusive": "cannot be told from"}

_NAMES = {"holm": "Holm", "bh": "Benjamini-Hochberg", "bonferroni": "Bonferroni"}

MOST = 12


def findings(rows: Sequence[PairedRow]) -> Iterator[tuple[str, bool]]:
    """Say the comparisons in words, the ones that the data support first; at most `MOST`.

    Each sentence comes with whether the data support a difference.
    """
    order = (*SHOWN, "equivalent", "inconclusive")
    ranked = sorted(
        rows,
        key=lambda row: (order.index(row.verdict), 1.0 if row.p_value is None else row.p_value),
    )
    varied = {
        name
        for row in rows
        for name in row.keys
        if len({other.keys.get(name) for other in rows}) > 1
    }
    for row in ranked[:MOST]:
        yield sentence(row, varied), row.verdict in SHOWN
    if len(ranked) > MOST:
        yield f"{len(ranked) - MOST} more are in the table.", False


def sentence(row: PairedRow, named: Container[str]) -> str:
    """Say one comparison: the difference, its interval, the p to judge by, and the census.

    Args:
        row: The comparison.
        named: The keys to say where it holds by.
    """
    where = ", ".join(value for name, value in row.keys.items() if value and name in named)
    place = f" on {where}" if where else ""
    if row.delta_mean is None:
        return f"{row.treatment} and {row.baseline} have no item in common{place}."
    said = f"{row.treatment} {_verb(row)} {row.baseline}{place}: "
    said += f"{row.metric_id} {numbers.signed(row.delta_mean)}"
    if row.ci_lower is not None and row.ci_upper is not None:
        ends = f"{numbers.signed(row.ci_lower)} to {numbers.signed(row.ci_upper)}"
        said += f" ({100 * row.ci_level:.4g}% CI {ends})"
    return f"{said}{_p(row)}, on the same {numbers.count(row.pair_count)} items, {_absent(row)}."


def _verb(row: PairedRow) -> str:
    """Say which way the difference goes, and what that is worth where lower is better."""
    if row.verdict not in SHOWN or row.delta_mean is None:
        return _VERBS[row.verdict]
    which = "higher" if row.delta_mean > 0 else "lower"
    worth = f" ({row.verdict})" if row.direction == "lower" else ""
    return f"scores {which}{worth} than"


def _p(row: PairedRow) -> str:
    name = _NAMES.get(row.adjustment_method)
    if name and row.adjusted_p_value is not None:
        return f", {name}-adjusted p {numbers.p_value(row.adjusted_p_value)}"
    return "" if row.p_value is None else f", p {numbers.p_value(row.p_value)}"


def _absent(row: PairedRow) -> str:
    one = row.unpaired_baseline + row.unpaired_treatment
    neither = max(row.n_planned - row.pair_count - one, 0)
    if not one and not neither:
        return "none missing"
    parts = ((one, "scored on one side only"), (neither, "on neither"))
    return ", ".join(f"{numbers.count(count)} {words}" for count, words in parts if count)
