"""A bundle crosses the gap and comes back: packed, signed, damaged, repaired, from the shell."""

import json
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


@pytest.fixture
def key(project: Path, require: Require) -> Path:
    """An ssh key."""
    require(shutil.which("ssh-keygen"), "ssh-keygen is not installed")
    key = project / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True)
    return key


@pytest.fixture
def signers(project: Path, key: Path) -> Path:
    """A list of allowed signers that names the key."""
    signers = project / "signers"
    signers.write_text(f"lab@example.org {key.with_suffix('.pub').read_text()}")
    return signers


def test_a_signed_bundle_is_told_from_an_unsigned_one(
    themis: Themis, bundle: Path, key: Path, signers: Path
) -> None:
    unsigned = themis("verify", bundle, "--allowed-signers", signers)
    signed = themis("sign", bundle, "--key", key)
    verified = themis("verify", bundle, "--allowed-signers", signers)
    signers.write_text("")
    stranger = themis("import", bundle, "--allow-partial", "--allowed-signers", signers)

    assert unsigned.exit_code == 3
    assert signed.exit_code == 0, signed.stderr
    assert "signed by lab@example.org" in verified.stdout
    assert stranger.exit_code == 3


def test_what_is_exported_can_be_signed_at_once(
    project: Path, themis: Themis, key: Path, signers: Path
) -> None:
    export = ("export", "generation", "benchmark.toml", "--sign")

    nobody = themis(*export, project / "nothing", "--out", "no")
    written = themis(*export, key, "--out", "there", "--json")
    rest = themis("export", "remaining", "there", "--out", "rest", "--sign", key)

    assert nobody.exit_code == 2
    assert not (project / "no").exists()
    assert json.loads(written.stdout)["signature"].startswith("there/signatures/tagmanifest")
    assert "signed: rest/signatures/tagmanifest" in rest.stdout
    for path in ("there", "rest"):
        verified = themis("verify", path, "--allowed-signers", signers)
        assert "signed by lab@example.org" in verified.stdout


def test_a_key_that_does_not_sign_leaves_the_bundle_unsigned_and_says_so(
    project: Path, themis: Themis, key: Path
) -> None:
    (project / "broken").write_text("not a key")

    done = themis(
        "export", "generation", "benchmark.toml", "--out", "there", "--sign", project / "broken"
    )

    assert key.exists()
    assert done.exit_code == 4
    assert "there was written but not signed" in done.stderr
    assert themis("verify", "there").exit_code == 1


def test_signed_evaluation_items(themis: Themis, bundle: Path, key: Path, signers: Path) -> None:
    assert themis("work", bundle, "--all").exit_code == 0
    assert themis("import", bundle).exit_code == 0

    done = themis("export", "evaluation", "benchmark.toml", "--out", "scores", "--sign", key)

    assert done.exit_code == 0, done.stderr
    assert "signed by lab" in themis("verify", "scores", "--allowed-signers", signers).stdout


def test_signed_results_come_back_in_two_trips(
    project: Path, themis: Themis, bundle: Path, key: Path, signers: Path
) -> None:
    there = project / "there"
    shutil.copytree(bundle, there)
    pack = ("pack", there, "--results-only", "--sign", key)
    unsigned = ("verify", bundle, "--signed-results", "--allowed-signers", signers)

    nothing = themis(*pack, "zero.themis")
    themis("work", there, "--shard", 0)
    first = themis(*pack, "one.themis")
    themis("work", there, "--all")
    second = themis(*pack, "two.themis", "--since", "one.themis")
    third = themis(*pack, "three.themis", "--since", "one.themis", "--since", "two.themis")
    arrived = [
        themis("unpack", name, bundle, "--allowed-signers", signers)
        for name in ("two.themis", "one.themis")
    ]

    assert [done.exit_code for done in (nothing, first, second, third)] == [0, 0, 0, 0]
    assert "no pack was written" in nothing.stdout
    assert "no pack was written" in third.stdout
    assert all("signed by lab@example.org" in done.stdout for done in arrived)
    themis("sign", bundle, "--key", key)
    assert "results signed by lab@example.org" in themis(*unsigned).stdout
    assert "stored 80 records" in themis("import", bundle).stdout


def test_results_that_a_stranger_signed_do_not_arrive(
    project: Path,
    themis: Themis,
    bundle: Path,
    key: Path,
    signers: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = project / "there"
    shutil.copytree(bundle, there)
    themis("work", there, "--all")
    themis("pack", there, "back.themis", "--results-only", "--sign", key)
    signers.write_text("")
    monkeypatch.setenv("THEMIS_ALLOWED_SIGNERS", str(signers))

    done = themis("unpack", "back.themis", bundle)

    assert done.exit_code == 3
    assert "is not allowed" in done.stderr
    assert not (bundle / "results").exists()


def test_results_signed_where_they_lie(
    themis: Themis, bundle: Path, key: Path, signers: Path
) -> None:
    verify = ("verify", bundle, "--signed-results", "--allowed-signers", signers)
    themis("sign", bundle, "--key", key)
    empty = themis("sign", bundle, "--key", key, "--results-only")
    themis("work", bundle, "--all")

    refused = themis(*verify)
    signed = themis("sign", bundle, "--key", key, "--results-only")
    verified = themis(*verify)

    assert "nothing was signed" in empty.stdout
    assert refused.exit_code == 3
    assert signed.exit_code == 0, signed.stderr
    assert verified.exit_code == 0, verified.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pack", "bundle", "x", "--sign", "key"), "go with --results-only"),
        (("pack", "bundle", "x", "--since", "y"), "go with --results-only"),
        (("pack", "bundle", "x", "--results-only", "--sign", "none"), "none: no such key"),
        (("sign", "bundle", "--key", "none"), "none: no such key"),
        (("verify", "bundle", "--signed-results"), "needs --allowed-signers"),
        (("verify", "bundle", "--allowed-signers", "none"), "none"),
        (("unpack", "x", "there", "--allowed-signers", "none"), "none"),
    ],
)
def test_a_wrong_option_is_named(
    project: Path, themis: Themis, bundle: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert themis("pack", bundle, project / "x").exit_code == 0
    arguments = tuple(
        "made" if argument == "x" and "pack" in arguments else argument for argument in arguments
    )

    done = themis(*arguments)

    assert done.exit_code == 2, done.output
    assert words in done.stderr


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
