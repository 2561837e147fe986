"""Whatever an outside tool refuses, `themis verify` refuses, and each tool sees what it can see."""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from themis.cli import main
from themis_bundles import Bundle, BundleInfo, pack, sign, unpack
from themis_bundles.errors import BundleError

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

Require = Callable[[object, str], None]
Damage = Callable[[Path], None]
BAGIT = Path(sys.executable).with_name("bagit.py")


def passes(path: Path, *command: object) -> bool:
    line = [str(part) for part in command]
    return subprocess.run(line, cwd=path, capture_output=True, check=False).returncode == 0


def shell(path: Path, script: str) -> bool:
    return passes(path, "bash", "-euo", "pipefail", "-c", script)


TOOLS: dict[str, Callable[[Path], bool]] = {
    "sha256sum": lambda path: shell(
        path,
        "sha256sum --strict -c tagmanifest-sha256.txt && sha256sum --strict -c manifest-sha256.txt",
    ),
    "bagit": lambda path: passes(path, sys.executable, BAGIT, "--validate", "."),
    "zstd": lambda path: shell(path, "find . -name '*.zst' -print0 | xargs -0 zstd -tq"),
    "jq": lambda path: shell(
        path,
        "jq -e .format data/manifest.json;"
        "find . -name '*.zst' -print0 | while IFS= read -r -d '' file; do"
        ' zstd -dcq "$file" | jq -e \'type == "object"\'; done',
    ),
    "ssh-keygen": lambda path: shell(
        path,
        "ssh-keygen -Y verify -f ../allowed_signers -I me -n themis-bundle"
        " -s signatures/*.sig < tagmanifest-sha256.txt",
    ),
}


def verdicts(path: Path) -> set[str]:
    """The tools that refuse a bag."""
    return {name for name, check in TOOLS.items() if not check(path)}


def themis_refuses(path: Path) -> bool:
    arguments = ["verify", str(path), "--allowed-signers", str(path.parent / "allowed_signers")]
    code = CliRunner().invoke(main, arguments).exit_code
    assert code in {0, 3}
    return code == 3


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Path:
    for tool in ("bash", "jq", "sha256sum", "ssh-keygen", "tar", "zstd"):
        require(shutil.which(tool), f"{tool} is not installed")
    require(BAGIT.exists(), "bagit is not installed")
    path = tmp_path_factory.mktemp("keys") / "key"
    command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path)
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def signed(bundle: Bundle, kit: "Kit", key: Path) -> Path:
    """A signed bundle with all of its results."""
    kit.work_all(bundle)
    sign(bundle.path, key)
    allowed = bundle.path.with_name("allowed_signers")
    allowed.write_text(f"me {key.with_suffix('.pub').read_text()}")
    return bundle.path


def flip(name: str, place: int = -20) -> Damage:
    def damage(path: Path) -> None:
        data = bytearray((path / name).read_bytes())
        data[place] ^= 1
        (path / name).write_bytes(data)

    return damage


def truncate(name: str) -> Damage:
    def damage(path: Path) -> None:
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: len(data) // 2])

    return damage


def delete(name: str) -> Damage:
    return lambda path: (path / name).unlink()


def add(name: str, data: bytes = b"x") -> Damage:
    def damage(path: Path) -> None:
        (path / name).write_bytes(data)

    return damage


def swap(one: str, other: str) -> Damage:
    def damage(path: Path) -> None:
        (path / one).rename(path / "aside")
        (path / other).rename(path / one)
        (path / "aside").rename(path / other)

    return damage


def seal_again(path: Path) -> None:
    """What anybody can do who may write: make the lists of the bag fit again."""
    for name in ("manifest-sha256.txt", "tagmanifest-sha256.txt"):
        lines = (path / name).read_text().splitlines()
        paths = [line.split("  ")[1] for line in lines]
        digests = [hashlib.sha256((path / p).read_bytes()).hexdigest() for p in paths]
        both = zip(digests, paths, strict=True)
        (path / name).write_text("".join(f"{digest}  {p}\n" for digest, p in both))


def flip_and_seal_again(path: Path) -> None:
    flip("data/items/00001.ids")(path)
    seal_again(path)


