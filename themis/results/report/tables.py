"""The tables of a report, as text cells, before any format.

Terminal, Markdown and LaTeX all print these, so they agree to the letter. A key that has
one value throughout a table is said once, under it, instead of in a column.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from themis.records.metric_scale import Direction
from themis.results.aggregate import AggregateRow
from themis.results.compare import SHOWN, PairedRow
from themis.results.leaderboard import LeaderboardRow
from themis.results.report import numbers
from themis.results.report.data import CensusRow, ReportData
from themis.storage.timeline import AttemptTiming
from themis.storage.usage import TokenUse

Row = TypeVar("Row")
_Field: TypeAlias = tuple["Column", Callable[[Row], str]]

FLAG_MEANINGS: Mapping[str, str] = {
    "degenerate": "the scores (or differences) do not vary, so there is no interval",
    "few_clusters": "fewer than 6 clusters, or fewer than 4 degrees of freedom",
    "few_slices": "an average over a single slice",
    "low_information": "fewer than 6 items differ: no exact test can reach .05",
    "mc_floor": "too few draws for p to survive the correction of this family",
    "no_pairs": "no item has a score from both",
    "no_scores": "no item has a score",
    "slice_without_scores": "a slice without any score is left out",
    "too_few_items": "fewer than two items, so nothing can be said about spread",
    "unequal_repeats": "some items were scored more often than others",
    "unpaired_dropped": "items with a score from one side only are left out",
}
KEY_TITLES: Mapping[str, str] = {
    "model_id": "model",
    "slice_id": "slice",
    "prompt_variant_id": "prompt",
    "params": "params",
    "metric_id": "metric",
    "evaluation": "evaluation",
    "item_id": "item",
    "status": "status",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        title: Its heading.
        numeric: Whether its cells are numbers, and so align right.
        optional: Whether a narrow terminal may leave it out (and says so).
    """

    title: str
    numeric: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text.

    Attributes:
        title: Its heading.
        columns: Its columns.
        rows: Its cells.
        notes: Sentences under it.
        strong: Rows to set off: the ones whose difference the data support.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    strong: frozenset[int] = frozenset()


def report_tables(data: ReportData) -> tuple[TextTable, ...]:
    """Lay out the tables of a report, census first.

    Empty ones are left out, and breakdowns by what the scores are broken down by already.
    """
    tables = (
        census_table(data.census),
        aggregate_table(data.aggregates, in_full=True),
        paired_table(data.paired, in_full=True),
        *(
            aggregate_table(rows, title=breakdown_title(name), in_full=True)
            for name, rows in data.breakdowns.items()
            if not any(name in row.keys for row in data.aggregates)
        ),
        token_table(data.tokens),
        attempt_table(data.attempts),
    )
    return tuple(table for table in tables if table.rows)


def census_table(rows: Sequence[CensusRow], title: str = "Census") -> TextTable:
    """Lay out what was planned and what came of it; outcomes nothing fell into are dropped."""
    outcomes = [
        name
        for name in dict.fromkeys(name for row in rows for name in row.counts)
        if name == "planned" or any(row.counts.get(name, 0) for row in rows)
    ]
    keys = _Keys.of([row.keys for row in rows])
    columns = (*keys.columns, *(Column(name.replace("_", " "), numeric=True) for name in outcomes))
    cells = tuple(
        (*keys.cells(row.keys), *(numbers.count(row.counts.get(name, 0)) for name in outcomes))
        for row in rows
    )
    return TextTable(title, columns, cells, keys.notes)


