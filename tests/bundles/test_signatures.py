"""Signatures are made by the real ssh-keygen, over bundles and over results."""

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from themis_bundles import Bundle, BundleInvalidError, pack, unpack
from themis_bundles.errors import SignatureRefusedError, SignatureToolError
from themis_bundles.signatures import check_signatures, require_signature, sign

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

Require = Callable[[object, str], None]


@dataclass
class Keys:
    folder: Path

    def make(self, name: str, kind: str = "ed25519") -> Path:
        path = self.folder / name
        command = ("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", path)
        subprocess.run(command, check=True)
        return path

    def allow(self, *lines: tuple[str, Path, str]) -> Path:
        path = self.folder / "allowed_signers"
        path.write_text(
            "".join(
                f"{who} {options} {key.with_suffix('.pub').read_text()}"
                for who, key, options in lines
            )
        )
        return path


@pytest.fixture
def keys(tmp_path: Path, require: Require) -> Keys:
    require(shutil.which("ssh-keygen"), "ssh-keygen is not installed")
    folder = tmp_path / "keys"
    folder.mkdir()
    return Keys(folder)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_signature_names_its_signer(bundle: Bundle, keys: Keys, kind: str) -> None:
    key = keys.make("me", kind)
    path = sign(bundle.path, key)

    found = require_signature(bundle.path, keys.allow(("me@example.org", key, "")))

    assert path.parent == bundle.path / "signatures"
    assert (found.principal, found.path) == ("me@example.org", f"signatures/{path.name}")
    command = ("ssh-keygen", "-lf", key.with_suffix(".pub"))
    listed = subprocess.run(command, check=True, capture_output=True, text=True)
    assert found.fingerprint in listed.stdout


def test_anybody_can_repeat_the_check_without_themis(bundle: Bundle, keys: Keys) -> None:
    key = keys.make("me")
    path = sign(bundle.path, key)
    allowed = keys.allow(("me", key, ""))

    with (bundle.path / "tagmanifest-sha256.txt").open("rb") as data:
        command = ("ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "me", "-n", "themis-bundle")
        done = subprocess.run((*command, "-s", path), stdin=data, check=False)

    assert done.returncode == 0


def test_what_ssh_keygen_signs_is_taken(bundle: Bundle, keys: Keys) -> None:
    key = keys.make("me")
    command = ("ssh-keygen", "-q", "-Y", "sign", "-n", "themis-bundle", "-f", key)
    subprocess.run((*command, bundle.path / "tagmanifest-sha256.txt"), check=True)
    (bundle.path / "signatures").mkdir()
    (bundle.path / "tagmanifest-sha256.txt.sig").rename(bundle.path / "signatures/by-hand.sig")

    found = require_signature(bundle.path, keys.allow(("me", key, "")))

    assert found.path == "signatures/by-hand.sig"


def test_several_people_can_sign_and_one_is_enough(bundle: Bundle, keys: Keys) -> None:
    one, two = keys.make("one"), keys.make("two")
    sign(bundle.path, one)
    sign(bundle.path, two)
    sign(bundle.path, two)

    found = check_signatures(bundle.path, keys.allow(("two", two, "")))

    assert sorted(s.principal or "" for s in found) == ["", "two"]
    assert require_signature(bundle.path, keys.allow(("two", two, ""))).principal == "two"


class TestRefused:
    """Anything but an allowed signature over these bytes proves nothing."""

    def refusal(self, bundle: Bundle, allowed: Path) -> str:
        with pytest.raises(SignatureRefusedError) as caught:
            require_signature(bundle.path, allowed)
        return str(caught.value)

    def test_no_signature(self, bundle: Bundle, keys: Keys) -> None:
        allowed = keys.allow(("me", keys.make("me"), ""))

        assert "it is not signed" in self.refusal(bundle, allowed)

    def test_a_changed_bundle(self, bundle: Bundle, keys: Keys) -> None:
        key = keys.make("me")
        sign(bundle.path, key)
        path = bundle.path / "tagmanifest-sha256.txt"
        path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))

        assert "does not fit the bundle" in self.refusal(bundle, keys.allow(("me", key, "")))

    def test_a_stranger(self, bundle: Bundle, keys: Keys) -> None:
        sign(bundle.path, keys.make("stranger"))
        allowed = keys.allow(("me", keys.make("me"), ""))

        assert "is not allowed" in self.refusal(bundle, allowed)

    @pytest.mark.parametrize(
        "options", ['namespaces="git"', 'valid-before="20200101"', 'valid-after="20990101"']
    )
    def test_a_signer_for_something_else_or_another_time(
        self, bundle: Bundle, keys: Keys, options: str
    ) -> None:
        key = keys.make("me")
        sign(bundle.path, key)

        assert "signatures/" in self.refusal(bundle, keys.allow(("me", key, options)))

    def test_a_signature_for_another_purpose(self, bundle: Bundle, keys: Keys) -> None:
        key = keys.make("me")
        command = ("ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", key)
        data = (bundle.path / "tagmanifest-sha256.txt").read_bytes()
        done = subprocess.run(command, input=data, capture_output=True, check=True)
        (bundle.path / "signatures").mkdir()
        (bundle.path / "signatures/git.sig").write_bytes(done.stdout)

        assert "does not fit the bundle" in self.refusal(bundle, keys.allow(("me", key, "")))

    def test_every_flipped_byte_of_a_signature(self, bundle: Bundle, keys: Keys) -> None:
        key = keys.make("me")
        path = sign(bundle.path, key)
        good = path.read_bytes()
        allowed = keys.allow(("me", key, ""))

        for place in range(0, len(good) - 1, 7):
            flipped = good[place] ^ 2
            path.write_bytes(good[:place] + bytes([flipped]) + good[place + 1 :])
            assert path.name in self.refusal(bundle, allowed)

    @pytest.mark.parametrize("data", [b"", b"junk", b"\xff" * 40, b"x" * 70_000])
    def test_a_file_that_is_no_signature(self, bundle: Bundle, keys: Keys, data: bytes) -> None:
        (bundle.path / "signatures").mkdir()
        (bundle.path / "signatures/x.sig").write_bytes(data)
        allowed = keys.allow(("me", keys.make("me"), ""))

        assert "not a signature" in self.refusal(bundle, allowed)

    def test_a_link_to_a_signature(self, bundle: Bundle, keys: Keys, tmp_path: Path) -> None:
        key = keys.make("me")
        path = sign(bundle.path, key)
        path.rename(tmp_path / "aside.sig")
        path.symlink_to(tmp_path / "aside.sig")

        assert "not a signature" in self.refusal(bundle, keys.allow(("me", key, "")))

    def test_a_list_of_signers_that_the_bundle_brings(self, bundle: Bundle, keys: Keys) -> None:
        key = keys.make("me")
        sign(bundle.path, key)
        inside = keys.allow(("me", key, "")).rename(bundle.path / "signatures/allowed_signers")

        with pytest.raises(ValueError, match="lies in the bundle"):
            require_signature(bundle.path, inside)


