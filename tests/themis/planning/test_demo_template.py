"""The demonstration that ships plans as it is, on the data it names."""

from pathlib import Path

import pytest

from themis.evaluation import PluginRegistry, Scorer
from themis.planning import load_items
from themis.planning.prompts import compile_variant, item_namespace
from themis.specs import BenchmarkSpec
from themis.specs.loading import load_benchmark

DEMO = Path(__file__).parents[3] / "themis" / "cli" / "templates" / "demo"


@pytest.fixture
def benchmark() -> BenchmarkSpec:
    return load_benchmark(DEMO / "benchmark.toml").spec


def test_it_asks_fifty_six_questions_in_two_ways(benchmark: BenchmarkSpec) -> None:
    asked = {}
    for part in benchmark.slices:
        items = list(load_items(part, base_dir=DEMO, global_seed=1))
        for variant in benchmark.prompt_variants:
            compiled = compile_variant(variant)
            prompts = {
                compiled.render(
                    item_namespace(item.item_id, item.payload, item.metadata),
                    {"slice_id": part.slice_id},
                )[-1]["content"]
                for item in items
            }
            assert prompts == {item.payload["question"] for item in items}
        asked[part.slice_id] = len(items)

    assert asked == {"arithmetic": 40, "gsm8k": 16}


def test_every_question_can_be_scored(benchmark: BenchmarkSpec) -> None:
    for part in benchmark.slices:
        (score,), (parse,) = part.scores, part.parses
        scorer = Scorer.compile(transform=parse, metrics=score.metrics, registry=PluginRegistry())
        for item in load_items(part, base_dir=DEMO, global_seed=1):
            right = item.payload["answer"].rpartition("#### ")[2]
            values = [
                scorer.score({"text": text}, item.payload).scores[0].value
                for text in (f"It is 5 and so {right}.", "It is 123456789.5")
            ]

            assert values == [1, 0]


def test_the_questions_shipped_are_those_of_the_fixture(fixtures: Path) -> None:
    shipped = (DEMO / "data" / "gsm8k.jsonl").read_text()

    assert (fixtures / "gsm8k" / "test_head.jsonl").read_text().startswith(shipped)
    assert (DEMO / "data" / "LICENSE.gsm8k").read_text() == (
        fixtures / "gsm8k" / "LICENSE"
    ).read_text()
