"""A kit of small bundles and ready records, for every test of the wire format."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from themis_bundles import Bundle, BundleInfo, BundleWriter, GroupSpec, ResultWriter

INFO = BundleInfo(
    stage="generation",
    run_id="run-1",
    created_for={"project": "demo", "benchmark": "arithmetic"},
    date="2026-01-02",
)


class Kit:
    """What tests make bundles and results with."""

    info = INFO

    @staticmethod
    def item(number: int, model: int = 0, text: str | None = None) -> dict[str, Any]:
        """A generation item as a planner writes it."""
        content = text if text is not None else f"What is {number} + {number}? Grüße ∑"
        return {
            "id": f"{number:032x}",
            "sample": 0,
            "refs": {"model": model, "params": 1, "prompt": 2, "slice": 3},
            "request": {"messages": [{"role": "user", "content": content}], "seed": number},
        }

    def bundle(self, path: Path, items: int = 10, models: int = 1, **options: Any) -> Bundle:
        """Write a bundle of so many items for each of so many models."""
        with BundleWriter(path, options.pop("info", INFO), **options) as writer:
            self.fill(writer, items, models)
        return Bundle.open(path)

    def fill(self, writer: BundleWriter, items: int = 10, models: int = 1) -> None:
        """Add so many items for each of so many models."""
        for number in range(models):
            model = writer.component("model", {"model_id": f"echo-{number}", "provider": "demo"})
            writer.component("params", {"max_tokens": 16, "temperature": 0.0})
            writer.component("prompt", {"id": "plain"})
            writer.component("slice", {"id": "sums"})
            writer.start_group(GroupSpec(model, "demo", f"echo-{number}"))
            for place in range(items):
                writer.add(self.item(place, model), prompt_tokens=9, max_new_tokens=16)

    @staticmethod
    def answer(text: str = "4", **fields: Any) -> dict[str, Any]:
        """A record of an item that was answered."""
        return {
            "text": text,
            "finish_reason": "stop",
            "stop_reason": None,
            "usage": {"prompt_tokens": 9, "completion_tokens": 1, "cached_tokens": None},
            "latency_ms": 12.5,
            "prompt_sha256": "0" * 64,
            **fields,
        }

    @staticmethod
    def failure(kind: str = "model", code: str = "schema_mismatch") -> dict[str, Any]:
        """A record of an item that failed."""
        return {"error": {"kind": kind, "code": code, "message": "no", "retryable": False}}

    def append(
        self, writer: ResultWriter, bundle: Bundle, records: Mapping[int, Mapping[str, Any]]
    ) -> None:
        """Append records by the number of their item."""
        shard = next(
            s.index
            for s in bundle.shards
            if min(records) in range(s.first_seq, s.first_seq + s.items)
        )
        for entry in bundle.iter_items(shard):
            if entry.seq in records:
                record = records[entry.seq]
                status: Literal["ok", "error"] = "error" if "error" in record else "ok"
                writer.append(entry.seq, entry.sha256, status, record)

    def work(
        self,
        bundle: Bundle,
        shard: int,
        attempt: str,
        records: Mapping[int, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Path:
        """Answer items of a shard in one attempt: all of them, or those given by number."""
        if records is None:
            records = {e.seq: self.answer(str(e.seq)) for e in bundle.iter_items(shard)}
        with ResultWriter(bundle, shard, attempt, header={"engine": "test"}, **options) as writer:
            if records:
                self.append(writer, bundle, records)
        return writer.path

    def work_all(self, bundle: Bundle, shards: Iterable[int] | None = None) -> None:
        """Answer every item."""
        for shard in bundle.shards if shards is None else (bundle.shards[i] for i in shards):
            self.work(bundle, shard.index, f"first-{shard.index}")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power; `test_crashes` proves that everything is synced in time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def kit() -> Kit:
    """What tests make bundles and results with."""
    return Kit()


@pytest.fixture
def bundle(kit: Kit, tmp_path: Path) -> Bundle:
    """Ten items in three shards: 4, 4 and 2."""
    return kit.bundle(tmp_path / "bundle", shard_items=4)
