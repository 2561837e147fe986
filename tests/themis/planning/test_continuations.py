"""Continuations are taken from the item or from templates, and refused where they are missing."""

from typing import Any

import pytest

from themis import identity
from themis.errors import SpecValidationError
from themis.planning.continuations import compile_continuations
from themis.specs import BenchmarkSpec, PromptVariantSpec
from themis.specs.loading import validate_spec


def variant(**continuations: Any) -> PromptVariantSpec:
    body = {
        "id": "v",
        "messages": [{"role": "user", "content": "{item.question}"}],
        "continuations": continuations,
    }
    return PromptVariantSpec.model_validate(body)


def texts_of(item: dict[str, Any], **continuations: Any) -> list[str]:
    compiled = compile_continuations(variant(**continuations))
    assert compiled is not None
    return compiled.of({"item_id": "q1", **item}, {"slice_id": "s"})


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (["a", "b"], ["a", "b"]),
        ("whole text", ["whole text"]),
        ([1, 2.5, True], ["1", "2.5", "true"]),
    ],
)
def test_a_field_holds_a_list_or_one_text(value: Any, texts: list[str]) -> None:
    assert texts_of({"choices": value}, field="choices") == texts


def test_a_path_leads_into_objects() -> None:
    assert texts_of({"choices": {"text": ["x", "y"]}}, field="choices.text") == ["x", "y"]


def test_texts_are_templates() -> None:
    item = {"option1": "Ann", "option2": "Bob"}

    assert texts_of(item, texts=["{item.option1} won", "{option2}", "no {}"]) == [
        "Ann won",
        "Bob",
        "no {}",
    ]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({}, "no field 'choices'"),
        ({"choices": []}, "neither text nor a list of texts"),
        ({"choices": None}, "neither text nor a list of texts"),
        ({"choices": ["a", {"b": 1}]}, "neither text nor a list of texts"),
        ({"choices": ["a", ""]}, "continuation 2 is empty"),
        ({"choices": ""}, "continuation 1 is empty"),
    ],
)
def test_what_is_missing_or_empty_is_refused_by_name(item: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecValidationError, match="Slice 's', item 'q1'") as caught:
        texts_of(item, field="choices")

    assert words in str(caught.value)


@pytest.mark.parametrize("continuations", [{}, {"field": "choices", "texts": ["a"]}])
def test_the_spec_names_one_source(continuations: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either a field or texts"):
        variant(**continuations)


class TestIdentity:
    """Continuations are part of what a model is asked; asking for an answer is as it was."""

    MESSAGES = ({"role": "user", "content": "1 + 1?"},)

    def test_an_answers_prompt_hash_is_that_of_its_messages(self) -> None:
        assert identity.prompt_hash(self.MESSAGES) == identity.digest(list(self.MESSAGES))

    def test_each_list_of_continuations_is_another_request(self) -> None:
        asked: list[list[str] | None] = [None, ["a"], ["a", "b"], ["b", "a"], ["ab"]]

        assert len({identity.prompt_hash(self.MESSAGES, each) for each in asked}) == len(asked)

    def test_a_variant_without_continuations_keeps_its_hash(self) -> None:
        plain = PromptVariantSpec.model_validate(
            {"id": "v", "messages": [{"role": "user", "content": "{item.question}"}]}
        )

        assert "continuations" not in plain.canonical_dict()
        assert plain.canonical_hash != variant(field="choices").canonical_hash


def test_a_benchmark_file_may_ask_for_likelihoods() -> None:
    spec = validate_spec(
        BenchmarkSpec,
        {
            "benchmark_id": "b",
            "models": [{"model_id": "echo", "provider": "demo"}],
            "inference_grid": {"params": [{}]},
            "prompt_variants": [
                {
                    "id": "v",
                    "messages": [{"role": "user", "content": "x"}],
                    "continuations": {"texts": ["yes", "no"]},
                }
            ],
            "slices": [
                {
                    "slice_id": "s",
                    "dataset": {"source": "local", "data_dir": "d.jsonl"},
                    "generation": {},
                }
            ],
        },
        source="b.toml",
    )

    continuations = spec.prompt_variants[0].continuations
    assert continuations is not None
    assert continuations.texts == ["yes", "no"]