ITEMS, OTHER, IDS = (
    "data/items/00000.jsonl.zst",
    "data/items/00001.jsonl.zst",
    "data/items/00000.ids",
)
RESULTS = "results/00000/first-0.jsonl.zst"
SIGNATURES = "signatures"
DAMAGES: dict[str, tuple[Damage, set[str]]] = {
    "an item file flipped": (flip(ITEMS, 40), {"sha256sum", "bagit", "zstd", "jq"}),
    "an item file truncated": (truncate(ITEMS), {"sha256sum", "bagit", "zstd", "jq"}),
    "an item file deleted": (delete(ITEMS), {"sha256sum", "bagit"}),
    "item files swapped": (swap(ITEMS, OTHER), {"sha256sum", "bagit"}),
    "item digests flipped": (flip(IDS), {"sha256sum", "bagit"}),
    "item digests truncated": (truncate(IDS), {"sha256sum", "bagit"}),
    "item digests swapped with items": (swap(IDS, ITEMS), {"sha256sum", "bagit", "zstd", "jq"}),
    "the manifest flipped": (flip("data/manifest.json", 0), {"sha256sum", "bagit", "jq"}),
    "the manifest truncated": (truncate("data/manifest.json"), {"sha256sum", "bagit", "jq"}),
    "the manifest deleted": (delete("data/manifest.json"), {"sha256sum", "bagit", "jq"}),
    "the components flipped": (
        flip("data/components.jsonl.zst", 40),
        {"sha256sum", "bagit", "zstd", "jq"},
    ),
    "a file added to the payload": (add("data/items/00009.ids"), {"bagit"}),
    "a list to fetch added": (add("fetch.txt", b""), set()),
    "the list of the payload truncated": (
        truncate("manifest-sha256.txt"),
        {"sha256sum", "bagit"},
    ),
    "a line of the list of tag files flipped": (
        flip("tagmanifest-sha256.txt", 0),
        {"sha256sum", "bagit", "ssh-keygen"},
    ),
    "the list of tag files deleted": (
        delete("tagmanifest-sha256.txt"),
        {"sha256sum", "ssh-keygen"},
    ),
    "a tag file flipped": (flip("bag-info.txt", 20), {"sha256sum", "bagit"}),
    "a tag file deleted": (delete("bag-info.txt"), {"sha256sum", "bagit"}),
    "the lists sealed again after a change": (flip_and_seal_again, {"ssh-keygen"}),
    "results flipped": (flip(RESULTS, 200), {"zstd", "jq"}),
    "results truncated": (truncate(RESULTS), {"zstd", "jq"}),
    "results swapped": (swap(RESULTS, "results/00001/first-1.jsonl.zst"), set()),
}
"""Damages of a bundle, and the tools that can see them; `themis verify` sees each."""


def test_all_take_a_sound_bundle(signed: Path) -> None:
    assert verdicts(signed) == set()
    assert not themis_refuses(signed)


@pytest.mark.parametrize("name", DAMAGES)
def test_themis_refuses_what_any_tool_refuses(signed: Path, name: str) -> None:
    damage, expected = DAMAGES[name]

    damage(signed)

    assert verdicts(signed) == expected
    assert themis_refuses(signed)


@pytest.mark.parametrize("damage", [flip, truncate, delete], ids=lambda damage: damage.__name__)
def test_both_see_a_damaged_signature(signed: Path, damage: Callable[[str], Damage]) -> None:
    (signature,) = (signed / SIGNATURES).iterdir()

    damage(f"{SIGNATURES}/{signature.name}")(signed)

    assert verdicts(signed) == {"ssh-keygen"}
    assert themis_refuses(signed)


def test_both_see_another_bundle_under_the_signature(
    signed: Path, kit: "Kit", tmp_path: Path
) -> None:
    """Everything about it is sound, and nobody whose key counts has signed it."""
    info = BundleInfo("generation", "run-2", kit.info.created_for, kit.info.date)
    other = kit.bundle(tmp_path / "other", info=info)
    kit.work_all(other)
    shutil.copytree(signed / SIGNATURES, other.path / SIGNATURES)

    assert verdicts(other.path) == {"ssh-keygen"}
    assert themis_refuses(other.path)
    assert CliRunner().invoke(main, ["verify", str(other.path)]).exit_code == 0


class TestResults:
    """A bag of results, taken apart by plain tar, damaged, and put together again."""

    @pytest.fixture
    def bag(self, signed: Path, key: Path, tmp_path: Path) -> Path:
        (file,) = pack(Bundle.open(signed), tmp_path / "r.tar", results_only=True, key=key)
        shutil.rmtree(signed / "results")
        out = tmp_path / "out"
        out.mkdir()
        subprocess.run(("tar", "-xf", file), cwd=out, check=True)
        return out

    def unpacking_refuses(self, bag: Path, target: Path) -> bool:
        """Put the members into a tar file as they are now, in their order, and unpack it."""
        file = bag.with_name("again.tar")
        with (
            tarfile.open(bag.with_name("r.tar")) as before,
            tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as after,
        ):
            for info in before:
                if (bag / info.name).exists():
                    data = (bag / info.name).read_bytes()
                    info.size = len(data)
                    after.addfile(info, io.BytesIO(data))
        try:
            unpack(file, target, allowed_signers=bag.with_name("allowed_signers"))
        except BundleError:
            return True
        return False

    def test_all_take_a_sound_one(self, bag: Path, signed: Path) -> None:
        assert verdicts(bag) == set()
        assert not self.unpacking_refuses(bag, signed)
        assert not themis_refuses(signed)

    @pytest.mark.parametrize(
        ("damage", "expected"),
        [
            (flip(f"data/{RESULTS}", 200), {"sha256sum", "bagit", "zstd", "jq"}),
            (truncate(f"data/{RESULTS}"), {"sha256sum", "bagit", "zstd", "jq"}),
            (delete(f"data/{RESULTS}"), {"sha256sum", "bagit"}),
            (
                swap(f"data/{RESULTS}", "data/results/00001/first-1.jsonl.zst"),
                {"sha256sum", "bagit"},
            ),
            (flip("data/manifest.json", 0), {"sha256sum", "bagit", "jq"}),
            (flip("manifest-sha256.txt", 0), {"sha256sum", "bagit"}),
            (flip("tagmanifest-sha256.txt", 0), {"sha256sum", "bagit", "ssh-keygen"}),
        ],
        ids=["flipped", "truncated", "deleted", "swapped", "manifest", "list", "tag list"],
    )
    def test_unpacking_refuses_what_any_tool_refuses(
        self, bag: Path, signed: Path, damage: Damage, expected: set[str]
    ) -> None:
        damage(bag)

        assert verdicts(bag) == expected
        assert self.unpacking_refuses(bag, signed)