def aggregate_table(
    rows: Sequence[AggregateRow], title: str = "Scores", *, in_full: bool = False
) -> TextTable:
    """Lay out means with intervals and with what is absent.

    Args:
        rows: The means.
        title: The table's heading.
        in_full: Give planned, scored, failed and missing a column each even where nothing is
            absent, as a file does; a terminal has no room for it.
    """
    keys = _Keys.of([row.keys for row in rows])
    methods = sorted({row.method for row in rows} - {"none"})
    fields: list[_Field[AggregateRow]] = [
        _number("mean", lambda row: numbers.score(row.mean) + _marks(row.flags)),
        _number(_level(rows), lambda row: numbers.interval(row.ci_lower, row.ci_upper)),
    ]
    if in_full:
        fields += [
            _number("planned", lambda row: numbers.count(row.n_planned)),
            _number("scored", lambda row: numbers.count(row.n_scored)),
            _number("failed", lambda row: numbers.count(row.n_failed)),
            _number("missing", lambda row: numbers.count(row.n_missing)),
        ]
    else:
        fields.append(
            _number(
                "scored",
                lambda row: f"{numbers.count(row.n_scored)}/{numbers.count(row.n_planned)}",
            )
        )
    estimators = ", ".join(sorted({row.estimator for row in rows}))
    notes = [*keys.notes, f"{estimators} over scored items; interval: {_listed(methods)}."]
    if any(row.item_count != row.n_scored for row in rows):
        fields.append(_number("items", lambda row: numbers.count(row.item_count)))
        notes.append("items were answered several times: averaged first, so each counts once.")
    if any(row.n_scored < row.n_planned for row in rows):
        fields += [
            _number("bounds", lambda row: numbers.interval(row.bound_lower, row.bound_upper)),
            _number("failed=0", lambda row: numbers.score(row.mean_failed_as_zero), optional=True),
        ]
        if not in_full:
            fields += [
                _number("failed", lambda row: numbers.count(row.n_failed), optional=True),
                _number("missing", lambda row: numbers.count(row.n_missing), optional=True),
            ]
        notes.append("failed=0 counts failures as 0; bounds score everything absent 0, then 1.")
    if len(methods) > 1:
        fields.append((Column("method", optional=True), lambda row: row.method))
    return TextTable(
        title,
        (*keys.columns, *(column for column, _ in fields)),
        tuple((*keys.cells(row.keys), *(write(row) for _, write in fields)) for row in rows),
        (*notes, *_legend(rows)) if rows else (),
    )


def paired_table(
    rows: Sequence[PairedRow], title: str = "Paired differences", *, in_full: bool = False
) -> TextTable:
    """Lay out comparisons: treatment minus baseline, over the items both answered.

    Args:
        rows: The comparisons.
        title: The table's heading.
        in_full: Give the items planned, and those scored on one side only, a column each.
    """
    labels = [_labels(row) for row in rows]
    keys = _Keys.of(labels, always=("treatment",))
    methods = sorted({row.method for row in rows} - {"none"})
    adjusted = "/".join(sorted({row.adjustment_method for row in rows} - {"none"}))
    fields: list[_Field[PairedRow]] = [
        _number("pairs", lambda row: numbers.count(row.pair_count)),
        _number("difference", lambda row: numbers.signed(row.delta_mean) + _marks(row.flags)),
        _number(_level(rows), lambda row: numbers.interval(row.ci_lower, row.ci_upper)),
        _number("p", lambda row: numbers.p_value(row.p_value)),
    ]
    notes = [
        *keys.notes,
        "Difference: treatment minus baseline, over items that both answered.",
        *(f"mde: what this many items would have found with power {p:g}." for p in _powers(rows)),
        f"Test and interval: {_listed(methods)}.",
        *direction_notes({row.metric_id: row.direction for row in rows}),
    ]
    if adjusted:
        fields.append(_number(f"p {adjusted}", lambda row: numbers.p_value(row.adjusted_p_value)))
        sizes = " or ".join(str(size) for size in sorted({row.family_size for row in rows}))
        kinds = " or ".join(sorted({_INTERVALS[row.ci_adjust] for row in rows}))
        noun = "comparison" if sizes == "1" else "comparisons"
        notes.append(f"p {adjusted} is corrected over {sizes} {noun}; intervals are {kinds}.")
    if in_full:
        fields.insert(0, _number("planned", lambda row: numbers.count(row.n_planned)))
        fields.insert(2, _number("one side", lambda row: numbers.count(_unpaired(row))))
    fields.append(_number("mde", lambda row: numbers.score(row.mde), optional=True))
    if any(row.margin is not None for row in rows):
        fields.append((Column("verdict"), lambda row: row.verdict))
    if len(methods) > 1:
        fields.append((Column("method", optional=True), lambda row: row.method))
    return TextTable(
        title,
        (*keys.columns, *(column for column, _ in fields)),
        tuple(
            (*keys.cells(label), *(write(row) for _, write in fields))
            for label, row in zip(labels, rows, strict=True)
        ),
        (*notes, *_legend(rows)) if rows else (),
        frozenset(place for place, row in enumerate(rows) if row.verdict in SHOWN),
    )


