"""Records can be required to be signed, wherever they lie and however they came."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from themis_bundles import Bundle, pack, unpack, verify
from themis_bundles.errors import BundleInvalidError, SignatureRefusedError
from themis_bundles.signed_results import require_signed_results, sign_results

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

Require = Callable[[object, str], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Path:
    """A folder with the keys `cluster` and `stranger`, and a list that names the first."""
    require(shutil.which("ssh-keygen"), "ssh-keygen is not installed")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("cluster", "stranger"):
        command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name)
        subprocess.run(command, check=True)
    (folder / "allowed").write_text(f"cluster {(folder / 'cluster.pub').read_text()}")
    return folder


@pytest.fixture
def key(folder: Path) -> Path:
    return folder / "cluster"


@pytest.fixture
def allowed(folder: Path) -> Path:
    return folder / "allowed"


def refusal(bundle: Bundle, allowed: Path) -> str:
    with pytest.raises(SignatureRefusedError) as caught:
        require_signed_results(bundle, allowed)
    return str(caught.value)


def test_results_signed_where_they_lie(
    bundle: Bundle, kit: "Kit", key: Path, allowed: Path
) -> None:
    kit.work_all(bundle)

    assert sign_results(bundle, key) is not None

    assert require_signed_results(bundle, allowed) == ("cluster",)
    assert verify(bundle).complete
    assert not verify(bundle).refused


def test_ssh_keygen_and_sha256sum_can_repeat_the_check(
    bundle: Bundle, kit: "Kit", key: Path, allowed: Path, require: Require
) -> None:
    require(shutil.which("sha256sum"), "sha256sum is not installed")
    kit.work_all(bundle)
    folder = sign_results(bundle, key)
    assert folder
    script = (
        "ssh-keygen -Y verify -f $0 -I cluster -n themis-bundle -s $1/signatures/*.sig"
        " < $1/tagmanifest-sha256.txt && (cd $1 && sha256sum -c tagmanifest-sha256.txt) &&"
        " sed 's|  data/results/|  results/|' $1/manifest-sha256.txt | sha256sum --strict -c"
    )

    place = folder.relative_to(bundle.path)
    command = ["bash", "-euo", "pipefail", "-c", script, str(allowed), str(place)]
    done = subprocess.run(command, cwd=bundle.path, capture_output=True, check=False)

    assert done.returncode == 0, done.stderr


def test_results_that_were_signed_when_they_were_packed_stay_signed(
    bundle: Bundle, kit: "Kit", key: Path, allowed: Path, tmp_path: Path
) -> None:
    away = Bundle.open(shutil.copytree(bundle.path, tmp_path / "away"))
    kit.work_all(away, [0])
    unpack(pack(away, tmp_path / "1.tar", results_only=True, key=key)[0], bundle.path)
    kit.work_all(away, [1, 2])
    unpack(pack(away, tmp_path / "2.tar", results_only=True, key=key, shards=[1])[0], bundle.path)

    assert require_signed_results(bundle, allowed) == ("cluster",)
    unpack(pack(away, tmp_path / "3.tar", results_only=True, shards=[2])[0], bundle.path)
    assert "results/00002/first-2.jsonl.zst: no allowed signer" in refusal(bundle, allowed)


def test_without_results_there_is_nothing_to_sign_or_to_refuse(
    bundle: Bundle, key: Path, allowed: Path
) -> None:
    assert sign_results(bundle, key) is None
    assert require_signed_results(bundle, allowed) == ()


class TestRefused:
    """A set vouches for the very bytes that it lists, if its signer counts."""

    @pytest.fixture
    def signed(self, bundle: Bundle, kit: "Kit", key: Path) -> Path:
        kit.work_all(bundle)
        folder = sign_results(bundle, key)
        assert folder
        return folder

    def test_results_that_nobody_signed(self, bundle: Bundle, kit: "Kit", allowed: Path) -> None:
        kit.work(bundle, 0, "a", {0: kit.answer()})

        assert "results/00000/a.jsonl.zst: no allowed signer" in refusal(bundle, allowed)

    def test_results_that_a_stranger_signed(
        self, bundle: Bundle, kit: "Kit", folder: Path, allowed: Path
    ) -> None:
        kit.work_all(bundle)
        sign_results(bundle, folder / "stranger")

        assert "is not allowed" in refusal(bundle, allowed)

    @pytest.mark.usefixtures("signed")
    def test_records_that_were_added_or_changed_later(
        self, bundle: Bundle, kit: "Kit", allowed: Path
    ) -> None:
        kit.work(bundle, 0, "later", {0: kit.answer()})
        assert "results/00000/later.jsonl.zst" in refusal(bundle, allowed)
        (bundle.results_dir / "00000/later.jsonl.zst").unlink()
        path = bundle.results_dir / "00001/first-1.jsonl.zst"
        path.write_bytes(path.read_bytes() + b"x")

        assert "results/00001/first-1.jsonl.zst" in refusal(bundle, allowed)

    @pytest.mark.usefixtures("signed")
    def test_records_under_another_name(self, bundle: Bundle, allowed: Path) -> None:
        folder = bundle.results_dir / "00000"
        (folder / "first-0.jsonl.zst").rename(folder / "other.jsonl.zst")

        assert "results/00000/other.jsonl.zst" in refusal(bundle, allowed)

    @pytest.mark.parametrize("name", ["manifest-sha256.txt", "tagmanifest-sha256.txt", "bagit.txt"])
    def test_a_set_that_was_changed(
        self, bundle: Bundle, signed: Path, allowed: Path, name: str
    ) -> None:
        path = signed / name
        path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))

        assert f".signed/{signed.name}" in refusal(bundle, allowed)

    @pytest.mark.parametrize("name", ["bag-info.txt", "tagmanifest-sha256.txt", "signatures"])
    def test_a_set_that_is_not_whole(
        self, bundle: Bundle, signed: Path, allowed: Path, name: str
    ) -> None:
        (signed / name).rename(bundle.path.with_name("aside"))

        assert "no allowed signer signed these records" in refusal(bundle, allowed)

    @pytest.mark.usefixtures("signed")
    def test_the_set_of_another_bundle(
        self, bundle: Bundle, kit: "Kit", allowed: Path, tmp_path: Path
    ) -> None:
        other = kit.bundle(tmp_path / "other", items=3)
        shutil.copytree(bundle.results_dir, other.results_dir)

        assert "it is of another bundle" in refusal(other, allowed)

    @pytest.mark.usefixtures("signed")
    def test_a_list_of_signers_that_the_results_bring(
        self, bundle: Bundle, allowed: Path, tmp_path: Path
    ) -> None:
        elsewhere = bundle.results_dir.rename(tmp_path / "aside")
        aside = Bundle.open(bundle.path, results=elsewhere)
        inside = shutil.copy(allowed, aside.results_dir / "allowed")

        assert require_signed_results(aside, allowed) == ("cluster",)
        with pytest.raises(ValueError, match="lies in the bundle"):
            require_signed_results(aside, Path(inside))

    @pytest.mark.usefixtures("signed")
    def test_a_link_to_records(self, bundle: Bundle, allowed: Path) -> None:
        path = bundle.results_dir / "00000/first-0.jsonl.zst"
        (bundle.results_dir / "00000/linked.jsonl.zst").symlink_to(path)

        with pytest.raises(BundleInvalidError, match=r"linked\.jsonl\.zst: unreadable"):
            require_signed_results(bundle, allowed)
