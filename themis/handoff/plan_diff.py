"""What a changed benchmark would keep, add and drop."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from themis.handoff.register import score_passes_of
from themis.handoff.session import Session
from themis.storage.batches import batched
from themis.storage.plans import OK, find_by_hash, held_statuses, trial_key
from themis.storage.store import Store

BATCH = 500
"""Trials that are looked up together."""


@dataclass(frozen=True)
class PlanDiff:
    """The difference between two benchmarks, in work."""

    kept: int
    """Trials that both have; their answers stay."""
    added: int
    """Trials that only the new benchmark has."""
    removed: int
    """Trials that only the old benchmark has."""
    added_by_slice: dict[str, int]
    """The added trials, by slice."""
    scores_kept: tuple[str, ...]
    """Score passes that both have, as `slice/name`."""
    scores_added: tuple[str, ...]
    """Score passes that are new, or changed."""
    scores_removed: tuple[str, ...]
    """Score passes that are gone, or changed."""
    changed_fields: tuple[str, ...]
    """What differs in the benchmarks, as `slices[small].num_samples`."""
    candidates_added: int
    """Candidates that the new benchmark asks for and the old one did not."""
    answers_unused: int
    """Answers that the store holds and the new benchmark has no use for."""


def diff_plans(old: Session, new: Session) -> PlanDiff:
    """Compare two benchmarks trial by trial; nothing is stored.

    Memory is about 100 bytes for each trial of the old benchmark.
    """
    left = {trial_key(trial.hash) for trial in old.trials()}
    before = len(left)
    kept = 0
    added: Counter[str] = Counter()
    for trial in new.trials():
        key = trial_key(trial.hash)
        if key in left:
            left.remove(key)
            kept += 1
        else:
            added[trial.cell.slice.slice_id] += 1
    former, samples = old.benchmark.num_samples, new.benchmark.num_samples
    old_scores = _score_names(old)
    new_scores = _score_names(new)
    return PlanDiff(
        kept=kept,
        added=added.total(),
        removed=before - kept,
        added_by_slice=dict(added),
        scores_kept=tuple(sorted(new_scores[key] for key in new_scores.keys() & old_scores)),
        scores_added=tuple(sorted(new_scores[key] for key in new_scores.keys() - old_scores)),
        scores_removed=tuple(sorted(old_scores[key] for key in old_scores.keys() - new_scores)),
        changed_fields=tuple(
            changed_fields(old.benchmark.canonical_dict(), new.benchmark.canonical_dict())
        ),
        candidates_added=added.total() * samples + kept * max(0, samples - former),
        answers_unused=_answers(old.store, sorted(left)),
    )


def changed_fields(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Name what differs between two JSON values; parts of lists go by their names.

    >>> list(changed_fields({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2, "d": 4}))
    ['a.b', 'd']
    >>> list(changed_fields({"s": [{"id": "x", "n": 1}]}, {"s": [{"id": "x", "n": 2}]}))
    ['s[x].n']
    """
    if old == new:
        return
    left, right = _parts(old), _parts(new)
    if left is None or right is None:
        yield place
        return
    listed = isinstance(old, list)
    for name in dict.fromkeys((*left, *right)):
        inside = f"{place}[{name}]" if listed else f"{place}.{name}".lstrip(".")
        if name in left and name in right:
            yield from changed_fields(left[name], right[name], inside)
        else:
            yield inside


_NAMES = ("slice_id", "id", "name", "model_id")


def _parts(value: Any) -> Mapping[str, Any] | None:
    """Return the named parts of a value; None when it has none, or one name twice."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        return None
    named = {str(next((part[n] for n in _NAMES if n in part), "")): part for part in value}
    return named if len(named) == len(value) and "" not in named else None


def _answers(store: Store, trials: Sequence[bytes]) -> int:
    """Count the answers that a store holds of these trials."""
    count = 0
    for batch in batched(trials, BATCH):
        found = find_by_hash(store, "trial", b"".join(batch), length=len(batch[0]))
        held = held_statuses(store, found)
        count += sum(status == OK for samples in held.values() for status in samples.values())
    return count


def _score_names(session: Session) -> dict[tuple[str, str], str]:
    return {
        (entry.slice_id, entry.evaluation_hash): f"{entry.slice_id}/{entry.name}"
        for entry in score_passes_of(session)
    }
