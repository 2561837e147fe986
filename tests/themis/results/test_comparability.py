"""The verdict says whether two sets of answers may be compared, and why not."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from themis.generation.worker import WorkOptions
from themis.handoff.session import Session
from themis.orchestration.run import dispatch_here, run_benchmark
from themis.results.comparability import Difference, compare_provenance
from themis.results.provenance_facts import facts
from themis.storage import Store, open_store
from themis.storage.origins import origins
from themis.storage.plans import Run

Make = Callable[..., Session]

VLLM: dict[str, Any] = {
    "libraries": {"themis-hpc": "0.1.0"},
    "machine": {"python": "3.11.9", "platform": "Linux", "cpu": {"model": "EPYC"}},
    "engine": {
        "engine": "vllm",
        "libraries": {"vllm": "0.11.0", "torch": "2.8.0"},
        "model": {
            "id": "arithmetic",
            "revision": None,
            "sha256": "a" * 64,
            "files": {"model.safetensors": "b" * 64, "tokenizer.json": "c" * 64},
        },
        "chat": {"style": "chat", "template_sha256": "d" * 64, "template_kwargs": {}},
        "dtype": "bfloat16",
        "device": "cuda",
        "gpus": [{"name": "NVIDIA H100", "memory": 1, "capability": "9.0"}],
        "max_model_len": 4096,
        "batch": {"rows": 256, "tokens": 8192},
        "cache": {"dtype": "auto", "prefix_caching": True},
        "arguments": {"tensor_parallel_size": 1, "seed": 0},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the provenance with one entry replaced."""
    body: dict[str, Any] = json.loads(json.dumps(VLLM))
    *parents, last = path.split("/")
    part = body
    for name in parents:
        part = part.setdefault(name, {})
    part[last] = value
    return body


def run_here(session: Session) -> Run:
    return run_benchmark(session, dispatch_here(WorkOptions())).plan.run


def say(store: Store, *provenances: Mapping[str, Any]) -> None:
    """Let the attempts of a store say these things about themselves, in turn."""
    keys = [row[0] for row in store.db.execute("SELECT id FROM attempts ORDER BY id")]
    for place, key in enumerate(keys):
        header = {"provenance": provenances[place % len(provenances)]}
        store.db.execute("UPDATE attempts SET header = ? WHERE id = ?", (json.dumps(header), key))


@pytest.fixture
def twins(session: Make, tmp_path: Path) -> Iterator[tuple[Session, Session]]:
    """The same benchmark, done in two stores."""
    left = session()
    with open_store(tmp_path / "other") as other:
        right = dataclasses.replace(left, store=other)
        run_here(left)
        run_here(right)
        say(left.store, VLLM)
        yield left, right


def test_two_runs_of_the_same_making_are_comparable(twins: tuple[Session, Session]) -> None:
    left, right = twins
    say(right.store, VLLM)

    verdict = compare_provenance(left.store, "latest", "latest", store_b=right.store)

    assert (verdict.verdict, verdict.differences) == ("comparable", ())


@pytest.mark.parametrize(
    ("path", "value", "verdict", "field", "left", "right"),
    [
        ("engine/engine", "hf", "not comparable", "engine", "vllm", "hf"),
        ("engine/dtype", "float16", "not comparable", "dtype", "bfloat16", "float16"),
        (
            "engine/model/files/model.safetensors", "e" * 64,
            "not comparable", "weights", None, None,
        ),
        ("engine/model/files/tokenizer.json", "e" * 64, "not comparable", "tokenizer", None, None),
        ("engine/chat/template_sha256", "e" * 64, "not comparable", "chat template", "d" * 12,
         "e" * 12),
        ("engine/arguments/quantization", "awq", "not comparable", "quantization", "none", "awq"),
        ("engine/libraries/vllm", "0.12.0", "caution", "vllm version", "0.11.0", "0.12.0"),
        ("engine/arguments/tensor_parallel_size", 4, "caution", "tensor parallel", "1", "4"),
        (
            "engine/gpus", [{"name": "NVIDIA A100"}],
            "caution", "gpu model", "NVIDIA H100", "NVIDIA A100",
        ),
        (
            "machine/environment", {"VLLM_BATCH_INVARIANT": "1"},
            "caution", "batch invariance", "off", "on",
        ),
        ("engine/arguments/seed", 3, "caution", "engine setting seed", "0", "3"),
        ("machine/python", "3.12.1", "comparable", "python", "3.11.9", "3.12.1"),
        ("libraries/themis-hpc", "0.2.0", "comparable", "themis-hpc version", "0.1.0", "0.2.0"),
    ],
)  # fmt: skip
def test_the_worst_difference_decides_and_is_named_with_its_reason(
    twins: tuple[Session, Session],
    path: str,
    value: Any,
    verdict: str,
    field: str,
    left: str | None,
    right: str | None,
) -> None:
    ours, theirs = twins
    say(theirs.store, changed(path, value))

    found = compare_provenance(ours.store, "latest", "latest", store_b=theirs.store)

    assert found.verdict == verdict
    (difference,) = found.differences
    assert difference.field == field
    assert difference.why
    if left is not None:
        assert (difference.left, difference.right) == (left, right)


