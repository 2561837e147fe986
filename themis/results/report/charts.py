"""The other drawings of the HTML report: scores, score against tokens, and the timeline."""

from collections.abc import Mapping, Sequence

from themis.results.aggregate import AggregateRow
from themis.results.report import numbers, svg
from themis.storage.timeline import AttemptTiming
from themis.storage.usage import TokenUse

_ARM_KEYS = ("model_id", "prompt_variant_id", "params")
_LABELLED_ATTEMPTS = 40
_THIN = 7
_WIDTH = 960
_BESIDE = 195

Cell = tuple[str, str, str, str]
"""Model, slice, prompt variant, parameters."""


def arm_labels(rows: Sequence[Mapping[str, str | None]]) -> dict[tuple[str, ...], str]:
    """Name each way to ask a model by what tells it apart from the others.

    >>> arm_labels([{"model_id": "m", "prompt_variant_id": p, "params": "t=0"} for p in "ab"])
    {('m', 'a', 't=0'): 'a', ('m', 'b', 't=0'): 'b'}
    """
    arms = list(dict.fromkeys(arm_of(row) for row in rows))
    varied = [place for place in range(len(_ARM_KEYS)) if len({arm[place] for arm in arms}) > 1]
    kept = varied or [0]
    return {arm: " · ".join(arm[place] for place in kept) for arm in arms}


def arm_of(keys: Mapping[str, str | None]) -> tuple[str, ...]:
    """Return model, prompt variant and parameters of a row."""
    return tuple(keys.get(name) or "-" for name in _ARM_KEYS)


def other_keys(rows: Sequence[AggregateRow]) -> list[str]:
    """Return the keys that tell rows apart beside the way to ask."""
    names = dict.fromkeys(name for row in rows for name in row.keys)
    return [
        name
        for name in names
        if name not in _ARM_KEYS and len({row.keys.get(name) for row in rows}) > 1
    ]


def legend(labels: Sequence[str], at: tuple[float, float], width: float) -> tuple[str, float]:
    """Draw the marks of series with their names; returns the lowest line used."""
    x, y = at
    parts = []
    for place, label in enumerate(labels):
        words = svg.short(label, 48)
        taken = 34 + 7.4 * len(words)
        if x + taken > at[0] + width and x > at[0]:
            x, y = at[0], y + 22
        parts.append(svg.mark(place, (x + 6, y - 4)))
        parts.append(svg.text((x + 20, y), words))
        x += taken
    return "".join(parts), y


def scores_svg(rows: Sequence[AggregateRow]) -> str:
    """Draw means (marks) with their intervals (lines), the ways to ask side by side.

    Rows need the keys of a way to ask; every other key that varies makes a row of the plot.
    """
    labels = arm_labels([row.keys for row in rows])
    order = {arm: place for place, arm in enumerate(labels)}
    others = other_keys(rows)
    lanes: dict[str, list[AggregateRow]] = {}
    for row in rows:
        lanes.setdefault(", ".join(row.keys.get(name) or "-" for name in others), []).append(row)
    ends = [e for row in rows for e in (row.ci_lower, row.ci_upper, row.mean) if e is not None]
    scale = svg.Scale(min([0.0, *ends]), max([1.0, *ends]), 220, 520)
    drawn, lowest = legend(list(labels.values()), (220, 18), 740)
    parts, y, top = [drawn], lowest + 44, lowest + 30
    body = []
    for lane, members in lanes.items():
        body.append(svg.text((4, y + 7 * (len(members) - 1) + 4), svg.short(lane, 28)))
        for row in sorted(members, key=lambda row: order[arm_of(row.keys)]):
            body.append(_score(row, y, scale, labels[arm_of(row.keys)], order[arm_of(row.keys)]))
            y += 22
        y += 14
    for tick in scale.ticks(5):
        parts.append(svg.line("axis", (scale(tick), top, scale(tick), y - 20), svg.GRID))
        at = (scale(tick), top - 6)
        parts.append(svg.text(at, f"{tick:g}", name="tick", anchor="middle", colour=svg.QUIET))
    return svg.drawing(
        "scores",
        "Means with their intervals",
        "The same numbers are in the table of scores.",
        (_WIDTH, round(y - 12)),
        (*parts, *body),
    )


