"""`themis gate`: the exit code is the verdict, and nothing else can look like one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Themis = Callable[..., Result]

KEEPS_UP = """
[[rules]]
check = "non_inferior"
metric = "numeric_match"
margin = 0.1
group_by = ["prompt_variant_id"]

[[rules]]
check = "max_share"
of = "absent"
value = 0.0
"""


@pytest.fixture
def ran(project: Path, themis: Themis) -> Path:
    """The scaffold's benchmark with one good and one bad model, done."""
    text = Path("benchmark.toml").read_text()
    second = '[[models]]\nmodel_id = "echo"\nprovider = "demo"\n\n[[slices]]'
    Path("benchmark.toml").write_text(text.replace("[[slices]]", second, 1))
    assert themis("run", "benchmark.toml").exit_code == 0
    Path("policy.toml").write_text(KEEPS_UP)
    return project


def test_a_run_that_keeps_up_passes_with_0(ran: Path, themis: Themis) -> None:
    done = themis("gate", "policy.toml", "my-eval", "latest")

    assert done.exit_code == 0, done.output
    assert "gate: pass (6 of 6 checks pass)" in done.stdout
    assert "comparable" in done.stdout


def test_a_worse_model_fails_with_1(ran: Path, themis: Themis) -> None:
    done = themis("gate", "policy.toml", "arithmetic", "echo", "--run", "my-eval", "--json")

    body = json.loads(done.stdout)
    assert done.exit_code == 1
    assert body["verdict"] == "fail"
    assert [(f["verdict"], f["keys"]["model_id"]) for f in body["findings"]] == [
        ("fail", "arithmetic → echo"),
        ("fail", "arithmetic → echo"),
        ("pass", "arithmetic"),
        ("pass", "echo"),
    ]
    assert body["comparability"]["verdict"] == "comparable"


def test_too_few_items_to_tell_is_inconclusive_with_2(ran: Path, themis: Themis) -> None:
    Path("policy.toml").write_text(KEEPS_UP.replace("margin = 0.1", "margin = 0.01"))

    done = themis("gate", "policy.toml", "my-eval", "latest")

    assert done.exit_code == 2
    assert "gate: inconclusive" in done.stdout
    assert "may be above or below -0.01" in done.stdout


def test_runs_of_two_stores_are_judged(ran: Path, themis: Themis) -> None:
    shutil.copytree("store", "old")

    done = themis("gate", "policy.toml", "my-eval", "latest", "--base-store", "old")
    alone = themis("gate", "policy.toml", "my-eval", "latest", "--store", "old")

    assert (done.exit_code, alone.exit_code) == (0, 0)


@pytest.mark.parametrize(
    ("policy", "arguments", "said"),
    [
        (KEEPS_UP.replace("margin", "margn"), ("my-eval", "latest"), "rules[0].non_inferior.margn"),
        ("rules = 3", ("my-eval", "latest"), "policy.toml is not a valid GatePolicy"),
        ("[[rules", ("my-eval", "latest"), "policy.toml: "),
        (KEEPS_UP, ("nobody", "latest"), "no run has the name 'nobody'"),
        (KEEPS_UP.replace("numeric_match", "speed"), ("my-eval", "latest"), "rules[0]: no metric"),
        (KEEPS_UP, ("my-eval",), "Missing argument 'NEW'"),
        (KEEPS_UP, ("my-eval", "latest", "--colour"), "No such option"),
        (KEEPS_UP, ("a", "b", "--run", "my-eval"), "the base run has no model 'a'"),
        (KEEPS_UP, ("my-eval", "latest", "--store", "nowhere"), "nowhere: no store here"),
    ],
)
def test_without_a_verdict_the_exit_code_is_4(
    ran: Path, themis: Themis, policy: str, arguments: tuple[str, ...], said: str
) -> None:
    Path("policy.toml").write_text(policy)

    done = themis("gate", "policy.toml", *arguments)

    assert done.exit_code == 4, done.output
    assert said in done.stderr
    assert "gate:" not in done.stdout