def direction_notes(directions: Mapping[str, Direction | None]) -> list[str]:
    """Say of each metric which way is better, where it is not higher as usual."""
    said: Mapping[Direction | None, str] = {
        "lower": "Lower is better: {}.",
        "none": "Neither higher nor lower is better: {}.",
        None: "Taken as better when higher, as the plan does not say: {}.",
    }
    named = {
        way: ", ".join(name for name, found in directions.items() if found == way) for way in said
    }
    return [said[way].format(names) for way, names in named.items() if names]


def _unpaired(row: PairedRow) -> int:
    return row.unpaired_baseline + row.unpaired_treatment


_INTERVALS: Mapping[str, str] = {
    "none": "per comparison",
    "bonferroni": "simultaneous",
    "fcr": "widened for the significant comparisons (false coverage rate)",
}


def _number(
    title: str, write: Callable[[Row], str], *, optional: bool = False
) -> tuple[Column, Callable[[Row], str]]:
    return Column(title, numeric=True, optional=optional), write


def _powers(rows: Sequence[PairedRow]) -> list[float]:
    return sorted({row.power for row in rows})


def _listed(methods: Sequence[str]) -> str:
    return ", ".join(methods) or "none"


def _labels(row: PairedRow) -> dict[str, str | None]:
    return {
        **row.keys,
        "metric_id": row.metric_id,
        "evaluation": row.evaluation,
        "baseline": row.baseline,
        "treatment": row.treatment,
    }


def breakdown_title(key: str) -> str:
    """Name the breakdown by a key."""
    return f"By {KEY_TITLES.get(key, key)}"


def token_table(rows: Sequence[TokenUse], title: str = "Tokens") -> TextTable:
    """Lay out what answers cost: tokens of the average prompt and answer, and of all of them."""
    labels = [
        {
            "model_id": row.model_id,
            "slice_id": row.slice_id,
            "prompt_variant_id": row.prompt_variant_id,
            "params": row.params,
        }
        for row in rows
    ]
    keys = _Keys.of(labels)
    titles = ("answers", "prompt tokens", "answer tokens", "all answers", "cut short")
    cells = tuple(
        (
            *keys.cells(label),
            numbers.count(row.answers),
            f"{row.prompt_tokens / row.answers:.1f}",
            f"{row.completion_tokens / row.answers:.1f}",
            numbers.count(row.completion_tokens),
            numbers.count(row.cut_short),
        )
        for label, row in zip(labels, rows, strict=True)
    )
    notes = (
        *keys.notes,
        "Tokens are those of an average prompt or answer; cut short: reached max_tokens.",
    )
    columns = (*keys.columns, *(Column(name, numeric=True) for name in titles))
    return TextTable(title, columns, cells, notes if rows else ())


