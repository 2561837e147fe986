"""Bundles of open work as Python objects: streams of items that live on disk.

    bundle = orchestrator.export_generation_bundle("benchmark.toml")
    answers = [Completion(id=item.seq, text=ask(item.body["request"])) for item in bundle.items]
    orchestrator.import_generation_results(bundle, answers)

Results that a program makes are written as an attempt like any other and go through the same
proof, so a record that was not asked for, comes twice with two answers, or is missing is found.
"""

import bisect
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from themis.errors import ImportRefusedError, SpecValidationError
from themis.evaluation.scoring import EvaluationResult
from themis.generation.records import record_of
from themis.providers import Completion
from themis_bundles import (
    Bundle,
    BundleExistsError,
    Item,
    Manifest,
    RecordRefusedError,
    ResultWriter,
    new_attempt_id,
)


class Items:
    """The items of a bundle, read from disk each time they are gone through."""

    def __init__(self, bundle: Bundle | None) -> None:
        self._bundle = bundle

    def __len__(self) -> int:
        return 0 if self._bundle is None else sum(shard.items for shard in self._bundle.shards)

    def __iter__(self) -> Iterator[Item]:
        if self._bundle is not None:
            for shard in self._bundle.shards:
                yield from self._bundle.iter_items(shard.index)


@dataclass(frozen=True)
class WorkBundle:
    """Open work of one stage; without a bundle when nothing is open."""

    stage: ClassVar[Literal["generation", "evaluation"]]

    bundle: Bundle | None

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a bundle that was written.

        Raises:
            BundleInvalidError: It is damaged.
            SpecValidationError: It is of another stage.
        """
        bundle = Bundle.open(Path(path))
        if bundle.manifest.stage != cls.stage:
            raise SpecValidationError(
                f"{path} is a bundle of the stage {bundle.manifest.stage!r}, not {cls.stage!r}"
            )
        return cls(bundle)

    @property
    def items(self) -> Items:
        """What is to be done; can be gone through any number of times."""
        return Items(self.bundle)

    @property
    def manifest(self) -> Manifest:
        """What the bundle says about itself."""
        return self._existing().manifest

    @property
    def digest(self) -> str:
        """The bundle's identity, 64 hex characters."""
        return self._existing().digest

    @property
    def path(self) -> Path:
        """Where the bundle lies."""
        return self._existing().path

    def write(self, path: Path | str) -> Path:
        """Copy the bundle, without results, to a directory that does not exist yet.

        Raises:
            BundleExistsError: There is something already.
            SpecValidationError: Nothing is open, so there is no bundle.
        """
        target = Path(path)
        source = self._existing().path
        if target.exists():
            raise BundleExistsError(target)
        # Under another name until it is whole, so that half a copy is never taken for a bundle.
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial, ignore=_but_results(source))
        partial.rename(target)
        return target

    def _existing(self) -> Bundle:
        if self.bundle is None:
            raise SpecValidationError("Nothing is open, so there is no bundle")
        return self.bundle


@dataclass(frozen=True)
class GenerationWorkBundle(WorkBundle):
    """Candidates that are to be answered; an item's `body["request"]` is what to ask."""

    stage = "generation"


@dataclass(frozen=True)
class EvaluationWorkBundle(WorkBundle):
    """Answers that are to be scored; an item's `body` has `output`, `payload` and `refs`."""

    stage = "evaluation"


class Result(NamedTuple):
    """The record of one item, ready to be written."""

    seq: int
    status: Literal["ok", "error"]
    record: Mapping[str, Any]


def completions(answers: Iterable[Completion]) -> list[Result]:
    """Return the records of answers; the id of each is the `seq` of its item."""
    return [Result(answer.id, *record_of(finished(answer))) for answer in answers]


def finished(answer: Completion) -> Completion:
    """Return an answer that says why it ended; one that says nothing ended by itself."""
    if answer.error is None and answer.finish_reason is None:
        return replace(answer, finish_reason="stop")
    return answer


def evaluations(scored: Iterable[tuple[int, EvaluationResult]]) -> list[Result]:
    """Return the records of scores, each given with the `seq` of its item."""
    return [Result(seq, "ok", result.to_record()) for seq, result in scored]


def write_results(bundle: Bundle, results: Iterable[Result], folder: Path) -> None:
    """Write the results of a program as one attempt at each shard that they are of.

    Args:
        bundle: The bundle.
        results: The records, in any order.
        folder: Where they go; `import_results` takes it as the place of the results.

    Raises:
        ImportRefusedError: A record is for an item that the bundle does not have, or an item has
            two, or it cannot be written.
    """
    by_shard: dict[int, list[Result]] = {}
    seen: set[int] = set()
    for result in results:
        if result.seq in seen:
            raise ImportRefusedError(f"Item {result.seq} has two results; nothing was stored")
        seen.add(result.seq)
        by_shard.setdefault(_shard_of(bundle, result.seq), []).append(result)
    target = Bundle.open(bundle.path, results=folder)
    header: dict[str, Any] = {"engine": {"engine": "python"}}
    for shard, of_shard in by_shard.items():
        digests = target.item_digests(shard).hex()
        first = target.shard(shard).first_seq
        with ResultWriter(target, shard, new_attempt_id(), header=header) as writer:
            for result in of_shard:
                digest = digests[64 * (result.seq - first) :][:64]
                try:
                    writer.append(result.seq, digest, result.status, result.record)
                except RecordRefusedError as refusal:
                    raise ImportRefusedError(f"{refusal}; nothing was stored") from refusal
            whole = len(of_shard) == target.shard(shard).items
            writer.close("complete" if whole else "partial")


def _shard_of(bundle: Bundle, seq: int) -> int:
    place = bisect.bisect_right(bundle.shards, seq, key=lambda shard: shard.first_seq) - 1
    if place < 0 or seq >= bundle.shards[place].first_seq + bundle.shards[place].items:
        raise ImportRefusedError(f"{bundle.path} has no item {seq}; nothing was stored")
    return bundle.shards[place].index


def _but_results(source: Path) -> Any:
    def ignore(folder: str, _names: list[str]) -> list[str]:
        return ["results"] if Path(folder) == source else []

    return ignore
