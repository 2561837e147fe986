"""Tie returned items to the plan: whose they are, and whether they are what was planned.

A bundle that this store exported is known by its digest, and its items need no second look. The
items of any other bundle are compared with the planned trials part by part.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from themis import identity
from themis.errors import ImportRefusedError
from themis.storage import projections
from themis.storage.plans import OK, Run, find_trials, held_candidates, held_scores, trial_key
from themis.storage.store import Store
from themis_bundles import Bundle, Chosen, canonical_json, sha256_hex

LOOKUP_BATCH = 500
"""Trials that are looked up with one query."""


@dataclass(frozen=True)
class Planned:
    """A planned trial, as the store has it."""

    key: int
    hash: str
    slice: int
    model_hash: str
    params_hash: str
    prompt_hash: str
    item_hash: str
    item_id: str
    samples: Mapping[int, int]
    """The status of each candidate that the store holds."""


class PlannedTrials:
    """The planned trials that a shard's items belong to.

    Attributes:
        scored: The (trial, sample, evaluation) that the store holds with every score.
    """

    def __init__(self, store: Store, run: Run, bundle: Bundle, entries: Iterable[Chosen]) -> None:
        self._store = store
        self._run = run
        self._bundle = bundle
        self._components = bundle.components()
        self._found: dict[str, Planned] = {}
        self._evaluations: dict[tuple[int, str], int] = {
            (slice_, evaluation_hash): evaluation
            for slice_, evaluation_hash, evaluation in store.db.execute(
                "SELECT r.slice, s.hash, r.evaluation FROM run_scores r"
                " JOIN specs s ON s.id = r.evaluation WHERE r.run = ?",
                (run.key,),
            )
        }
        self.scored: set[tuple[int, int, int]] = set()
        ids = sorted({entry.item.body["id"] for entry in entries})
        for start in range(0, len(ids), LOOKUP_BATCH):
            self._load([trial_key(trial_id) for trial_id in ids[start : start + LOOKUP_BATCH]])

    def of(self, entry: Chosen) -> Planned:
        """Return the planned trial of an item.

        Raises:
            ImportRefusedError: The run has no such trial or sample.
        """
        planned = self._found.get(entry.item.body["id"])
        if planned is None or entry.item.body["sample"] >= self._run.num_samples:
            raise self._refused(entry, f"the item is not planned in run {self._run.run_id}")
        return planned

    def check_generation(self, entry: Chosen, planned: Planned) -> None:
        """Compare an item with the trial it claims to be, part by part.

        Raises:
            ImportRefusedError: A part differs; the message names it.
        """
        body = entry.item.body
        refs, request = body["refs"], body["request"]
        params = self._components[refs["params"]]
        candidate = identity.candidate_id(planned.hash, body["sample"])
        base = params.body.get("seed")
        seed = identity.candidate_seed(self._run.global_seed if base is None else base, candidate)
        for what, claimed, expected in (
            ("model", self._components[refs["model"]].sha256, planned.model_hash),
            ("parameters", params.sha256, planned.params_hash),
            ("prompt", identity.prompt_hash(request["messages"]), planned.prompt_hash),
            ("seed", request["seed"], seed),
        ):
            if claimed != expected:
                raise self._refused(entry, f"its {what} is not the planned one")

    def check_evaluation(self, entry: Chosen, planned: Planned, *, trusted: bool) -> int:
        """Return the key of the score pass that an item belongs to, and check its metrics.

        Raises:
            ImportRefusedError: The score pass is not planned; the metrics are other ones; or,
                when the bundle is not trusted, it scored another answer or item.
        """
        refs = entry.item.body["refs"]
        component = self._components[refs["evaluation"]]
        found = self._evaluations.get((planned.slice, component.sha256))
        if found is None:
            raise self._refused(entry, "its score pass is not planned for its slice")
        record = entry.record
        if record is not None and record.status == "ok":
            asked = sorted(metric["id"] for metric in component.body["metrics"])
            given = sorted(score["metric"] for score in record.record["scores"])
            if asked != given:
                raise self._refused(entry, f"it has scores for {given}, asked were {asked}")
        if not trusted:
            self._check_scored_answer(entry, planned, component.body.get("transform"))
        return found

    def differs(self, planned: Planned, sample: int, record: Mapping[str, Any]) -> bool:
        """Tell whether an answer differs from the one that the store holds."""
        (event,) = self._store.db.execute(
            "SELECT event FROM candidates WHERE trial = ? AND sample = ?", (planned.key, sample)
        ).fetchone()
        held = projections.event_record(self._store, event)
        return bool(held.get("text") != record.get("text"))

    def _check_scored_answer(self, entry: Chosen, planned: Planned, transform: str | None) -> None:
        body = entry.item.body
        sample, parse = body["sample"], body["refs"]["transform"]
        claimed = None if parse is None else self._components[parse].sha256
        if claimed != transform:
            raise self._refused(entry, "its parse is not that of its score pass")
        if planned.samples.get(sample) != OK:
            raise self._refused(entry, "the store holds no answer that could have been scored")
        (digest,) = self._store.db.execute(
            "SELECT e.digest FROM candidates c JOIN events e ON e.seq = c.event"
            " WHERE c.trial = ? AND c.sample = ?",
            (planned.key, sample),
        ).fetchone()
        if sha256_hex(canonical_json(body["output"])) != digest.hex():
            raise self._refused(entry, "the answer that it scored is not the stored one")
        content = identity.digest(body["payload"])
        if planned.item_id.startswith(f"{content}~"):
            # A repeated row without an id of its own: `themis.planning.items` numbers it.
            content = sha256_hex(planned.item_id.encode())
        if content != planned.item_hash:
            raise self._refused(entry, "its dataset item is not the planned one")

    def _load(self, keys: list[bytes]) -> None:
        """Find the trials of these keys, and what the store holds of their candidates."""
        held: dict[int, dict[int, int]] = {}
        for trial, sample, status in held_candidates(self._store, keys):
            held.setdefault(trial, {})[sample] = status
        if self._bundle.manifest.stage == "evaluation":
            self.scored.update(held_scores(self._store, keys))
        for row in find_trials(self._store, self._run, keys):
            key, trial_hash, slice_, model, params, prompt, item, item_id = row
            found = Planned(
                key=key,
                hash=trial_hash.hex(),
                slice=slice_,
                model_hash=model,
                params_hash=params,
                prompt_hash=prompt.hex(),
                item_hash=item.hex(),
                item_id=item_id,
                samples=held.get(key, {}),
            )
            self._found[found.hash[: identity.ID_LENGTH]] = found

    def _refused(self, entry: Chosen, rule: str) -> ImportRefusedError:
        return ImportRefusedError(
            f"{self._bundle.path}: item {entry.item.seq}: {rule}; nothing of its shard was stored"
        )
