"""What a changed benchmark would keep, add and drop."""

from collections import Counter
from dataclasses import dataclass

from themis.handoff.register import score_passes_of
from themis.handoff.session import Session
from themis.storage.plans import trial_key


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


def diff_plans(old: Session, new: Session) -> PlanDiff:
    """Compare two benchmarks trial by trial; nothing is stored.

    Memory is about 100 bytes for each trial of the old benchmark.
    """
    before = {trial_key(trial.hash) for trial in old.trials()}
    kept = 0
    added: Counter[str] = Counter()
    for trial in new.trials():
        if trial_key(trial.hash) in before:
            kept += 1
        else:
            added[trial.cell.slice.slice_id] += 1
    old_scores = _score_names(old)
    new_scores = _score_names(new)
    return PlanDiff(
        kept=kept,
        added=added.total(),
        removed=len(before) - kept,
        added_by_slice=dict(added),
        scores_kept=tuple(sorted(new_scores[key] for key in new_scores.keys() & old_scores)),
        scores_added=tuple(sorted(new_scores[key] for key in new_scores.keys() - old_scores)),
        scores_removed=tuple(sorted(old_scores[key] for key in old_scores.keys() - new_scores)),
    )


def _score_names(session: Session) -> dict[tuple[str, str], str]:
    return {
        (entry.slice_id, entry.evaluation_hash): f"{entry.slice_id}/{entry.name}"
        for entry in score_passes_of(session)
    }
