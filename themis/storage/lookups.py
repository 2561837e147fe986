"""Find what a bundle's items refer to among what is planned."""

from collections.abc import Sequence

from themis.storage.plans import Run, find_trials, trial_key
from themis.storage.store import Store

ID_BYTES = 16
"""How much of a trial's hash a bundle calls it by."""


def locate_trials(store: Store, run: Run, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the key and the slice of each trial of a run, by the id that bundles call it.

    Args:
        store: The store.
        run: The run; a trial of another run is not found.
        ids: The first halves of trial hashes, at most a thousand or so at a time.
    """
    found: dict[str, tuple[int, int]] = {}
    for trial in find_trials(store, run, [trial_key(trial) for trial in ids[:1]]):
        # Bundles keep the order of the plan, so the others most likely follow the first: reading
        # on costs a quarter of looking each of them up.
        rows = store.db.execute(
            "SELECT t.id, t.hash, t.slice FROM run_trials r CROSS JOIN trials t"
            " WHERE r.run = ? AND r.trial >= ? AND r.trial < ? AND t.id = r.trial",
            (run.key, trial.key, trial.key + len(ids)),
        )
        found = {whole[:ID_BYTES].hex(): (key, slice_) for key, whole, slice_ in rows}
    missing = [trial_key(trial) for trial in ids if trial not in found]
    for trial in find_trials(store, run, missing) if missing else ():
        found[trial.hash[:ID_BYTES].hex()] = trial.key, trial.slice
    return found


def evaluation_keys(store: Store, run: Run) -> dict[tuple[int, str], int]:
    """Return the key of each score pass of a run, by slice and by the hash of its evaluation."""
    rows = store.db.execute(
        "SELECT r.slice, s.hash, r.evaluation FROM run_scores r"
        " JOIN specs s ON s.id = r.evaluation WHERE r.run = ?",
        (run.key,),
    )
    return {(slice_, evaluation): key for slice_, evaluation, key in rows}


def trial_hash(store: Store, trial: int) -> str:
    """Return the hash of a trial by its key."""
    (found,) = store.db.execute("SELECT hash FROM trials WHERE id = ?", (trial,)).fetchone()
    return str(found.hex())
