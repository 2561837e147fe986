"""A staged model is whole, flat, readable by others, and proved by its manifest."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from themis.cli import main
from themis.errors import EnvironmentNotReadyError, SpecValidationError
from themis.providers import check_model_directory
from themis.providers.models import MANIFEST
from themis.providers.staging import stage_model

pytest.importorskip("tokenizers")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEMIS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tiny_chat: Path, tmp_path: Path) -> Path:
    """A model as it lies about: with other files beside it, and closed to others."""
    path = Path(shutil.copytree(tiny_chat, tmp_path / "model"))
    (path / "pytorch_model.bin").write_bytes(b"pickle")
    (path / "modeling_own.py").write_text("raise SystemExit\n")
    (path / "original").mkdir()
    (path / "model.safetensors").chmod(0o600)
    return path


@pytest.fixture
def hub_cache(tiny_chat: Path, tmp_path: Path) -> Path:
    """The same model in the hub's cache layout: links to blobs that are named by digest."""
    root = tmp_path / "models--org--tiny"
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    for file in sorted(tiny_chat.iterdir()):
        data = file.read_bytes()
        if file.suffix == ".safetensors":
            name = hashlib.sha256(data).hexdigest()
        else:
            name = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        (root / "blobs" / name).write_bytes(data)
        (snapshot / file.name).symlink_to(f"../../blobs/{name}")
    return root


def test_what_engines_read_is_taken_and_the_rest_is_named(model: Path, tmp_path: Path) -> None:
    staged = stage_model(str(model), tmp_path / "models" / "tiny")

    place = tmp_path / "models" / "tiny"
    assert staged.left_out == ("modeling_own.py", "original", "pytorch_model.bin")
    assert "model.safetensors" in staged.model.files
    assert staged.model.problems == ()
    assert stat.S_IMODE((place / "model.safetensors").stat().st_mode) == 0o644
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    manifest = json.loads((place / MANIFEST).read_bytes())
    assert manifest["files"]["config.json"]["size"] == (model / "config.json").stat().st_size
    assert manifest["digest"] == staged.model.digest
    assert [entry.name for entry in (tmp_path / "models").iterdir()] == ["tiny"]


def test_staging_changes_no_digest(tiny_chat: Path, tmp_path: Path) -> None:
    staged = stage_model(str(tiny_chat), tmp_path / "copy")

    assert staged.model.digest == check_model_directory(tiny_chat).digest


def test_a_hard_link_shares_the_bytes(model: Path, tmp_path: Path) -> None:
    stage_model(str(model), tmp_path / "linked", link=True)

    ours, theirs = (path / "model.safetensors" for path in (tmp_path / "linked", model))
    assert ours.stat().st_ino == theirs.stat().st_ino


