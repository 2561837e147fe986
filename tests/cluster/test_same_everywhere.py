"""One benchmark, three places to run it: the identities and the scores are the same."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from themis.cli import main
from themis.storage import open_store
from themis.storage.plans import find_run
from themis.storage.tables import iter_candidates

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.cluster, pytest.mark.engine]

QUESTIONS = 12


def write_project(directory: Path, tiny_chat: Path) -> Path:
    """Write a benchmark over questions that the tiny model knows by heart."""
    directory.mkdir()
    pairs = json.loads((tiny_chat / "qa.json").read_text())[:QUESTIONS]
    rows = [
        {"id": f"q{number}", "question": question, "answer": answer}
        for number, (question, answer) in enumerate(pairs)
    ]
    (directory / "qa.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (directory / "project.toml").write_text(
        'project_name = "places"\nresearcher_id = "nobody"\nglobal_seed = 3\n'
        '[storage]\nbackend = "sqlite_blob"\nroot_dir = "store"\n'
        f'[models]\ntiny = "{tiny_chat}"\n'
    )
    benchmark = {
        "benchmark_id": "places",
        "models": [{"model_id": "tiny", "provider": "hf"}],
        "slices": [
            {
                "slice_id": "known",
                "dataset": {"source": "local", "data_dir": "qa.jsonl"},
                "generation": {},
                "scores": [{"name": "verbatim", "metrics": ["exact_match", "response_length"]}],
            }
        ],
        "prompt_variants": [
            {"id": "plain", "messages": [{"role": "user", "content": "{item.question}"}]},
            {"id": "loud", "messages": [{"role": "user", "content": "{item.question}!!"}]},
        ],
        "inference_grid": {"params": [{"max_tokens": 24}]},
    }
    (directory / "benchmark.json").write_text(json.dumps(benchmark))
    return directory / "benchmark.json"


def outcome(directory: Path, *arguments: object) -> list[tuple[Any, ...]]:
    """Run a benchmark in a fresh project; return everything that must not differ."""
    command = ["run", directory / "benchmark.json", "--shard-items", "8", *arguments]
    done = CliRunner().invoke(main, [str(word) for word in command], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    with open_store(directory / "store", create=False) as store:
        run = find_run(store, "latest")
        passes = store.db.execute(
            "SELECT s.hash FROM run_scores r JOIN specs s ON s.id = r.evaluation"
        ).fetchall()
        return [
            (run.run_id, run.plan_digest, passes),
            *(
                (
                    entry.trial_hash,
                    entry.sample,
                    entry.output and entry.output["text"],
                    entry.output and entry.output["prompt_sha256"],
                    entry.evaluations["verbatim"],
                )
                for entry in iter_candidates(store, run)
            ),
        ]


def test_here_in_local_processes_and_on_slurm_the_results_are_the_same(
    cluster: object,
    require: "Callable[[object, str], None]",
    tiny_chat: Path,
    tmp_path: Path,
) -> None:
    require(_has_transformers(), "transformers is not installed")
    for name in ("here", "local", "slurm"):
        write_project(tmp_path / name, tiny_chat)
    local, slurm = tmp_path / "local.toml", tmp_path / "slurm.toml"
    local.write_text('kind = "local"\nslots = 2\n')
    slurm.write_text(
        'kind = "slurm"\npartition = "main"\ncpus = 1\nmem_gb = 2\nwalltime = 10\n'
        "signal_margin_s = 30\narray_parallelism = 2\n"
    )

    here = outcome(tmp_path / "here")
    pooled = outcome(tmp_path / "local", "--profile", local)
    dispatched = outcome(tmp_path / "slurm", "--profile", slurm)

    assert len(here) == 1 + 2 * QUESTIONS
    assert pooled == here
    assert dispatched == here
    exact = [entry[4]["scores"][0]["value"] for entry in here[1:]]
    assert exact[:QUESTIONS] == [1.0] * QUESTIONS, "the model knows the plain questions by heart"


def _has_transformers() -> bool:
    from importlib.util import find_spec

    return find_spec("transformers") is not None and find_spec("torch") is not None