def test_a_side_that_says_nothing_calls_for_caution(twins: tuple[Session, Session]) -> None:
    left, right = twins
    say(right.store, {})

    found = compare_provenance(left.store, "latest", "latest", store_b=right.store)

    assert found.verdict == "caution"
    assert found.differences == (
        Difference(
            "provenance", "recorded", "not recorded", "may affect results",
            "a side does not say how it came about",
        ),
    )  # fmt: skip


def test_a_run_that_reuses_answers_has_the_provenance_of_those_answers(session: Make) -> None:
    first = run_here(session())
    again = session(
        prompt_variants=[
            {"id": "plain", "messages": [{"role": "user", "content": "{item.question}"}]},
            {"id": "brief", "messages": [{"role": "user", "content": "Briefly: {item.question}"}]},
        ]
    )
    second = run_here(again)
    say(again.store, VLLM, changed("engine/dtype", "float16"))

    found = compare_provenance(again.store, first, second)

    assert [origin.candidates for origin in origins(again.store, second)] == [12, 12]
    (difference,) = (entry for entry in found.differences if entry.field == "dtype")
    assert (difference.left, difference.right) == ("bfloat16", "bfloat16 (50%), float16 (50%)")
    assert found.verdict == "not comparable"


def test_what_was_asked_otherwise_is_listed(session: Make) -> None:
    first = run_here(session())
    variants = [{"id": "plain", "messages": [{"role": "user", "content": "{item.question} Go."}]}]
    second = run_here(
        session(prompt_variants=variants, inference_grid={"params": [{"max_tokens": 9}]})
    )

    found = compare_provenance(session().store, first, second)

    assert found.verdict == "caution"
    assert [entry.field for entry in found.differences] == ["parameters", "prompt plain"]
    assert found.differences[0].left.startswith("t=0 max=32 (")
    assert found.differences[0].right.startswith("t=0 max=9 (")


def test_items_that_changed_under_one_name_are_counted(session: Make, project_dir: Path) -> None:
    first = run_here(session())
    path = project_dir / "questions.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].replace("What", "Why"), *lines[1:9]]))
    second = run_here(session())

    found = compare_provenance(session().store, first, second)

    assert found.verdict == "not comparable"
    assert [(entry.field, entry.left, entry.right) for entry in found.differences] == [
        ("item contents", "1 of 9 differ", "1 of 9 differ"),
        ("items", "12 items", "9 items"),
    ]


def test_two_models_of_one_run_differ_in_their_weights_by_intent(session: Make) -> None:
    made = session(
        models=[
            {"model_id": "arithmetic", "provider": "demo"},
            {"model_id": "echo", "provider": "demo"},
        ]
    )
    run = run_here(made)
    say(made.store, VLLM, changed("engine/model/files/model.safetensors", "e" * 64))

    found = compare_provenance(made.store, run, run, model_a="arithmetic", model_b="echo")

    assert found.verdict == "comparable"
    assert [(d.field, d.severity) for d in found.differences] == [("weights", "informational")]


def test_another_metric_under_the_same_name_is_not_comparable(session: Make) -> None:
    first = run_here(session())
    slices = session().benchmark.model_dump(mode="json")["slices"]
    slices[0]["scores"][0]["metrics"] = ["exact_match"]
    second = run_here(session(slices=slices))

    found = compare_provenance(session().store, first, second)

    assert found.verdict == "not comparable"
    assert [entry.field for entry in found.differences] == ["scoring default"]


def test_a_cpu_is_named_as_a_cause_only_where_the_model_ran_on_it(
    twins: tuple[Session, Session],
) -> None:
    left, right = twins
    on_cpu = changed("engine/device", "cpu")
    other = json.loads(json.dumps(on_cpu))
    other["machine"]["cpu"]["model"] = "Xeon"
    say(left.store, on_cpu)
    say(right.store, other)

    assert compare_provenance(left.store, "latest", "latest", store_b=right.store).verdict == (
        "caution"
    )


def test_an_attempt_without_provenance_has_no_facts() -> None:
    assert facts({}) == {}