def attempt_table(rows: Sequence[AttemptTiming], title: str = "Shards") -> TextTable:
    """Lay out when and where shards were worked on, by the clocks of their machines."""
    keys = _Keys.of([{"stage": row.stage, "host": row.host} for row in rows])
    cells = tuple(
        (
            *keys.cells({"stage": row.stage, "host": row.host}),
            str(row.shard),
            numbers.moment(row.started),
            numbers.moment(row.ended),
            numbers.duration(row.seconds),
            numbers.count(row.records),
            "-" if row.tokens_per_second is None else f"{row.tokens_per_second:,.1f}",
            row.outcome or "unknown",
        )
        for row in rows
    )
    columns = (
        *keys.columns,
        Column("shard", numeric=True),
        Column("start (UTC)"),
        Column("end (UTC)"),
        Column("took", numeric=True),
        Column("items", numeric=True),
        Column("tokens/s", numeric=True),
        Column("outcome"),
    )
    notes = (*keys.notes, "items, tokens/s: of the answers that this run rests on.")
    return TextTable(title, columns, cells, notes if rows else ())


def leaderboard_table(rows: Sequence[LeaderboardRow], title: str = "Leaderboard") -> TextTable:
    """Lay out a ranking; a model that the data cannot tell from the first is marked."""
    keys = _Keys.of([row.score.keys for row in rows], always=("model_id",))
    columns = (
        Column("rank", numeric=True),
        *keys.columns,
        Column("mean", numeric=True),
        Column(_level([row.score for row in rows]), numeric=True),
        Column("scored", numeric=True),
        Column("behind first", numeric=True),
    )
    cells = tuple(
        (
            "-" if row.rank is None else f"{row.rank}{'=' if row.level_with_first else ''}",
            *keys.cells(row.score.keys),
            numbers.score(row.score.mean) + _marks(row.score.flags),
            numbers.interval(row.score.ci_lower, row.score.ci_upper),
            f"{numbers.count(row.score.n_scored)}/{numbers.count(row.score.n_planned)}",
            "" if row.behind is None else numbers.signed(row.behind.delta_mean),
        )
        for row in rows
    )
    notes = [*keys.notes, *_legend([row.score for row in rows])]
    notes += direction_notes({str(row.score.keys["metric_id"]): row.direction for row in rows})
    if any(row.level_with_first for row in rows):
        notes.append(
            "= cannot be told from the first, item by item (Holm-corrected over all pairs)."
        )
    return TextTable(title, columns, cells, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Keys:
    """Which keys get a column, and which are said once."""

    names: tuple[str, ...]
    fixed: Mapping[str, str | None]

    @classmethod
    def of(cls, keys: Sequence[Mapping[str, str | None]], always: Iterable[str] = ()) -> "_Keys":
        names = tuple(dict.fromkeys(name for entry in keys for name in entry))
        values = {name: {entry.get(name) for entry in keys} for name in names}
        fixed = {
            name: next(iter(values[name]))
            for name in names
            if len(values[name]) == 1 and name not in always
        }
        shown = tuple(name for name in names if name not in fixed)
        return cls(shown or names, fixed if shown else {})

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(KEY_TITLES.get(name, name)) for name in self.names)

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.fixed:
            return ()
        said = (f"{KEY_TITLES.get(k, k)}: {v or '-'}" for k, v in self.fixed.items())
        return (", ".join(said) + ".",)

    def cells(self, keys: Mapping[str, str | None]) -> tuple[str, ...]:
        return tuple(keys.get(name) or "-" for name in self.names)


def _level(rows: Sequence[AggregateRow] | Sequence[PairedRow]) -> str:
    levels = {row.ci_level for row in rows} or {0.95}
    return "/".join(f"{level:.4g}" for level in sorted(100 * level for level in levels)) + "% CI"


def _marks(flags: Sequence[str]) -> str:
    return "".join(_mark(flag) for flag in flags)


def _mark(flag: str) -> str:
    return {
        "unpaired_dropped": "*",
        "low_information": "†",
        "unequal_repeats": "‡",
        "few_clusters": "§",
        "degenerate": "¶",
    }.get(flag, "#")


def _legend(rows: Sequence[AggregateRow] | Sequence[PairedRow]) -> tuple[str, ...]:
    present = sorted({flag for row in rows for flag in row.flags})
    return tuple(f"{_mark(flag)} {flag}: {FLAG_MEANINGS[flag]}." for flag in present)
