"""The documented models and the fast structs take the same lines, and the schemas are current."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from themis_bundles import Bundle, canonical_json, parse_canonical
from themis_bundles.published import (
    MODELS,
    SCHEMAS,
    Error,
    EvaluationOk,
    GenerationOk,
    schema_files,
)
from themis_bundles.records import Decoder

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

GOOD: dict[str, list[dict[str, Any]]] = {
    "generation": [
        {
            "status": "ok",
            "record": {
                "text": "x",
                "finish_reason": "stop",
                "usage": {"prompt_tokens": 1, "completion_tokens": 0, "cached_tokens": None},
                "latency_ms": 1,
                "stop_reason": 7,
                "prompt_sha256": "0" * 64,
                "logprobs": [[1, -0.5]],
                "flags": ["replaced"],
                "unknown": {"fields": "are ignored"},
            },
        },
        {
            "status": "error",
            "record": {
                "error": {"kind": "infra", "code": "c", "message": "m", "retryable": True},
                "latency_ms": 2.5,
            },
        },
    ],
    "evaluation": [
        {"status": "ok", "record": {"extraction": None, "scores": []}},
        {
            "status": "ok",
            "record": {
                "extraction": {"extractor": "e", "success": False, "value": [1], "reason": "r"},
                "scores": [{"metric": "m", "value": None, "details": {"a": 1}, "error": "e"}],
            },
        },
    ],
}
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 1, 1.5, 2**53 - 1, "", "ok", "error", "model", "0" * 64, [], {}, [1], ["a"]]
)


def model_takes(stage: str, value: object) -> bool:
    ok = GenerationOk if stage == "generation" else EvaluationOk
    return any(_valid(model, value) for model in (ok, Error))


def _valid(model: type[BaseModel], value: object) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True


def struct_takes(stage: str, line: bytes) -> bool:
    decoder = Decoder(stage)
    taken = []
    for decode, data in ((decoder.one, line), (decoder.many, b"[%b]" % line)):
        try:
            decode(data)
        except msgspec.DecodeError:
            taken.append(False)
        else:
            taken.append(True)
    assert taken[0] == taken[1]
    return taken[0]


def places(value: object) -> list[tuple[object, ...]]:
    if isinstance(value, dict):
        inner = [(key, *rest) for key, child in value.items() for rest in places(child)]
    elif isinstance(value, list):
        inner = [(key, *rest) for key, child in enumerate(value) for rest in places(child)]
    else:
        inner = []
    return [(), *inner]


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, Any]:
    """A good line with one value changed, removed or added anywhere."""
    stage = draw(st.sampled_from(sorted(GOOD)))
    good = {"item_sha256": "0" * 64, "seq": 3, **draw(st.sampled_from(GOOD[stage]))}
    value = parse_canonical(canonical_json(good))
    *above, last = draw(st.sampled_from(places(value)[1:]))
    parent = value
    for key in above:
        parent = parent[key]
    action = draw(st.sampled_from(["change", "remove", "add"]))
    if action == "remove":
        del parent[last]
    elif action == "add" and isinstance(parent, dict):
        parent["surprise"] = draw(VALUES)
    else:
        parent[last] = draw(VALUES)
    return stage, value


@settings(max_examples=1500, deadline=None)
@given(lines())
@example(("generation", [1]))
@example(("evaluation", None))
def test_structs_and_models_take_the_same_lines(case: tuple[str, Any]) -> None:
    stage, value = case

    assert struct_takes(stage, canonical_json(value)) == model_takes(stage, value), value


@pytest.mark.parametrize("stage", GOOD)
def test_good_lines_are_taken(stage: str) -> None:
    for line in GOOD[stage]:
        value = {"item_sha256": "0" * 64, "seq": 3, **line}

        assert struct_takes(stage, canonical_json(value))
        assert model_takes(stage, value)


def test_the_schemas_are_those_of_the_models() -> None:
    found = {path.name: path.read_bytes() for path in SCHEMAS.glob("*")}

    assert found == schema_files()


def test_every_field_is_described() -> None:
    for name, model in MODELS.items():
        for field, info in model.model_fields.items():
            assert info.description, f"{name}: {field}"


def test_what_is_written_fits_the_schemas(tmp_path: Path, kit: "Kit") -> None:
    bundle = kit.bundle(tmp_path / "b")
    kit.work(bundle, 0, "a")

    def check(name: str, value: object) -> None:
        schema = parse_canonical(canonical_json(MODELS[name].model_json_schema()))
        jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)

    check("manifest", bundle.manifest.model_dump(mode="json"))
    for item in bundle.iter_items(0):
        check("generation-item", item.body)
    for component in bundle.components():
        fields = ("index", "kind", "sha256", "body")
        check("component", {field: getattr(component, field) for field in fields})
    for name in ("status", "done"):
        path = bundle.results_dir / "00000" / ("a.json" if name == "status" else "done.json")
        check(name, parse_canonical(path.read_bytes()[:-1]))


def test_a_bundle_of_the_kit_holds_documented_items(bundle: Bundle) -> None:
    for shard in bundle.shards:
        for item in bundle.iter_items(shard.index):
            MODELS["generation-item"].model_validate(item.body)
