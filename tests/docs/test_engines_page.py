"""The example of likelihoods runs, and leaves the record that the page shows."""

import json
import re
from pathlib import Path

from click.testing import CliRunner

from themis.cli import main
from themis.storage import open_store
from themis.storage.plans import find_run
from themis.storage.tables import iter_candidates

PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_of_likelihoods_leaves_the_record_that_the_page_shows(tmp_path: Path) -> None:
    (benchmark,) = [block for block in blocks("toml") if "continuations" in block]
    item, shown = (block for block in blocks("json"))
    assert CliRunner().invoke(main, ["init", str(tmp_path / "eval")]).exit_code == 0
    (tmp_path / "eval" / "choices.toml").write_text(benchmark)
    (tmp_path / "eval" / "choices.jsonl").write_text(item)

    done = CliRunner().invoke(main, ["run", str(tmp_path / "eval" / "choices.toml")])

    assert done.exit_code == 0, done.output
    assert "choice_loglikelihood_acc" in done.output
    with open_store(tmp_path / "eval" / "store") as store:
        (candidate,) = iter_candidates(store, find_run(store, "latest"))
    assert candidate.output is not None
    expected = json.loads(shown)
    found = dict(candidate.output)
    found["loglikelihoods"] = found["loglikelihoods"][: len(expected["loglikelihoods"])]
    assert {name: found[name] for name in expected} == expected
