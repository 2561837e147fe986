"""The golden bundles are what this code writes, and every broken one is refused in its words."""

import ast
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import themis_bundles
from themis_bundles import Bundle, Problem, canonical_json, parse_canonical, sha256_hex, verify
from themis_bundles.frames import compressor

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "bundles/golden"
VALID = sorted(path for path in (GOLDEN / "valid").iterdir() if path.is_dir())
INVALID = sorted(path for path in (GOLDEN / "invalid").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", GOLDEN / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


def test_the_golden_files_are_what_the_code_makes(generate: ModuleType) -> None:
    assert generate.differences() == []


def test_a_changed_golden_file_is_noticed(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(GOLDEN, tmp_path / "golden", symlinks=True)
    name = "valid/worked/data/items/00001.ids"
    (tmp_path / "golden" / name).write_bytes(bytes(32))
    (tmp_path / "golden/valid/surprise").write_bytes(b"")
    monkeypatch.setattr(generate, "GOLDEN", tmp_path / "golden")

    assert generate.differences() == ["valid/surprise", name]


def test_the_valid_bundles_are_those_of_this_version(generate: ModuleType) -> None:
    assert generate.thawed(GOLDEN) == []


def test_other_bytes_under_the_same_version_are_not_written(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(GOLDEN, tmp_path / "golden", symlinks=True)
    monkeypatch.setattr(generate, "GOLDEN", tmp_path / "golden")
    monkeypatch.setattr(sys, "argv", ["generate.py"])
    before = generate.content(tmp_path / "golden")
    monkeypatch.setattr("themis_bundles.writer.compressor", lambda _: compressor(9))

    with pytest.raises(SystemExit, match=r"the bytes of format 1\.0 would change; read FROZEN"):
        generate.main()

    assert generate.content(tmp_path / "golden") == before


def test_the_tool_writes_what_is_checked_in(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "GOLDEN", tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate.py"])

    generate.main()

    assert generate.content(tmp_path) == generate.content(GOLDEN)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.name)
def test_a_valid_bundle_is_taken(path: Path) -> None:
    census = verify(Bundle.open(path))

    assert not census.refused
    assert {problem.kind for problem in census.problems} <= {"note"}
    notes = (path.parent / f"{path.name}.PROBLEMS").read_text().splitlines()
    assert [str(problem) for problem in census.problems] == notes


def test_the_valid_bundles_count_as_they_should() -> None:
    counts = {
        path.name: {k: n for k, n in verify(Bundle.open(path)).counts.items() if n}
        for path in VALID
    }

    assert counts == {
        "empty": {},
        "evaluation": {"missing": 2},
        "generation": {"missing": 3},
        "killed": {"ok": 1, "missing": 2},
        "resumed": {"ok": 1, "model_error": 1, "superseded": 1, "missing": 1},
        "worked": {"ok": 3},
    }


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.name)
def test_a_broken_bundle_is_refused_in_its_words(path: Path, generate: ModuleType) -> None:
    expected = (path.parent / f"{path.name}.PROBLEMS").read_text().splitlines()

    found = generate.problems(path)

    assert found == expected
    assert expected


MODULES = ("reader", "attempts", "scan", "census", "bagcheck", "frames", "items", "repair")
REPORTING = {"FrameDamagedError", "Problem", "_problem", "add", "_add", "Wrong"}
WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")
IN_TEXT = re.compile(rf"(?:^|: )({WORD.pattern}): ")
WITHOUT_A_BUNDLE = {
    "changed": "a file that changes while it is read cannot be checked in",
    "frame-magic": "becomes the reason of `tail` and `junk`",
    "frame-block": "becomes the reason of `tail` and `junk`",
}


def rules_in(source: str) -> Iterator[str]:
    """Give every rule that some code reports, by call or in a text."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            texts = [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
            if name in REPORTING:
                yield from (text for text in texts if WORD.fullmatch(text) and text != "note")
        elif isinstance(node, ast.JoinedStr):
            docstrings |= {id(part) for part in node.values}
            parts = [getattr(part, "value", "") for part in node.values]
            text = "".join(part if isinstance(part, str) else "{}" for part in parts)
            yield from IN_TEXT.findall(text)[:1]
        elif isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield from IN_TEXT.findall(str(node.value))[:1]


@pytest.fixture(scope="module")
def rules() -> set[str]:
    """Every rule that the code reports of a bundle or its results."""
    folder = Path(themis_bundles.__file__).parent
    return {r for name in MODULES for r in rules_in((folder / f"{name}.py").read_text())}


def test_every_rule_is_found_in_the_code() -> None:
    source = """
raise FrameDamagedError("one", words)
self._problem(frame, 1, "two", "not this")
reason = f"{name}: three-words: {frames} of {count}: not that"
reason = "four: an object was expected"
problem = Problem(name, None, None, "five", message, "note")
"""

    assert set(rules_in(source)) == {"one", "two", "three-words", "four", "five"}


def test_every_rule_has_a_broken_bundle(rules: set[str]) -> None:
    shown = {
        Problem.parse(line).rule
        for path in (*GOLDEN.glob("invalid/*.PROBLEMS"), *GOLDEN.glob("valid/*.PROBLEMS"))
        for line in path.read_text().splitlines()
    }

    assert len(rules) > 30
    assert rules - shown == WITHOUT_A_BUNDLE.keys()
    assert shown <= rules


def test_every_rule_is_documented(rules: set[str]) -> None:
    page = (ROOT / "docs/bundle-format.md").read_text()
    table = page.split("### Rules\n")[1].split("\n## ")[0]

    documented = set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE))

    # The two name the reason of another rule, so nobody meets them as a rule.
    assert documented == rules - {"frame-magic", "frame-block"}


def test_the_vectors_pin_the_canonical_form() -> None:
    lines = (GOLDEN / "vectors.jsonl").read_bytes().splitlines()

    for line in lines:
        vector = json.loads(line)
        data = vector["canonical"].encode()
        assert canonical_json(parse_canonical(data)) == data
        assert canonical_json(json.loads(data)) == data
        assert sha256_hex(data) == vector["sha256"]
