"""Plan a benchmark into the store: trials, their items, and the score passes of the run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from themis import identity
from themis.handoff.session import Session
from themis.planning.planner import PlannedTrial
from themis.specs.generation import params_label
from themis.storage.batches import batched, without_cycle_collector
from themis.storage.plans import Run, RunRegistration, ScorePass, TrialRow, held_samples
from themis_bundles import canonical_json

BATCH = 2000
"""Trials per transaction: large enough to be fast, small enough to stay in memory."""

_CellKey = tuple[int, int, int, int]


@dataclass(frozen=True)
class PlanCell:
    """One row of the plan's matrix."""

    model_id: str
    slice_id: str
    prompt_variant_id: str
    params: str
    """Their temperature and token limit; `params_hash` tells equal ones apart."""
    params_hash: str
    generates: bool
    trials: int
    candidates: int
    held: int
    """Candidates that the store holds already."""
    prompt_tokens: int
    """An estimate, over all candidates."""
    max_new_tokens: int
    """The most tokens that all candidates together may have."""


@dataclass(frozen=True)
class RegisteredPlan:
    """A plan that the store knows."""

    run: Run
    cells: tuple[PlanCell, ...]

    @property
    def candidates(self) -> int:
        """How many candidates the plan has."""
        return sum(cell.candidates for cell in self.cells)

    @property
    def pending(self) -> int:
        """How many candidates are still to be generated."""
        return sum(cell.candidates - cell.held for cell in self.cells if cell.generates)


@without_cycle_collector()
def register_plan(session: Session) -> RegisteredPlan:
    """Expand the benchmark and write its plan to the store; doing it again changes nothing.

    The run's id follows from the benchmark, the project's seed and every trial, so a changed
    dataset file makes another run and an equal one finds the same.

    Raises:
        SpecValidationError: A dataset, a query, a prompt or a plugin's name is wrong.
        StorageError: The store cannot be written.
    """
    store, benchmark = session.store, session.benchmark
    passes = list(score_passes_of(session))
    with store.transaction():
        keys = _SpecKeys(session)
        scores = [keys.score_pass(entry) for entry in passes]
        benchmark_key = store.spec_key("benchmark", benchmark.canonical_dict())
    registration = RunRegistration(
        store,
        benchmark=benchmark_key,
        benchmark_id=benchmark.benchmark_id,
        project=session.project_name,
        global_seed=session.global_seed,
        num_samples=benchmark.num_samples,
    )
    running = identity.plan_digest_start()
    cells: dict[_CellKey, _CellCount] = {}
    trials = 0
    for batch in batched(session.trials(), BATCH):
        registration.add([keys.row(trial) for trial in batch])
        held = held_samples(store, [trial.hash for trial in batch], include_failed=False)
        for trial in batch:
            running.update(f"{trial.hash} {benchmark.num_samples}\n".encode("ascii"))
            _count(cells, trial, benchmark.num_samples, held)
        trials += len(batch)
    plan_digest = running.hexdigest()
    run_id = "run_" + identity.digest(
        {
            "benchmark": benchmark.canonical_hash,
            "global_seed": session.global_seed,
            "plan": plan_digest,
            "scores": sorted(entry.evaluation_hash for entry in passes),
        }
    )
    run = registration.finish(
        run_id=run_id[:20], plan_digest=plan_digest, trials=trials, scores=scores
    )
    return RegisteredPlan(run, tuple(count.cell() for count in cells.values()))


@dataclass(frozen=True)
class PlannedPass:
    """One score pass of a slice, with the identities that its plugins' versions give it."""

    slice_id: str
    name: str
    metrics: tuple[str, ...]
    transform: dict[str, Any] | None
    evaluation: dict[str, Any]

    @property
    def transform_hash(self) -> str | None:
        """The identity of the parse, if there is one."""
        return None if self.transform is None else identity.digest(self.transform)

    @property
    def evaluation_hash(self) -> str:
        """The identity of the score pass."""
        return identity.digest(self.evaluation)


