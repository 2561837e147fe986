"""Faults that are planted on purpose, each found before a shard pays for it.

Those that only show where tasks run are looked for by a real job on a node of the development
cluster. Each test plants one fault in a setup that is otherwise healthy.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from themis_bundles import Bundle
from themis_slurm.doctor import examine, examine_node, settled
from themis_slurm.findings import LEVELS, Finding, worst
from themis_slurm.profile import ClusterProfile, load_profile

pytestmark = pytest.mark.cluster

pytest.importorskip("tokenizers")

PROFILES = Path(__file__).parents[2] / "slurm" / "profiles"


@pytest.fixture
def model(tiny_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small model, with a digest cache of its own."""
    monkeypatch.setenv("THEMIS_CACHE", str(tmp_path / "digests"))
    return Path(shutil.copytree(tiny_chat, tmp_path / "model"))


@pytest.fixture
def bundle(write_generation_bundle: Callable[..., Path]) -> Path:
    return write_generation_bundle(["a", "b", "c"], provider="hf", model_id="m", shard_items=2)


@pytest.fixture
def profile(model: Path) -> Callable[..., ClusterProfile]:
    """The shipped profile of the development cluster, with changes."""
    fields = load_profile(PROFILES / "devcluster.toml").model_dump(exclude_unset=True)

    def changed(**changes: Any) -> ClusterProfile:
        return ClusterProfile.model_validate({**fields, "models": {"m": str(model)}, **changes})

    return changed


