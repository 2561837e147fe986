"""Signatures are judged as `ssh-keygen -Y verify` judges them; never more kindly."""

import base64
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from themis_bundles import allowed_signers, sshsig
from themis_bundles.signatures import NAMESPACE, judge

Require = Callable[[object, str], None]

DATA = b"0123  data/manifest.json\n"
KINDS = ("ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048", "rsa-3072")


def keygen(*arguments: object, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = ["ssh-keygen", *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=False)


@dataclass
class Keyring:
    folder: Path

    def private(self, name: str) -> Path:
        """A key of a kind, made once: `ed25519`, `rsa-2048`, or `ed25519.other` for another."""
        path = self.folder / name
        if not path.exists():
            kind, _, bits = name.partition(".")[0].partition("-")
            size = ("-b", bits) if bits else ()
            made = keygen("-q", "-t", kind, *size, "-N", "", "-C", "a comment", "-f", path)
            assert made.returncode == 0, made.stderr
        return path

    def public(self, name: str) -> str:
        return self.private(name).with_name(f"{name}.pub").read_text().strip()

    def sign(self, name: str, data: bytes = DATA, *options: str, purpose: str = NAMESPACE) -> bytes:
        key = self.private(name)
        done = keygen("-q", "-Y", "sign", "-n", purpose, "-f", key, *options, data=data)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def verdicts(
        self, signers: str, signature: bytes, data: bytes = DATA, principal: str = "me"
    ) -> tuple[bool, bool]:
        """What Themis and ssh-keygen say about a signature."""
        listed, file = self.folder / "allowed_signers", self.folder / "x.sig"
        listed.write_bytes(signers.encode())
        file.write_bytes(signature)
        allowed = allowed_signers.parse(listed.read_bytes())
        ours = judge("x.sig", signature, data, allowed, principal).valid
        command = ("-Y", "verify", "-f", listed, "-I", principal, "-n", NAMESPACE, "-s", file)
        return ours, keygen(*command, data=data).returncode == 0


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Keyring:
    require(shutil.which("ssh-keygen"), "ssh-keygen is not installed")
    return Keyring(tmp_path_factory.mktemp("ring"))


@pytest.mark.parametrize("hash_name", ["sha256", "sha512"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_take_what_an_allowed_key_signed(ring: Keyring, kind: str, hash_name: str) -> None:
    signature = ring.sign(kind, DATA, "-O", f"hashalg={hash_name}")
    signers = f"me {ring.public(kind)}\n"

    assert ring.verdicts(signers, signature) == (True, True)
    assert ring.verdicts(signers, signature, DATA + b"x") == (False, False)
    assert ring.verdicts(signers, signature, b"") == (False, False)
    fingerprint = keygen("-lf", ring.private(kind)).stdout.decode().split()[1]
    assert sshsig.read(signature).fingerprint == fingerprint


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-256", "rsa-2048"])
def test_both_refuse_another_purpose_key_or_signer(ring: Keyring, kind: str) -> None:
    signature = ring.sign(kind)
    mine = f"me {ring.public(kind)}\n"

    assert ring.verdicts(mine, ring.sign(kind, purpose="git")) == (False, False)
    assert ring.verdicts(f"me {ring.public(kind + '.other')}\n", signature) == (False, False)
    assert ring.verdicts(mine, ring.sign(f"{kind}.other")) == (False, False)
    assert ring.verdicts(mine, signature, principal="you") == (False, False)
    assert ring.verdicts("", signature) == (False, False)


LINES = {
    "me KEY": True,
    "  me\t KEY": True,
    '"me" KEY': True,
    "me KEY and a comment": True,
    "me KEY\r": True,
    "you,me KEY": True,
    "m? KEY": True,
    "*,!you KEY": True,
    "*,!me KEY": False,
    "!me,* KEY": False,
    "you KEY": False,
    "Me KEY": False,
    "m KEY": False,
    "me*you KEY": False,
    "# me KEY": False,
    "me": False,
    "me ": False,
    "me # KEY": False,
    "KEY": False,
    "me OTHER": False,
    "me OTHER\nme KEY": True,
    "me nonsense\nme KEY": True,
    "\n\nme KEY\n\n": True,
    'me namespaces="themis-bundle" KEY': True,
    'me NAMESPACES="themis-bundle" KEY': True,
    'me namespaces="git,themis-*" KEY': True,
    'me namespaces="*,!themis-bundle" KEY': False,
    'me namespaces="git" KEY': False,
    'me namespaces="git" KEY\nme KEY': True,
    "me namespaces=themis-bundle KEY": False,
    'me namespaces="themis-bundle KEY': False,
    'me namespaces="git",namespaces="themis-bundle" KEY': False,
    'me namespaces="themis-bundle", KEY': False,
    'me namespaces="themis-bundle" , KEY': False,
    'me valid-after="20200101" KEY': True,
    'me valid-after="20990101" KEY': False,
    'me valid-before="20990101" KEY': True,
    'me valid-before="20990101Z" KEY': True,
    'me valid-before="20200101" KEY': False,
    'me valid-before="202001012359" KEY': False,
    'me valid-before="20200101235959Z" KEY': False,
    'me valid-before="20200101" KEY\nme KEY': True,
    'me valid-after="20200101",valid-before="20990101" KEY': True,
    'me valid-after="20990101",valid-before="20200101" KEY': False,
    'me valid-before="tomorrow" KEY': False,
    'me valid-before="2099" KEY': False,
    'me valid-before="20991332" KEY': False,
    'me namespaces="themis-bundle",valid-before="20990101" KEY': True,
    'me namespaces="git",valid-before="20990101" KEY': False,
    "me cert-authority KEY": False,
    'me cert-authority,namespaces="themis-bundle" KEY': False,
    "me unknown-option KEY": False,
    'me unknown="x" KEY': False,
    "me verify-required KEY": False,
}
"""Lists of signers, and whether they allow `me`, whose key stands for KEY."""


@pytest.mark.parametrize("mark", ["\0", "\r", "\x1b", "\x0b"])
def test_a_line_with_a_control_character_allows_nobody(ring: Keyring, mark: str) -> None:
    for line in (f"you{mark},me KEY", f'me namespaces="git{mark},*" KEY', f"me {mark} KEY"):
        signers = line.replace("KEY", ring.public("ed25519")) + "\n"

        assert not ring.verdicts(signers, ring.sign("ed25519"))[0]


@pytest.mark.parametrize("line", LINES)
def test_both_read_a_list_of_signers_alike(ring: Keyring, line: str) -> None:
    signers = line.replace("KEY", ring.public("ed25519"))
    signers = signers.replace("OTHER", ring.public("ed25519.other")) + "\n"

    assert ring.verdicts(signers, ring.sign("ed25519")) == (LINES[line],) * 2


def test_a_list_says_why_it_does_not_help(ring: Keyring) -> None:
    key = ring.public("ed25519")
    lines = ["nobody", f"me cert-authority {key}", f'me valid-before="20200101" {key}']
    allowed = allowed_signers.parse("\n".join(lines).encode())

    found = judge("x.sig", ring.sign("ed25519"), DATA, allowed)

    assert "line 2 is for certificates (cert-authority)" in found.reason
    assert "line 3 has expired" in found.reason
    assert "line 1 cannot be read: no principals and key" in found.reason


def forged(
    key: bytes, algorithm: bytes, value: bytes, changes: dict[str, bytes] | None = None
) -> bytes:
    """A signature file put together from its fields."""
    fields = {
        "key": key,
        "namespace": NAMESPACE.encode(),
        "reserved": b"",
        "hash": b"sha512",
        "signature": string(algorithm) + string(value),
        "end": b"",
        **(changes or {}),
    }
    end = fields.pop("end")
    blob = b"SSHSIG\0\0\0\1" + b"".join(string(field) for field in fields.values()) + end
    return armour(blob)


def armour(blob: bytes) -> bytes:
    lines = base64.encodebytes(blob)
    return b"-----BEGIN SSH SIGNATURE-----\n" + lines + b"-----END SSH SIGNATURE-----\n"


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class TestForged:
    """Fields that do not belong together prove nothing, whoever looks."""

    @pytest.fixture
    def fields(self, ring: Keyring) -> tuple[bytes, bytes, bytes]:
        found = sshsig.read(ring.sign("ed25519"))
        return found.key, found.algorithm.encode(), found.value[4:]

    def test_fields_put_together_again_are_the_signature(
        self, ring: Keyring, fields: tuple[bytes, bytes, bytes]
    ) -> None:
        signers = f"me {ring.public('ed25519')}\n"

        assert ring.verdicts(signers, forged(*fields)) == (True, True)

    @pytest.mark.parametrize(
        "changes",
        [
            {"hash": b"sha256"},
            {"hash": b"sha1"},
            {"hash": b"md5"},
            {"namespace": b"git"},
            {"namespace": b""},
            {"end": b"x"},
            {"end": string(b"")},
            {"key": b""},
            {"key": string(b"ssh-ed25519")},
            {"key": string(b"ssh-ed25519") + string(bytes(31))},
            {"key": string(b"ssh-ed25519") + string(bytes(32))},
            {"key": string(b"ssh-dss") + string(bytes(32))},
            {"signature": b""},
            {"signature": string(b"ssh-ed25519")},
            {"signature": string(b"ssh-ed25519") + string(bytes(64))},
            {"signature": string(b"ssh-ed25519") + string(bytes(63))},
            {"signature": string(b"rsa-sha2-512") + string(bytes(64))},
            {"signature": string(b"ssh-rsa") + string(bytes(64))},
        ],
        ids=str,
    )
    def test_both_refuse_another_field(
        self, ring: Keyring, fields: tuple[bytes, bytes, bytes], changes: dict[str, bytes]
    ) -> None:
        signers = f"me {ring.public('ed25519')}\n"

        assert ring.verdicts(signers, forged(*fields, changes)) == (False, False)

    def test_both_refuse_a_key_of_the_list_under_the_signature_of_another(
        self, ring: Keyring, fields: tuple[bytes, bytes, bytes]
    ) -> None:
        _, algorithm, value = fields
        for kind in ("ed25519.other", "rsa-2048", "ecdsa-256"):
            key = sshsig.read(ring.sign(kind)).key
            signers = f"me {ring.public(kind)}\n"

            assert ring.verdicts(signers, forged(key, algorithm, value)) == (False, False)

    def test_a_reserved_field_in_use_is_refused_though_ssh_keygen_ignores_it(
        self, ring: Keyring, fields: tuple[bytes, bytes, bytes]
    ) -> None:
        signers = f"me {ring.public('ed25519')}\n"

        assert ring.verdicts(signers, forged(*fields, {"reserved": b"x"})) == (False, True)

    def test_both_refuse_rsa_with_sha1(self, ring: Keyring) -> None:
        found = sshsig.read(ring.sign("rsa-2048"))
        signers = f"me {ring.public('rsa-2048')}\n"

        assert ring.verdicts(signers, forged(found.key, b"ssh-rsa", found.value[4:])) == (
            False,
            False,
        )

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            (b"sk-ssh-ed25519@openssh.com", "security tokens"),
            (b"sk-ecdsa-sha2-nistp256@openssh.com", "security tokens"),
            (b"ssh-ed25519-cert-v01@openssh.com", "certificates"),
            (b"ssh-dss", "are not supported"),
        ],
    )
    def test_a_kind_of_key_that_is_not_checked_here_is_named(self, kind: bytes, words: str) -> None:
        key = string(kind) + string(bytes(32)) + string(b"ssh:")
        line = b"me " + kind + b" " + base64.b64encode(key) + b"\n"
        allowed = allowed_signers.parse(line)
        assert not allowed.unread

        found = judge("x.sig", forged(key, kind, bytes(64)), DATA, allowed)

        assert not found.valid
        assert words in found.reason


class TestArmour:
    """The text around a signature is read as strictly as ssh-keygen reads it, or more."""

    def test_a_missing_last_line_end_is_taken_by_both(self, ring: Keyring) -> None:
        signers = f"me {ring.public('ed25519')}\n"

        assert ring.verdicts(signers, ring.sign("ed25519").rstrip(b"\n")) == (True, True)

    @pytest.mark.parametrize("kind", ["ed25519", "ecdsa-256", "rsa-2048"])
    def test_what_themis_takes_ssh_keygen_takes(self, ring: Keyring, kind: str) -> None:
        good = ring.sign(kind)
        signers = f"me {ring.public(kind)}\n"
        source = random.Random(kind)
        allowed = allowed_signers.parse(signers.encode())
        taken = 0

        for _ in range(400):
            data = bytearray(good)
            place = source.randrange(len(data))
            match source.randrange(3):
                case 0:
                    data[place] ^= 1 << source.randrange(8)
                case 1:
                    del data[place : place + source.randrange(1, 9)]
                case _:
                    data[place:place] = source.choice([b"\n", b" ", b"=", b"A", b"\0", b"\r\n"])
            if judge("x.sig", bytes(data), DATA, allowed).valid:
                taken += 1
                assert ring.verdicts(signers, bytes(data))[1], bytes(data)

        # A line end between two lines of base64 changes nothing; hardly anything else may.
        assert taken < 40