def _score(row: AggregateRow, y: float, scale: svg.Scale, label: str, place: int) -> str:
    said = f"{numbers.score(row.mean)} {numbers.interval(row.ci_lower, row.ci_upper)}"
    drawn = []
    if row.ci_lower is not None and row.ci_upper is not None:
        colour = svg.SERIES[place % len(svg.SERIES)]
        ends = (scale(row.ci_lower), y, scale(row.ci_upper), y)
        drawn.append(svg.line(f"series s{place % len(svg.SERIES)}", ends, colour, width=2))
    if row.mean is not None:
        drawn.append(svg.mark(place, (scale(row.mean), y)))
    counts = f"{numbers.count(row.n_scored)}/{numbers.count(row.n_planned)}"
    drawn.append(svg.text((752, y + 4), f"{said} {counts}"))
    return svg.group(f"{label}: {said}, {counts} scored", drawn)


def tokens_svg(scores: Sequence[AggregateRow], use: Sequence[TokenUse]) -> str:
    """Draw each mean score over the tokens of its average answer; empty without both.

    Args:
        scores: Means of one metric of one evaluation, by slice and way to ask.
        use: The tokens of the same cells.
    """
    spent = {_cell(row): row.completion_tokens / row.answers for row in use if row.answers}
    points = [
        (spent[cell], row)
        for row in scores
        if row.mean is not None and (cell := _row_cell(row)) in spent
    ]
    if not points:
        return ""
    labels = arm_labels([row.keys for _, row in points])
    order = {arm: place for place, arm in enumerate(labels)}
    drawn, lowest = legend(list(labels.values()), (70, 18), 880)
    height = lowest + 330
    across = svg.Scale(0, max(x for x, _ in points) * 1.12 or 1.0, 70, 780)
    ends = [e for _, row in points for e in (row.ci_lower, row.ci_upper, row.mean) if e is not None]
    up = svg.Scale(min([0.0, *ends]), max([1.0, *ends]), height - 50, 70 - height + lowest)
    parts = [drawn, *_axes(across, up)]
    for x, row in points:
        place = order[arm_of(row.keys)]
        at = (across(x), up(row.mean or 0.0))
        inside = []
        if row.ci_lower is not None and row.ci_upper is not None:
            ends_of = (at[0], up(row.ci_lower), at[0], up(row.ci_upper))
            name = f"series s{place % len(svg.SERIES)}"
            inside.append(svg.line(name, ends_of, svg.SERIES[place % len(svg.SERIES)], width=2))
        inside.append(svg.mark(place, at, size=6))
        where = row.keys.get("slice_id") or ""
        inside.append(svg.text((at[0] + 12, at[1] + 4), svg.short(where, 24)))
        said = f"{labels[arm_of(row.keys)]}, {where}: {numbers.score(row.mean)}, {x:.1f} tokens"
        parts.append(svg.group(said, inside))
    return svg.drawing(
        "tokens",
        "Mean score against the tokens of an average answer",
        "The same numbers are in the tables of scores and of tokens.",
        (_WIDTH, round(height)),
        parts,
    )


def _axes(across: svg.Scale, up: svg.Scale) -> list[str]:
    left, right = across.start, across.start + across.length
    bottom, top = up.start, up.start + up.length
    parts = []
    for tick in up.ticks(5):
        parts.append(svg.line("axis", (left, up(tick), right, up(tick)), svg.GRID))
        at = (left - 8, up(tick) + 4)
        parts.append(svg.text(at, f"{tick:g}", name="tick", anchor="end", colour=svg.QUIET))
    for tick in across.ticks():
        parts.append(svg.line("axis", (across(tick), bottom, across(tick), bottom + 5), svg.QUIET))
        at = (across(tick), bottom + 20)
        parts.append(svg.text(at, f"{tick:g}", name="tick", anchor="middle", colour=svg.QUIET))
    at = ((left + right) / 2, bottom + 40)
    said = "tokens of an average answer"
    parts.append(svg.text(at, said, name="tick", anchor="middle", colour=svg.QUIET))
    parts.append(svg.text((left - 8, top - 12), "score", name="tick", anchor="end"))
    return parts


def _cell(row: TokenUse) -> Cell:
    return (row.model_id, row.slice_id, row.prompt_variant_id, row.params)