class TestHubCache:
    """Snapshots of the hub's cache become flat directories that know their commit."""

    def test_links_become_files(self, hub_cache: Path, tmp_path: Path) -> None:
        stage_model(str(hub_cache), tmp_path / "flat")

        assert not any(file.is_symlink() for file in (tmp_path / "flat").iterdir())
        manifest = json.loads((tmp_path / "flat" / MANIFEST).read_bytes())
        assert (manifest["source"], manifest["revision"]) == ("org/tiny", COMMIT)

    @pytest.mark.parametrize("revision", ["main", COMMIT])
    def test_one_of_several_snapshots_is_named(
        self, hub_cache: Path, tmp_path: Path, revision: str
    ) -> None:
        (hub_cache / "snapshots" / ("f" * 40)).mkdir()

        with pytest.raises(SpecValidationError, match="--revision"):
            stage_model(str(hub_cache), tmp_path / "flat")
        staged = stage_model(str(hub_cache), tmp_path / "flat", revision=revision)

        assert staged.model.problems == ()

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
    def test_a_damaged_blob_is_found_by_its_name(
        self, hub_cache: Path, tmp_path: Path, name: str
    ) -> None:
        blob = (hub_cache / "snapshots" / COMMIT / name).resolve()
        data = bytearray(blob.read_bytes())
        data[-2] ^= 1
        blob.write_bytes(data)

        with pytest.raises(EnvironmentNotReadyError, match="damaged in the cache"):
            stage_model(str(hub_cache), tmp_path / "flat")
        assert not (tmp_path / "flat").exists()

    def test_a_hub_id_is_found_in_the_cache_without_a_network(
        self, hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub = pytest.importorskip("huggingface_hub")
        seen: list[Any] = []

        def download(name: str, **options: Any) -> str:
            seen.append((name, options["revision"], options["local_files_only"]))
            return str(hub_cache / "snapshots" / COMMIT)

        monkeypatch.setattr(hub, "snapshot_download", download)

        stage_model(f"org/tiny@{COMMIT}", tmp_path / "flat")

        assert seen == [("org/tiny", COMMIT, True)]

    @pytest.mark.parametrize("revision", [None, "main", "v1.0", "0123abc"])
    def test_a_hub_id_without_its_commit_is_refused(
        self, tmp_path: Path, revision: str | None
    ) -> None:
        with pytest.raises(SpecValidationError, match="exact commit"):
            stage_model("org/tiny", tmp_path / "flat", revision=revision)


def test_a_hub_id_that_is_nowhere_says_that_the_hub_cannot_be_reached(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from themis.cli import main; main()"),
            *("model", "stage", f"org/tiny@{COMMIT}", str(tmp_path / "flat")),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )

    assert done.returncode == 4, done.stderr
    assert "is not in the cache, and the hub cannot be reached" in done.stderr
    assert not (tmp_path / "flat").exists()


class TestPickles:
    """Weights that run code are refused unless one insists."""

    @pytest.fixture
    def pickled(self, model: Path) -> Path:
        (model / "model.safetensors").unlink()
        return model

    def test_a_model_with_nothing_else_is_refused(self, pickled: Path, tmp_path: Path) -> None:
        with pytest.raises(EnvironmentNotReadyError, match="--keep-pickled"):
            stage_model(str(pickled), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_who_insists_gets_them_and_the_check_still_says_so(
        self, pickled: Path, tmp_path: Path
    ) -> None:
        staged = stage_model(str(pickled), tmp_path / "out", pickled=True)

        assert "pytorch_model.bin" in staged.model.files
        assert any("pickled" in problem for problem in staged.model.problems)


class TestDestination:
    """Nothing is overwritten, and nothing half done appears."""

    def test_the_same_model_again_is_kept(self, model: Path, tmp_path: Path) -> None:
        first = stage_model(str(model), tmp_path / "out")
        stamp = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns

        second = stage_model(str(model), tmp_path / "out")

        assert (first.existed, second.existed) == (False, True)
        assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == stamp

    def test_another_model_is_not_overwritten(self, model: Path, tmp_path: Path) -> None:
        stage_model(str(model), tmp_path / "out")
        (model / "generation_config.json").write_text("{}")

        with pytest.raises(SpecValidationError, match="another model"):
            stage_model(str(model), tmp_path / "out")

    def test_something_else_is_not_overwritten(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").touch()

        with pytest.raises(SpecValidationError, match="something else"):
            stage_model(str(model), tmp_path / "out")

    def test_a_model_that_is_not_whole_is_refused_and_leaves_nothing(
        self, model: Path, tmp_path: Path
    ) -> None:
        (model / "tokenizer.json").unlink()

        with pytest.raises(EnvironmentNotReadyError, match="no tokenizer"):
            stage_model(str(model), tmp_path / "models" / "out")
        assert list((tmp_path / "models").iterdir()) == []


class TestManifest:
    """What was staged is what is there."""

    @pytest.fixture
    def staged(self, model: Path, tmp_path: Path) -> Path:
        stage_model(str(model), tmp_path / "out")
        return tmp_path / "out"

    def test_a_flipped_bit_that_keeps_size_and_time_is_found_by_a_full_check(
        self, staged: Path
    ) -> None:
        check_model_directory(staged)
        weights = staged / "model.safetensors"
        before = weights.stat()
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))

        quick = CliRunner().invoke(main, ["model", "verify", str(staged)])
        full = CliRunner().invoke(main, ["model", "verify", "--full", str(staged), "--json"])

        assert quick.exit_code == 0
        assert full.exit_code == 4
        assert "not the file that was staged" in json.loads(full.stdout)["problems"][0]

    def test_files_that_come_or_go_are_named(self, staged: Path) -> None:
        (staged / "qa.json").unlink()
        (staged / "new.json").write_text("{}")

        problems = check_model_directory(staged).problems

        assert f"new.json is not in {MANIFEST}" in problems
        assert f"qa.json is in {MANIFEST}, and is missing" in problems


def test_the_command_says_what_it_did(model: Path, tmp_path: Path) -> None:
    arguments = ["model", "stage", str(model), str(tmp_path / "out")]

    first = CliRunner().invoke(main, arguments)
    second = CliRunner().invoke(main, [*arguments, "--json"])

    assert first.exit_code == 0, first.stderr
    assert "left out: modeling_own.py, original, pytorch_model.bin" in first.stderr
    assert json.loads(second.stdout)["existed"] is True