class TestPacks:
    """Results come back as a bag of their own, signed as a bundle is."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "r.tar"

    @pytest.fixture
    def away(self, bundle: Bundle, kit: "Kit", tmp_path: Path) -> Bundle:
        away = Bundle.open(shutil.copytree(bundle.path, tmp_path / "away"))
        kit.work_all(away)
        return away

    def test_signed_results_name_their_signer(
        self, bundle: Bundle, away: Bundle, file: Path, keys: Keys
    ) -> None:
        key = keys.make("cluster")
        pack(away, file, results_only=True, key=key, max_bytes=2000)

        done = unpack(file, bundle.path, allowed_signers=keys.allow(("cluster", key, "")))

        # Nine result files, and five that prove who signed them.
        assert (done.signed_by, done.written) == ("cluster", 14)
        assert not (bundle.path / "signatures").exists()

    def test_anybody_can_repeat_the_check_without_themis(
        self, away: Bundle, file: Path, keys: Keys, tmp_path: Path
    ) -> None:
        key = keys.make("cluster")
        pack(away, file, results_only=True, key=key)
        allowed = keys.allow(("cluster", key, ""))
        out = tmp_path / "out"
        out.mkdir()
        subprocess.run(("tar", "-xf", file), cwd=out, check=True)
        (signature,) = (out / "signatures").iterdir()
        command = ("ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "cluster")
        purpose = ("-n", "themis-bundle", "-s", signature)

        with (out / "tagmanifest-sha256.txt").open("rb") as data:
            done = subprocess.run((*command, *purpose), stdin=data, check=False)

        assert done.returncode == 0

    def test_nothing_is_written_without_the_signature_that_is_asked_for(
        self, bundle: Bundle, away: Bundle, file: Path, keys: Keys
    ) -> None:
        allowed = keys.allow(("cluster", keys.make("cluster"), ""))
        stranger = file.with_name("stranger.tar")
        pack(away, file, results_only=True)
        pack(away, stranger, results_only=True, key=keys.make("stranger"))

        with pytest.raises(SignatureRefusedError, match="it is not signed"):
            unpack(file, bundle.path, allowed_signers=allowed)
        with pytest.raises(SignatureRefusedError, match="is not allowed"):
            unpack(stranger, bundle.path, allowed_signers=allowed)

        assert not bundle.results_dir.exists()

    def test_the_signature_of_other_results_is_refused(
        self, bundle: Bundle, away: Bundle, file: Path, keys: Keys
    ) -> None:
        key = keys.make("cluster")
        pack(away, file, results_only=True, key=key)
        whole = file.read_bytes()
        other = file.with_name("other.tar")
        pack(away, other, results_only=True, shards=[1], key=key)
        # The same key signed both, so both signatures have the same name and length.
        start = whole.index(b"-----BEGIN SSH SIGNATURE-----")
        end = whole.index(b"-----END SSH SIGNATURE-----")
        strange = other.read_bytes()
        at = strange.index(b"-----BEGIN SSH SIGNATURE-----")
        digests = [
            hashlib.sha256(data[place : place + end + 28 - start]).hexdigest().encode()
            for data, place in ((whole, start), (strange, at))
        ]
        swapped = whole[:start] + strange[at : at + end - start] + whole[end:]
        file.write_bytes(swapped.replace(digests[0], digests[1]))

        with pytest.raises(SignatureRefusedError, match="does not fit"):
            unpack(file, bundle.path, allowed_signers=keys.allow(("cluster", key, "")))

        assert not bundle.results_dir.exists()

    def test_a_changed_member_is_refused(
        self, bundle: Bundle, away: Bundle, file: Path, keys: Keys
    ) -> None:
        key = keys.make("cluster")
        pack(away, file, results_only=True, key=key)
        data = bytearray(file.read_bytes())
        data[data.rindex(b"ustar") + 600] ^= 1
        file.write_bytes(data)

        with pytest.raises(BundleInvalidError):
            unpack(file, bundle.path, allowed_signers=keys.allow(("cluster", key, "")))

    def test_a_signed_bundle_arrives_and_results_beside_it_need_their_own(
        self, bundle: Bundle, away: Bundle, file: Path, keys: Keys, tmp_path: Path
    ) -> None:
        key = keys.make("planner")
        allowed = keys.allow(("planner", key, ""))
        sign(bundle.path, key)
        sign(away.path, key)
        pack(bundle, file)
        pack(away, file.with_name("both.tar"))

        done = unpack(file, tmp_path / "there", allowed_signers=allowed)
        with pytest.raises(SignatureRefusedError, match="is not over results"):
            unpack(file.with_name("both.tar"), tmp_path / "both", allowed_signers=allowed)

        assert done.signed_by == "planner"
        assert require_signature(done.path, allowed).valid
        assert not (tmp_path / "both").exists()

    def test_a_whole_bundle_is_not_signed_by_packing(
        self, bundle: Bundle, file: Path, keys: Keys
    ) -> None:
        with pytest.raises(ValueError, match="only a bag of results is signed here"):
            pack(bundle, file, key=keys.make("me"))

    def test_a_list_of_signers_in_the_target(
        self, bundle: Bundle, away: Bundle, file: Path, keys: Keys
    ) -> None:
        key = keys.make("cluster")
        pack(away, file, results_only=True, key=key)
        inside = keys.allow(("cluster", key, "")).rename(bundle.path / "signers")

        with pytest.raises(ValueError, match="lies in the bundle"):
            unpack(file, bundle.path, allowed_signers=inside)


class TestTool:
    """Without a usable ssh-keygen the message says what is needed."""

    @pytest.mark.parametrize("words", ["unknown option -- Y", "illegal option -- Y"])
    def test_an_old_ssh_keygen(
        self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
    ) -> None:
        tool = tmp_path / "bin/ssh-keygen"
        tool.parent.mkdir()
        tool.write_text(f"#!/bin/sh\necho 'ssh-keygen: {words}' >&2\nexit 1\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")

        with pytest.raises(SignatureToolError, match=r"OpenSSH 8\.2 or newer"):
            sign(bundle.path, tmp_path / "key")

    def test_no_ssh_keygen(
        self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))

        with pytest.raises(SignatureToolError, match="needs ssh-keygen"):
            sign(bundle.path, tmp_path / "key")

    def test_checking_needs_no_ssh_keygen(
        self, bundle: Bundle, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = keys.make("me")
        sign(bundle.path, key)
        allowed = keys.allow(("me", key, ""))
        monkeypatch.setenv("PATH", str(tmp_path))

        assert require_signature(bundle.path, allowed).principal == "me"

    def test_a_key_in_an_agent_signs_without_its_private_file(
        self,
        bundle: Bundle,
        keys: Keys,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
        require: Require,
    ) -> None:
        require(shutil.which("ssh-agent") and shutil.which("ssh-add"), "no ssh-agent")
        key = keys.make("me")
        # The name of a socket must be short.
        socket = tmp_path_factory.mktemp("s") / "s"
        agent = subprocess.Popen(("ssh-agent", "-D", "-a", socket), stdout=subprocess.DEVNULL)
        try:
            while not socket.exists():
                time.sleep(0.01)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
            subprocess.run(("ssh-add", "-q", key), check=True, stderr=subprocess.DEVNULL)
            key.unlink()

            sign(bundle.path, key.with_suffix(".pub"))
        finally:
            agent.terminate()
            agent.wait()

        assert require_signature(bundle.path, keys.allow(("me", key, ""))).principal == "me"

    def test_a_key_that_is_not_there(self, bundle: Bundle, keys: Keys) -> None:
        with pytest.raises(SignatureToolError, match="cannot sign with"):
            sign(bundle.path, keys.folder / "nothing")

        assert not (bundle.path / "signatures").exists()
