"""A bundle crosses the gap and comes back: packed, signed, damaged, repaired, from the shell."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Themis = Callable[..., Result]
Require = Callable[[object, str], None]


@pytest.fixture
def bundle(project: Path, themis: Themis) -> Path:
    out = project / "bundle"
    done = themis("export", "generation", "benchmark.toml", "--out", out, "--shard-items", 20)
    assert done.exit_code == 0, done.stderr
    return out


def test_a_bundle_goes_there_and_its_results_come_back(
    project: Path, themis: Themis, bundle: Path
) -> None:
    there = project / "there"

    assert themis("pack", bundle, "go.themis", "--max-bytes", "2K").exit_code == 0
    assert len(list(project.glob("go.themis.*"))) > 1
    assert themis("unpack", "go.themis", there).exit_code == 0
    assert themis("work", there, "--all").exit_code == 0
    assert themis("pack", there, "back.themis", "--results-only").exit_code == 0
    assert themis("unpack", "back.themis", bundle).exit_code == 0
    imported = themis("import", bundle)

    assert imported.exit_code == 0, imported.stderr
    assert "stored 80 records" in imported.stdout


def test_a_damaged_transfer_file_is_refused(project: Path, themis: Themis, bundle: Path) -> None:
    themis("pack", bundle, "go.themis")
    path = project / "go.themis"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    result = themis("unpack", path, project / "there")

    assert result.exit_code == 3
    assert "go.themis" in result.stderr


def test_a_signed_bundle_is_told_from_an_unsigned_one(
    project: Path, themis: Themis, bundle: Path, require: Require
) -> None:
    require(shutil.which("ssh-keygen"), "ssh-keygen is not installed")
    key = project / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True)
    public = key.with_suffix(".pub").read_text()
    signers = project / "signers"
    signers.write_text(f"lab@example.org {public}")

    unsigned = themis("verify", bundle, "--allowed-signers", signers)
    signed = themis("sign", bundle, "--key", key)
    verified = themis("verify", bundle, "--allowed-signers", signers)
    signers.write_text("")
    stranger = themis("import", bundle, "--allow-partial", "--allowed-signers", signers)

    assert unsigned.exit_code == 3
    assert signed.exit_code == 0, signed.stderr
    assert "signed by lab@example.org" in verified.stdout
    assert stranger.exit_code == 3


def test_damaged_results_are_repaired_and_the_lost_items_done_again(
    project: Path, themis: Themis, bundle: Path
) -> None:
    assert project.exists()
    themis("work", bundle, "--all")
    path = next((bundle / "results" / "00001").glob("*.zst"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    looked = themis("repair", bundle, "--dry-run")
    refused = themis("import", bundle)
    repaired = themis("repair", bundle)
    worked = themis("work", bundle, "--all")
    imported = themis("import", bundle)

    assert looked.exit_code == 1
    assert refused.exit_code == 3
    assert repaired.exit_code == 0, repaired.stderr
    assert worked.exit_code == 0, worked.stderr
    assert imported.exit_code == 0, imported.stderr
    assert "stored 80 records" in imported.stdout
