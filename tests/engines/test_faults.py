"""What real engines leave behind when something is wrong, and that no split changes an answer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from themis.errors import EnvironmentNotReadyError
from themis.generation.worker import WorkOptions, work_shard
from themis.providers import Engine
from themis_bundles import Bundle, chosen, incomplete_shards, verify

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

Write = Callable[..., Path]
Lend = Callable[[Engine], None]


def answers(path: Path) -> dict[str, dict[str, Any]]:
    """Return the record of each item by the item's id."""
    bundle = Bundle.open(path)
    return {
        entry.item.body["id"]: entry.record.record
        for shard in range(len(bundle.shards))
        for entry in chosen(bundle, shard)
        if entry.record is not None
    }


def test_no_split_into_shards_changes_a_sampled_answer(
    model_engine: Engine,
    write_generation_bundle: Write,
    lend: Lend,
    qa: list[tuple[str, str]],
    tiny_chat: Path,
) -> None:
    provider = model_engine.describe()["engine"]
    questions = [question for question, _ in qa[:60]]
    lend(model_engine)
    options = WorkOptions(model_paths={"tiny": str(tiny_chat)})
    found = []
    for size in (512, 23, 7):
        path = write_generation_bundle(
            questions,
            provider=provider,
            model_id="tiny",
            params={"temperature": 1.5, "top_p": 0.98, "max_tokens": 24},
            shard_items=size,
            name=f"of-{size}",
        )
        for shard in incomplete_shards(Bundle.open(path)):
            assert work_shard(path, shard, options).state == "complete"
        found.append({item: record["text"] for item, record in answers(path).items()})

    assert found[0] == found[1] == found[2]
    assert len(set(found[0].values())) > 30


def test_a_shard_that_is_interrupted_and_continued_has_the_same_sampled_answers(
    hf_engine: Engine,
    write_generation_bundle: Write,
    lend: Lend,
    qa: list[tuple[str, str]],
    tiny_chat: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lend(hf_engine)
    options = WorkOptions(model_paths={"tiny": str(tiny_chat)})
    paths = [
        write_generation_bundle(
            [question for question, _ in qa[:40]],
            provider="hf",
            model_id="tiny",
            params={"temperature": 1.5, "max_tokens": 24},
            name=name,
        )
        for name in ("at-once", "in-two")
    ]
    work_shard(paths[0], 0, options)
    monkeypatch.setattr(hf_engine, "_allowed_rows", 8)
    monkeypatch.setattr(hf_engine, "_rows", 8)
    poll, turns = hf_engine.poll, iter(range(3))

    def interrupted() -> Any:
        if next(turns, None) is None:
            raise KeyboardInterrupt
        return poll()

    with monkeypatch.context() as patch:
        patch.setattr(hf_engine, "poll", interrupted)
        with pytest.raises(KeyboardInterrupt):
            work_shard(paths[1], 0, options)
    assert len(answers(paths[1])) == 24

    assert work_shard(paths[1], 0, options).state == "complete"

    texts = [{item: record["text"] for item, record in answers(path).items()} for path in paths]
    assert texts[0] == texts[1]


def test_an_empty_prompt_fails_alone(
    model_engine: Engine, write_generation_bundle: Write, lend: Lend, tiny_chat: Path
) -> None:
    provider = model_engine.describe()["engine"]
    path = write_generation_bundle(
        ["What is the capital of France?", "", "What is the capital of Spain?"],
        provider=provider,
        model_id="tiny",
    )
    renderer = model_engine._renderer  # type: ignore[attr-defined]
    former, renderer.style = renderer.style, "plain"
    lend(model_engine)
    try:
        outcome = work_shard(path, 0, WorkOptions(model_paths={"tiny": str(tiny_chat)}))
    finally:
        renderer.style = former

    entries = [entry.record for entry in chosen(Bundle.open(path), 0)]
    assert (outcome.state, outcome.items_done) == ("complete", 3)
    assert [entry.status for entry in entries if entry] == ["ok", "error", "ok"]
    assert entries[1] is not None
    assert entries[1].record["error"]["message"] == "the prompt is empty"
    assert verify(Bundle.open(path), require_results=True).complete


@pytest.fixture
def missing_shard(tiny_chat: Path, tmp_path: Path) -> Path:
    """The tiny model in two weight files, of which one is not there."""
    torch = pytest.importorskip("safetensors.torch")
    path = Path(shutil.copytree(tiny_chat, tmp_path / "model"))
    tensors = torch.load_file(path / "model.safetensors")
    names = sorted(tensors)
    files = {
        f"model-0000{number}-of-00002.safetensors": part
        for number, part in ((1, names[::2]), (2, names[1::2]))
    }
    for file, part in files.items():
        torch.save_file({name: tensors[name].contiguous() for name in part}, path / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (path / "model.safetensors").unlink()
    (path / "model-00002-of-00002.safetensors").unlink()
    return path


@pytest.mark.parametrize("provider", ["hf", "vllm"])
def test_a_model_that_lacks_a_weight_file_is_refused_before_anything_is_written(
    provider: str,
    missing_shard: Path,
    write_generation_bundle: Write,
    require: Callable[[object, str], None],
    digest_cache: None,
) -> None:
    import importlib.util

    library = {"hf": "transformers", "vllm": "vllm"}[provider]
    require(importlib.util.find_spec(library), f"needs {library}")
    path = write_generation_bundle(["a"], provider=provider, model_id="tiny")

    with pytest.raises(EnvironmentNotReadyError, match=r"model-00002-of-00002\.safetensors"):
        work_shard(path, 0, WorkOptions(model_paths={"tiny": str(missing_shard)}))

    assert not (path / "results").exists()
