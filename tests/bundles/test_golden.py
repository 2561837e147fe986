"""The golden bundles are what this code writes, and every broken one is refused in its words."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from themis_bundles import Bundle, canonical_json, parse_canonical, sha256_hex, verify

GOLDEN = Path(__file__).parents[2] / "bundles/golden"
VALID = sorted((GOLDEN / "valid").iterdir())
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
    shutil.copytree(GOLDEN, tmp_path / "golden")
    name = "valid/worked/data/items/00001.ids"
    (tmp_path / "golden" / name).write_bytes(bytes(32))
    (tmp_path / "golden/valid/surprise").write_bytes(b"")
    monkeypatch.setattr(generate, "GOLDEN", tmp_path / "golden")

    assert generate.differences() == ["valid/surprise", name]


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.name)
def test_a_valid_bundle_is_taken(path: Path) -> None:
    census = verify(Bundle.open(path))

    assert not census.refused
    assert {problem.rule for problem in census.problems} <= {"torn-tail"}


def test_the_valid_bundles_count_as_they_should() -> None:
    counts = {
        path.name: {k: n for k, n in verify(Bundle.open(path)).counts.items() if n}
        for path in VALID
    }

    assert counts == {
        "empty": {},
        "evaluation": {"missing": 2},
        "generation": {"missing": 3},
        "resumed": {"ok": 1, "model_error": 1, "superseded": 1, "missing": 1},
        "worked": {"ok": 3},
    }


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.name)
def test_a_broken_bundle_is_refused_in_its_words(path: Path, generate: ModuleType) -> None:
    expected = (path.parent / f"{path.name}.PROBLEMS").read_text().splitlines()

    found = generate.problems(path)

    assert found == expected
    assert expected


def test_the_vectors_pin_the_canonical_form() -> None:
    lines = (GOLDEN / "vectors.jsonl").read_bytes().splitlines()

    for line in lines:
        vector = json.loads(line)
        data = vector["canonical"].encode()
        assert canonical_json(parse_canonical(data)) == data
        assert canonical_json(json.loads(data)) == data
        assert sha256_hex(data) == vector["sha256"]