@pytest.fixture
def small_disk(tmp_path: Path, require: Callable[[object, str], None]) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    require(mounted, "mounting a file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def look(how: ClusterProfile, bundle: Path) -> tuple[Finding, ...]:
    """Look from here and from a node, as `themis slurm doctor --node` does."""
    return settled(examine(how, bundle), examine_node(how, bundle))


def bad(findings: tuple[Finding, ...]) -> list[Finding]:
    return [f for f in findings if LEVELS.index(f.level) > LEVELS.index("notice")]


def only(findings: tuple[Finding, ...], check: str) -> Finding:
    """Give the one thing that is wrong, which has to come with a cure."""
    assert {finding.check for finding in bad(findings)} == {check}
    found = bad(findings)[0]
    assert found.fix
    return found


@pytest.mark.usefixtures("cluster")
class TestOnTheCluster:
    def test_a_healthy_setup_has_nothing_to_say(
        self, profile: Callable[..., ClusterProfile], bundle: Path
    ) -> None:
        findings = look(profile(forbid_network=True), bundle)

        assert bad(findings) == []
        assert {
            *("Slurm", "resources", "Python", "bundle", "model", "results", "disk", "clock"),
            *("node", "GPUs", "caches", "engine", "shared file system", "hub access", "network"),
        } <= {finding.check for finding in findings}

    def test_missing_weight_shard(
        self, profile: Callable[..., ClusterProfile], bundle: Path, model: Path
    ) -> None:
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "gone.safetensors"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))

        for findings in (examine(profile(), bundle), examine_node(profile(), bundle)):
            messages = [f.message for f in bad(findings) if f.check == "model"]
            assert any("gone.safetensors, which is missing" in words for words in messages)

    def test_wrong_tokenizer(
        self, profile: Callable[..., ClusterProfile], bundle: Path, model: Path
    ) -> None:
        # The weights of a model with a larger vocabulary, beside the tokenizer of a smaller one.
        (model / "generation_config.json").write_text('{"eos_token_id": 151645}')

        finding = only(examine_node(profile(), bundle), "model")

        assert "which the tokenizer does not have" in finding.message

    def test_read_only_cache(
        self, profile: Callable[..., ClusterProfile], bundle: Path, small_disk: Path
    ) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

        kept = only(examine_node(profile(caches=str(small_disk / "kernels")), bundle), "caches")
        named = {"TRITON_CACHE_DIR": str(small_disk / "triton")}
        variable = only(examine_node(profile(variables=named), bundle), "caches")

        assert "Read-only file system" in kept.message
        assert "Read-only file system" in variable.message

    def test_no_gpu(self, profile: Callable[..., ClusterProfile], bundle: Path) -> None:
        # A node whose GPU has gone, as a job sees it.
        finding = only(examine_node(profile(setup=("unset CUDA_VISIBLE_DEVICES",)), bundle), "GPUs")

        assert "shows 0 GPUs" in finding.message

    def test_full_disk(
        self, profile: Callable[..., ClusterProfile], bundle: Path, small_disk: Path
    ) -> None:
        how = profile(results=str(small_disk))
        here = [f for f in bad(examine(how, bundle)) if f.check == "disk"]
        # Room for the options of the job, and for nothing else.
        with (small_disk / "filling").open("wb", 0) as stream:
            while os.statvfs(small_disk).f_bavail * 4096 > 40_000:
                stream.write(bytes(4096))

        there = only(examine_node(how, bundle), "disk")
        shutil.rmtree(next(small_disk.glob("bundle-*")) / "dispatch")
        with contextlib.suppress(OSError), (small_disk / "rest").open("wb", 0) as stream:
            while True:
                stream.write(bytes(4096))
        (full,) = examine_node(how, bundle)

        assert (full.level, full.check) == ("error", "disk")
        assert "No space left on device" in full.message
        assert "results may need 1,024 MiB" in here[0].message
        assert "MiB free" in there.message

    def test_quota_that_only_writing_shows(
        self, profile: Callable[..., ClusterProfile], bundle: Path
    ) -> None:
        # 8 KiB a file; the disk itself has room.
        findings = bad(examine_node(profile(setup=("ulimit -f 8",)), bundle))

        assert {"disk", "caches"} == {finding.check for finding in findings}
        assert all("File too large" in finding.message for finding in findings)
        assert all("quota" in finding.fix for finding in findings)

    def test_hub_access_not_blocked(
        self, profile: Callable[..., ClusterProfile], bundle: Path, tmp_path: Path
    ) -> None:
        # Something on the nodes imports the hub's library before the task can switch it off.
        site = tmp_path / "site"
        site.mkdir()
        lines = 'import os; os.environ["HF_HUB_OFFLINE"] = "0"; import huggingface_hub.constants'
        (site / "sitecustomize.py").write_text(lines)

        early = bad(examine_node(with_site(profile, site), bundle))
        variables = {"HF_HUB_OFFLINE": "0"}
        told = only(examine_node(profile(variables=variables), bundle), "hub access")

        assert {finding.check for finding in early} == {"hub access"}
        assert worst(early) == "error"
        assert any("huggingface_hub was imported" in finding.message for finding in early)
        assert (told.level, told.message.partition(" ")[0]) == ("warning", "HF_HUB_OFFLINE=0")

    def test_wrong_python(
        self, profile: Callable[..., ClusterProfile], bundle: Path, tmp_path: Path
    ) -> None:
        # A Python without its site-packages, and one from before Themis.
        bare = profile(python=f"{sys.executable} -S")
        old = tmp_path / "python3.9"
        old.write_text('#!/bin/sh\necho \'{"python": [3, 9, 2], "error": "SyntaxError"}\'\n')
        old.chmod(0o755)

        here = only_error(examine(bare, bundle), "Python")
        there = only(examine_node(bare, bundle), "Python")
        ancient = only_error(examine(profile(python=str(old)), bundle), "Python")

        assert "No module named" in here.message
        assert "No module named" in there.message
        assert "is Python 3.9.2; Themis needs 3.11 or newer" in ancient.message

    def test_missing_extra(
        self, profile: Callable[..., ClusterProfile], bundle: Path, tmp_path: Path
    ) -> None:
        site = tmp_path / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text('import sys; sys.modules["torch"] = None')

        here = only_error(examine(with_site(profile, site), bundle), "engine")
        there = only(examine_node(with_site(profile, site), bundle), "engine")

        assert "torch" in here.message
        assert "themis-hpc[hf]" in there.fix

    def test_clock_skew(
        self, profile: Callable[..., ClusterProfile], bundle: Path, tmp_path: Path
    ) -> None:
        # A node whose clock is a quarter of an hour ahead, as its Python sees it.
        site = tmp_path / "site"
        site.mkdir()
        lines = "import time; true = time.time; time.time = lambda: true() + 900"
        (site / "sitecustomize.py").write_text(lines)

        findings = bad(examine_node(with_site(profile, site), bundle))

        assert {finding.check for finding in findings} == {"clock"}
        assert any("of the file server" in finding.message for finding in findings)
        assert any("of this machine" in finding.message for finding in findings)
        assert all(finding.level == "error" for finding in findings)

    def test_bundle_tampered(self, profile: Callable[..., ClusterProfile], bundle: Path) -> None:
        items = Bundle.open(bundle).path / "data" / "items" / "00001.jsonl.zst"
        data = bytearray(items.read_bytes())
        data[-1] ^= 1
        items.write_bytes(data)

        for findings in (examine(profile(), bundle), examine_node(profile(), bundle)):
            messages = [f.message for f in bad(findings) if f.check == "bundle"]
            assert any("00001.jsonl.zst" in words for words in messages)


def with_site(profile: Callable[..., ClusterProfile], site: Path) -> ClusterProfile:
    """Put a sitecustomize.py in front of every Python that starts on a node."""
    return profile(setup=(f"export PYTHONPATH={site}:$PYTHONPATH",))


def only_error(findings: tuple[Finding, ...], check: str) -> Finding:
    """Give the one error or warning besides the file system of the development cluster."""
    rest = tuple(finding for finding in findings if finding.check != "shared file system")
    return only(rest, check)