def _row_cell(row: AggregateRow) -> Cell:
    model, prompt, params = arm_of(row.keys)
    return (model, row.keys.get("slice_id") or "-", prompt, params)


def timeline_svg(rows: Sequence[AttemptTiming]) -> str:
    """Draw when each attempt worked; empty when no attempt has both of its ends.

    A few attempts get a line and a label each; many share thin lines, one attempt after
    another, so that the height shows how many worked at once.
    """
    timed = [row for row in rows if row.seconds is not None]
    if not timed:
        return ""
    first = min(row.started or 0.0 for row in timed)
    last = max(row.ended or 0.0 for row in timed)
    unit, name = _unit(last - first)
    labelled = len(timed) <= _LABELLED_ATTEMPTS
    left = 220 if labelled else 70
    scale = svg.Scale(0, max((last - first) / unit, 1e-3), left, 700 if labelled else 850)
    timed.sort(key=lambda row: (row.started or 0.0, row.shard))
    lanes = list(range(len(timed))) if labelled else _packed(timed)
    step = 26 if labelled else _THIN
    bottom = 40 + step * (max(lanes) + 1)
    parts = []
    for tick in scale.ticks(8):
        parts.append(svg.line("axis", (scale(tick), 32, scale(tick), bottom), svg.GRID))
        at = (scale(tick), 24)
        parts.append(svg.text(at, f"{tick:g}", name="tick", anchor="middle", colour=svg.QUIET))
    parts.append(svg.text((4, 24), f"{name} since start", name="tick", colour=svg.QUIET))
    for lane, row in zip(lanes, timed, strict=True):
        x1 = scale(((row.started or 0.0) - first) / unit)
        x2 = scale(((row.ended or 0.0) - first) / unit)
        parts.append(_bar(row, (x1, x2), 40 + step * lane, step, labelled=labelled))
    return svg.drawing(
        "timeline",
        "When the attempts at each shard worked",
        "The same times are in the table of shards.",
        (_WIDTH, bottom + 10),
        parts,
    )


def _bar(
    row: AttemptTiming, ends: tuple[float, float], y: int, step: int, *, labelled: bool
) -> str:
    x1, x2 = ends
    kind = "done" if row.outcome == "complete" else "open"
    colour = svg.SERIES[0] if kind == "done" else "#b45309"
    speed = row.tokens_per_second
    rate = "" if speed is None else f", {speed:,.0f} tokens/s"
    said = (
        f"{row.stage} shard {row.shard} on {row.host or 'unknown'}: {row.records:,} items in "
        f"{numbers.duration(row.seconds)}{rate}, {row.outcome or 'never ended'}"
    )
    height = step - 8 if labelled else step - 1
    bar = (
        f'<rect class="bar {kind}" x="{x1:.2f}" y="{y}" width="{max(x2 - x1, 2):.2f}" '
        f'height="{height}" rx="2" fill="{colour}"/>'
    )
    if not labelled:
        return svg.group(said, [bar])
    name = "shard" if row.stage == "generation" else f"{row.stage} shard"
    label = svg.short(f"{name} {row.shard} · {row.host or 'unknown'}", 28)
    fits = x2 + _BESIDE < _WIDTH
    rate = f"{row.records:,} items{rate}"
    beside = svg.text((x2 + 8, y + 13), rate, name="tick") if fits else ""
    within = "" if fits else svg.text((x2 - 8, y + 13), rate, name="inside", anchor="end")
    return svg.group(said, [svg.text((4, y + 13), label), bar, beside, within])


def _packed(rows: Sequence[AttemptTiming]) -> list[int]:
    """Give each attempt the first lane that is free; rows come by their start."""
    free: list[float] = []
    lanes = []
    for row in rows:
        start = row.started or 0.0
        lane = next((place for place, until in enumerate(free) if until <= start), len(free))
        free[lane : lane + 1] = [row.ended or 0.0]
        lanes.append(lane)
    return lanes


def _unit(seconds: float) -> tuple[float, str]:
    for unit, name, least in ((3600.0, "hours", 7200.0), (60.0, "minutes", 180.0)):
        if seconds >= least:
            return unit, name
    return 1.0, "seconds"
