"""The configuration report: the same tree in four formats, without one secret."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from themis import generate_config_report
from themis.results.report.config_report import (
    get_config_report_renderer,
    list_config_report_renderers,
    register_config_report_renderer,
)
from themis.results.report.config_tree import (
    Node,
    config_reportable,
    config_tree,
)
from themis.specs import InferenceParamsSpec, ModelSpec, PostgresBlobStorageSpec, ProjectSpec

FORMATS = ("json", "yaml", "markdown", "latex")
URL = "postgresql://me:hunter2@db.example.org/themis"
HOSTILE = '<img src=x onerror=alert(1)>|`*_\\{}$&#%~^"\x1b[31m\u202e'


@dataclass
class Engine:
    """What runs.

    And more about it.
    """

    url: str = "http://localhost"
    """Where it listens."""
    retries: int = 3  # a network is a network
    headers: dict[str, str] = field(default_factory=dict)
    parent: Any = None


@pytest.fixture
def project() -> ProjectSpec:
    return ProjectSpec(
        project_name="study",
        researcher_id="me",
        global_seed=7,
        storage=PostgresBlobStorageSpec(database_url=SecretStr(URL), blob_root_dir="blobs"),
    )


@pytest.fixture
def config(project: ProjectSpec) -> dict[str, Any]:
    return {
        "project": project,
        "model": ModelSpec(model_id="tiny", provider="vllm", extras={"api_key": "hunter2"}),
        "params": [InferenceParamsSpec(max_tokens=64)],
        "engine": Engine(url=URL, headers={"authorization": "hunter2"}),
        "raw": {"HF_TOKEN": {"deep": ["hunter2"]}, "database_url": URL},
    }


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def find(tree: Node, path: str) -> Node:
    return next(node for node in walk(tree) if node.path == path)


def values(node: Node) -> dict[str, Any]:
    return {entry.name: entry.value for entry in node.parameters}


@pytest.mark.parametrize("verbosity", ["default", "full"])
@pytest.mark.parametrize("form", FORMATS)
def test_no_format_shows_a_secret(config: dict[str, Any], form: str, verbosity: Any) -> None:
    text = generate_config_report(config, form, verbosity=verbosity)

    assert "hunter2" not in text
    assert "REDACTED" in text
    assert "tiny" in text


def test_default_shows_what_was_chosen_and_full_shows_all(config: dict[str, Any]) -> None:
    chosen = values(find(config_tree(config), "$.params[0]"))
    everything = values(find(config_tree(config, "full"), "$.params[0]"))

    assert chosen == {"temperature": 0.0, "max_tokens": 64, "stop_sequences": []}
    assert set(everything) >= {"top_p", "schema_version", "seed", *chosen}


def test_a_parameter_says_where_it_comes_from() -> None:
    tree = config_tree(Engine(retries=5, url="http://a"))

    url, retries = tree.parameters
    assert (url.doc, url.default, url.declared_in) == (
        "Where it listens.",
        "http://localhost",
        "Engine",
    )
    assert (retries.inline_comment, retries.type_repr) == ("a network is a network", "int")
    assert retries.source_line is not None
    assert url.source_line is not None
    assert retries.source_line == url.source_line + 2
    assert tree.docstring == "What runs."


def test_no_path_of_this_machine_is_in_it(config: dict[str, Any]) -> None:
    text = generate_config_report(config, "json", verbosity="full")

    assert str(Path(__file__).parents[4]) not in text
    assert '"themis/specs/generation.py"' in text


def test_a_cycle_ends() -> None:
    engine = Engine()
    engine.parent = {"engine": engine}

    tree = config_tree(engine, "full")

    assert values(find(tree, "$.parent.engine")) == {"cycle": "shown further up"}


def test_hints_hide_redact_and_keep_fields() -> None:
    @config_reportable(
        display_name="Cluster",
        hidden_fields=["rack"],
        redacted_fields=["account"],
        paper_fields=["nodes"],
        non_paper_fields=["walltime"],
    )
    @dataclass
    class Profile:
        rack: str = "r1"
        account: str = "none"
        nodes: int = 1
        walltime: int = 60

    chosen = config_tree(Profile(rack="r2", account="a17", walltime=90))
    full = config_tree(Profile(rack="r2", account="a17", walltime=90), "full")

    assert chosen.class_name == "Cluster"
    assert values(chosen) == {"account": "***REDACTED***", "nodes": 1}
    assert set(values(full)) == {"account", "nodes", "walltime"}


def test_json_and_yaml_hold_the_same(config: dict[str, Any]) -> None:
    as_json = json.loads(generate_config_report(config, "json", entrypoint="test"))
    as_yaml = yaml.safe_load(generate_config_report(config, "yaml", entrypoint="test"))

    assert as_yaml["config"] == as_json["config"]
    header = as_json["header"]
    assert (header["project_name"], header["entrypoint"]) == ("study", "test")
    assert (header["root_type"], header["verbosity"]) == ("builtins.dict", "default")


def test_the_entrypoint_is_the_caller() -> None:
    header = json.loads(generate_config_report({}, "json"))["header"]

    assert header["entrypoint"] == f"{Path(__file__).name}:test_the_entrypoint_is_the_caller"


def test_names_and_values_cannot_become_markup() -> None:
    text = generate_config_report({HOSTILE: {"a": HOSTILE, HOSTILE: 1}}, "markdown")

    assert re.findall(r"(?<!\\)<(?!/?details|/?summary)", text) == []
    for line in text.splitlines():
        if line.startswith("<summary>"):
            assert line.count("<") == 2
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 4
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_latex_is_escaped_and_balanced() -> None:
    text = generate_config_report({HOSTILE: {"a": HOSTILE}}, "latex")

    body = text[text.index(r"\begin{longtable}") :]
    bare = re.sub(r"\\[{}]", "", body)
    assert bare.count("{") == bare.count("}")
    assert r"\textbackslash{}\{\}\$\&\#\%\textasciitilde{}\textasciicircum{}{\char34}" in body
    assert not re.search(r"(?<!\\)[#%$_^~]", body)


def test_a_renderer_can_be_added_once(config: dict[str, Any]) -> None:
    register_config_report_renderer("names", lambda _, tree: tree.name, overwrite=True)

    assert generate_config_report(config, "names") == "dict"
    assert "names" in list_config_report_renderers()
    with pytest.raises(ValueError, match="already"):
        register_config_report_renderer("names", get_config_report_renderer("json"))


def test_an_unknown_format_or_verbosity_names_those_there_are(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"known: .*json.*latex.*markdown"):
        generate_config_report(config, "docx")
    with pytest.raises(ValueError, match="known: default, full"):
        generate_config_report(config, verbosity="loud")  # type: ignore[arg-type]


def test_it_is_written_to_a_file_too(config: dict[str, Any], tmp_path: Path) -> None:
    text = generate_config_report(config, "json", tmp_path / "setup.json")

    assert (tmp_path / "setup.json").read_text() == text
