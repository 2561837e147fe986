"""What the worker costs on top of the bare engine: the same requests, side by side.

    python tests/benchmarks/bench_engines.py --engine hf --engine vllm
    python tests/benchmarks/bench_engines.py --engine vllm --model DIR --requests 32

Each engine is loaded once in a process of its own. The bare loop is the engine's own way from
conversations to texts (`LLM.chat`; template, tokenizer and `generate` of transformers on batches
sorted by length); the worker reads a bundle, renders, drives, digests, writes, and syncs to the
disk. The two take turns, and the smallest CPU time of each counts: on a shared machine that is
the one least disturbed. Answers have their full length unless `--short`. Targets: at most 6 %
CPU on a tiny model, 3 % on a real one.
"""

import argparse
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "tests" / "fixtures" / "tiny_chat"
OPTIONS: dict[str, dict[str, Any]] = {
    "hf": {},
    "vllm": {
        "threads": 1,
        "max_num_seqs": 64,
        "max_model_len": 512,
        "kv_cache_memory_bytes": 128 << 20,
    },
}


@dataclass(frozen=True)
class Cost:
    """What one pass over all requests took."""

    wall: float
    cpu: float
    tokens: int


def main() -> int:
    """Run each engine in a process of its own and print a table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--engine", action="append", choices=sorted(OPTIONS), default=[])
    parser.add_argument("--model", type=Path, default=TINY, help="a model directory")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--short", action="store_true", help="let answers end by themselves")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.engine[-1], given)))
        return 0
    for engine in given.engine or sorted(OPTIONS):
        result = _in_own_process(engine, sys.argv[1:])
        print(json.dumps(result) if given.json else _line(result))
    return 0


def measure(engine: str, given: argparse.Namespace) -> dict[str, Any]:
    """Return the costs of the bare engine and of the worker, and their ratio."""
    from themis.generation import worker
    from themis.providers import EngineSettings, create_engine

    questions = _questions(given.model, given.requests)
    loaded: Any = create_engine(
        EngineSettings(engine, "bench", model_path=given.model, options=OPTIONS[engine])
    )
    conversations = [[{"role": "user", "content": question}] for question in questions]
    bare = {"hf": _bare_hf, "vllm": _bare_vllm}[engine](
        loaded, conversations, given.max_tokens, short=given.short
    )
    forget: Callable[[], object] = (
        loaded._llm.reset_prefix_cache if engine == "vllm" else lambda: None
    )
    # The worker gets the loaded engine, and leaves it open.
    loaded.close = loaded.cancel
    worker.__dict__["create_engine"] = lambda _: loaded
    costs: dict[str, list[Cost]] = {"bare": [], "worker": []}
    with tempfile.TemporaryDirectory() as folder:
        path = _bundle(Path(folder), engine, questions, given)
        bare()
        for number in range(given.rounds):
            results = Path(folder) / f"results-{number}"
            forget()
            costs["bare"].append(_timed(bare))
            forget()
            costs["worker"].append(_timed(functools.partial(_work, path, given.model, results)))
    best = {name: min(found, key=lambda cost: cost.cpu) for name, found in costs.items()}
    return {
        "engine": engine,
        "model": given.model.name,
        "requests": len(questions),
        "cost": {
            name: {
                "cpu_s": round(cost.cpu, 3),
                "wall_s": round(cost.wall, 3),
                "tokens": cost.tokens,
                "tokens_per_s": round(cost.tokens / cost.wall, 1),
            }
            for name, cost in best.items()
        },
        "cpu_ratio": round(best["worker"].cpu / best["bare"].cpu, 3),
        "extra_us_per_request": round(
            (best["worker"].cpu - best["bare"].cpu) / len(questions) * 1e6, 1
        ),
    }


def _timed(run: Callable[[], int]) -> Cost:
    cpu, wall = time.process_time(), time.perf_counter()
    tokens = run()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu, tokens)


def _work(path: Path, model: Path, results: Path) -> int:
    """Run the shard, and return how many tokens its status file counts."""
    from themis.generation.worker import WorkOptions, work_shard

    outcome = work_shard(path, 0, WorkOptions(results=results, model_paths={"bench": str(model)}))
    if outcome.state != "complete":
        raise RuntimeError(outcome.cause)
    status = json.loads((results / "00000" / f"{outcome.attempt}.json").read_bytes())
    return int(status["tokens"])


def _questions(model: Path, count: int) -> list[str]:
    if (model / "qa.json").is_file():
        known = [question for question, _ in json.loads((model / "qa.json").read_text())]
    else:
        lines = (ROOT / "tests" / "fixtures" / "gsm8k" / "test_head.jsonl").read_text().splitlines()
        known = [json.loads(line)["question"] for line in lines]
    return list(itertools.islice(itertools.cycle(known), count))


def _bundle(folder: Path, engine: str, questions: Sequence[str], given: argparse.Namespace) -> Path:
    from themis.specs import InferenceParamsSpec, ModelSpec
    from themis_bundles import BundleInfo, BundleWriter, GroupSpec

    path = folder / "bundle"
    info = BundleInfo(
        stage="generation",
        run_id="bench",
        created_for={"project": "bench", "benchmark": "bench"},
        date="2026-01-01",
    )
    model = ModelSpec(model_id="bench", provider=engine)
    params = InferenceParamsSpec.model_validate(
        {"max_tokens": given.max_tokens, "extras": {} if given.short else {"ignore_eos": True}}
    )
    with BundleWriter(path, info, shard_items=len(questions)) as writer:
        refs = {
            "model": writer.component("model", model.canonical_dict()),
            "params": writer.component("params", params.canonical_dict()),
            "prompt": writer.component("prompt", {"prompt_variant_id": "bench"}),
            "slice": writer.component("slice", {"slice_id": "bench"}),
        }
        writer.start_group(GroupSpec(refs["model"], engine, "bench"))
        for number, question in enumerate(questions):
            messages = [{"role": "user", "content": question}]
            item = {
                "id": f"{number:032x}",
                "refs": refs,
                "request": {"messages": messages, "seed": number},
                "sample": 0,
            }
            writer.add(item, prompt_tokens=16, max_new_tokens=given.max_tokens)
    return path


def _in_own_process(engine: str, arguments: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", *arguments, "--engine", engine]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _line(result: dict[str, Any]) -> str:
    bare, work = result["cost"]["bare"], result["cost"]["worker"]
    return (
        f"{result['engine']:5} {result['model']}: {result['requests']} requests, "
        f"{work['tokens']} tokens; bare {bare['tokens_per_s']:.0f} tok/s, {bare['cpu_s']} CPU s; "
        f"worker {work['tokens_per_s']:.0f} tok/s, {work['cpu_s']} CPU s; "
        f"CPU ratio {result['cpu_ratio']}, {result['extra_us_per_request']} us a request"
    )


Conversations = Sequence[list[dict[str, str]]]


def _bare_vllm(
    engine: Any, conversations: Conversations, max_tokens: int, *, short: bool
) -> Callable[[], int]:
    from vllm import SamplingParams

    def run() -> int:
        params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=not short)
        outputs = engine._llm.chat(list(conversations), params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def _bare_hf(
    engine: Any, conversations: Conversations, max_tokens: int, *, short: bool
) -> Callable[[], int]:
    import torch

    model, pad, tokenizer = engine._model, engine._pad, engine._renderer.tokenizer
    ends = sorted(engine._ends) if short else []

    def run() -> int:
        tokens = 0
        texts = [
            tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            for turns in conversations
        ]
        prompts = tokenizer(texts, add_special_tokens=False)["input_ids"]
        ordered = sorted(prompts, key=len, reverse=True)
        for start in range(0, len(ordered), engine._rows):
            batch = ordered[start : start + engine._rows]
            width = len(batch[0])
            ids = torch.tensor([[pad] * (width - len(row)) + row for row in batch])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
            with torch.inference_mode():
                out = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    do_sample=False,
                    max_new_tokens=max_tokens,
                    eos_token_id=ends or None,
                )
            for row in out[:, width:].tolist():
                end = next((place for place, token in enumerate(row) if token in ends), None)
                answer = row if end is None else row[: end + 1]
                tokenizer.decode(answer, skip_special_tokens=True)
                tokens += len(answer)
        return tokens

    return run


if __name__ == "__main__":
    sys.exit(main())