def score_passes_of(session: Session) -> Iterator[PlannedPass]:
    """Yield the score passes of a benchmark.

    Raises:
        SpecValidationError: A parse or score names a plugin that is not registered.
    """
    for part in session.benchmark.slices:
        parses = {parse.name: parse for parse in part.parses}
        for score in part.scores:
            transform = None
            if score.parse is not None:
                parse = parses[score.parse]
                versions = session.registry.extractor_versions([ref.id for ref in parse.extractors])
                transform = identity.transform_body(parse, versions)
            versions = session.registry.metric_versions(score.metrics)
            transform_hash = None if transform is None else identity.digest(transform)
            yield PlannedPass(
                slice_id=part.slice_id,
                name=score.name,
                metrics=tuple(sorted(set(score.metrics))),
                transform=transform,
                evaluation=identity.evaluation_body(score, versions, transform_hash),
            )


class _SpecKeys:
    """The store's keys of the benchmark's parts, each looked up once."""

    def __init__(self, session: Session) -> None:
        store, benchmark = session.store, session.benchmark
        self._store = store
        self._keep_payloads = session.keep_payloads
        self._models = {
            id(model): store.spec_key("model", model.canonical_dict()) for model in benchmark.models
        }
        self._variants = {
            variant.id: store.spec_key("prompt", {"prompt_variant_id": variant.id})
            for variant in benchmark.prompt_variants
        }
        self._slices = {
            part.slice_id: store.spec_key(
                "slice", {"benchmark_id": benchmark.benchmark_id, "slice_id": part.slice_id}
            )
            for part in benchmark.slices
        }
        self._params: dict[int, int] = {}

    def row(self, trial: PlannedTrial) -> TrialRow:
        params = self._params.get(id(trial.params))
        if params is None:
            params = self._store.spec_key("params", trial.params.canonical_dict())
            self._params[id(trial.params)] = params
        return TrialRow(
            hash=trial.hash,
            slice=self._slices[trial.slice.slice_id],
            model=self._models[id(trial.model)],
            variant=self._variants[trial.variant.id],
            params=params,
            item_hash=trial.item.hash,
            item_id=trial.item.item_id,
            item_payload=canonical_json(trial.item.payload) if self._keep_payloads else None,
            prompt_hash=trial.prompt_hash,
        )

    def score_pass(self, entry: PlannedPass) -> ScorePass:
        transform = (
            None if entry.transform is None else self._store.spec_key("transform", entry.transform)
        )
        return ScorePass(
            slice=self._slices[entry.slice_id],
            name=entry.name,
            transform=transform,
            evaluation=self._store.spec_key("evaluation", entry.evaluation),
            metrics=entry.metrics,
        )


@dataclass
class _CellCount:
    """What is counted for one row of the matrix."""

    first: PlannedTrial
    trials: int = 0
    candidates: int = 0
    held: int = 0
    prompt_tokens: int = 0
    max_new_tokens: int = 0

    def cell(self) -> PlanCell:
        params = self.first.params
        return PlanCell(
            model_id=self.first.model.model_id,
            slice_id=self.first.slice.slice_id,
            prompt_variant_id=self.first.variant.id,
            params=params_label(params.temperature, params.max_tokens),
            params_hash=params.spec_hash,
            generates=self.first.slice.generation is not None,
            trials=self.trials,
            candidates=self.candidates,
            held=self.held,
            prompt_tokens=self.prompt_tokens,
            max_new_tokens=self.max_new_tokens,
        )


def _count(
    cells: dict[_CellKey, _CellCount],
    trial: PlannedTrial,
    samples: int,
    held: set[tuple[str, int]],
) -> None:
    key = (id(trial.model), id(trial.slice), id(trial.variant), id(trial.params))
    count = cells.get(key)
    if count is None:
        count = cells[key] = _CellCount(trial)
    count.trials += 1
    count.candidates += samples
    if held:
        count.held += sum((trial.hash, sample) in held for sample in range(samples))
    count.prompt_tokens += trial.prompt_tokens * samples
    count.max_new_tokens += trial.max_new_tokens * samples


def pending_samples(
    session: Session, *, include_failed: bool
) -> Iterator[tuple[PlannedTrial, Sequence[int]]]:
    """Yield each trial that still has samples to generate, in plan order, with those samples."""
    samples = range(session.benchmark.num_samples)
    for batch in batched(session.trials(), BATCH):
        held = held_samples(
            session.store, [trial.hash for trial in batch], include_failed=include_failed
        )
        for trial in batch:
            if trial.slice.generation is None:
                continue
            still = [sample for sample in samples if (trial.hash, sample) not in held]
            if still:
                yield trial, still
