"""A model directory is checked before anything loads it."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from themis.errors import EnvironmentNotReadyError
from themis.providers import check_model_directory, resolve_model
from themis.providers import models as models_module

pytest.importorskip("tokenizers")


@pytest.fixture
def model(tiny_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small model, with a digest cache of its own."""
    monkeypatch.setenv("THEMIS_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(tiny_chat, tmp_path / "model"))


def test_a_whole_directory_has_no_problems(model: Path) -> None:
    found = check_model_directory(model)

    assert found.problems == ()
    assert "model.safetensors" in found.files


def cut_weights(model: Path) -> None:
    weights = model / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 4)


def lengthen_weights(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as stream:
        stream.write(b"\0\0\0\0")


def hole_between_tensors(model: Path) -> None:
    entry = {"dtype": "F32", "shape": [1]}
    header = json.dumps(
        {"a": {**entry, "data_offsets": [0, 4]}, "b": {**entry, "data_offsets": [8, 12]}}
    ).encode()
    body = len(header).to_bytes(8, "little") + header + bytes(12)
    (model / "model.safetensors").write_bytes(body)


def wrong_shape(model: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode()
    body = len(header).to_bytes(8, "little") + header + bytes(4)
    (model / "model.safetensors").write_bytes(body)


def cut_header(model: Path) -> None:
    os.truncate(model / "model.safetensors", 100)


def pickle_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def index_names_a_missing_file(model: Path) -> None:
    body = {"weight_map": {"a": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(body))


def index_names_a_missing_tensor(model: Path) -> None:
    body = {"weight_map": {"no.such.tensor": "model.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(body))


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def broken_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")


def deaf_tokenizer(model: Path) -> None:
    """Without its vocabulary a tokenizer loads and turns every text into nothing."""
    body = json.loads((model / "tokenizer.json").read_text())
    body["model"] = {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}
    (model / "tokenizer.json").write_text(json.dumps(body))


def no_config(model: Path) -> None:
    (model / "config.json").unlink()


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def one_part_of_two(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")


def tokenizer_of_a_larger_model(model: Path) -> None:
    config = json.loads((model / "config.json").read_bytes())
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))


def tokenizer_of_a_smaller_model(model: Path) -> None:
    ends = {"eos_token_id": [2, 151_645]}
    (model / "generation_config.json").write_text(json.dumps(ends))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_weights, "the tensors end at byte"),
        (lengthen_weights, "the tensors end at byte"),
        (cut_header, "header is cut off"),
        (hole_between_tensors, "b begins at byte 8, expected 4"),
        (wrong_shape, "does not fit its shape"),
        (pickle_weights, "pickled"),
        (no_weights, "no safetensors file"),
        (index_names_a_missing_file, "which is missing"),
        (index_names_a_missing_tensor, r"no\.such\.tensor"),
        (no_tokenizer, "no tokenizer"),
        (broken_tokenizer, "tokenizer does not load"),
        (deaf_tokenizer, "the tokenizer turns"),
        (no_config, "config.json is missing"),
        (one_part_of_two, "1 of 2 weight files"),
        (tokenizer_of_a_larger_model, "words and the model 100"),
        (tokenizer_of_a_smaller_model, "token 151645, which the tokenizer does not have"),
    ],
)
def test_a_damaged_directory_names_its_problem(
    model: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(model)

    found = check_model_directory(model)

    assert len(found.problems) == 1
    assert re.search(words, found.problems[0])


def test_a_changed_byte_changes_the_digest(model: Path) -> None:
    before = check_model_directory(model)
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)

    after = check_model_directory(model)

    assert after.problems == ()
    assert after.digest != before.digest


def test_a_second_check_reads_no_file_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = check_model_directory(model)
    monkeypatch.setattr(models_module, "file_sha256", lambda _: pytest.fail("read again"))

    assert check_model_directory(model).digest == first.digest


def test_a_directory_that_cannot_be_cached_is_checked_all_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("THEMIS_CACHE", str(tmp_path / "file"))

    assert check_model_directory(model).digest


class TestResolve:
    """Explicit map, then $THEMIS_MODELS, then the id itself."""

    @pytest.fixture(autouse=True)
    def _places(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("mapped", "models/org/name", "org/name"):
            (tmp_path / name).mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("THEMIS_MODELS", str(tmp_path / "models"))

    def test_the_map_goes_first(self, tmp_path: Path) -> None:
        found = resolve_model("org/name", model_paths={"org/name": str(tmp_path / "mapped")})

        assert found == tmp_path / "mapped"

    def test_then_the_variable(self, tmp_path: Path) -> None:
        assert resolve_model("org/name", model_paths={}) == tmp_path / "models/org/name"

    def test_then_the_id_as_a_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("THEMIS_MODELS")

        assert resolve_model("org/name", model_paths={}) == tmp_path / "org/name"

    def test_nowhere_lists_the_places(self, tmp_path: Path) -> None:
        with pytest.raises(EnvironmentNotReadyError, match=str(tmp_path / "models/org/other")):
            resolve_model("org/other", model_paths={})

    def test_a_wrong_map_entry_is_not_passed_over(self) -> None:
        with pytest.raises(EnvironmentNotReadyError, match="/nowhere"):
            resolve_model("org/name", model_paths={"org/name": "/nowhere"})
