"""What is packed arrives whole or is refused, and nothing else arrives with it."""

import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from themis_bundles import (
    Bundle,
    BundleExistsError,
    BundleInvalidError,
    ResultWriter,
    bag,
    canonical_json,
    incomplete_shards,
    parse_canonical,
    sha256_hex,
    verify,
)
from themis_bundles.errors import BundleWriteError
from themis_bundles.pack import pack
from themis_bundles.transfer_file import PackList
from themis_bundles.unpack import read_list, unpack

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

Require = Callable[[object, str], None]


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def members(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def forge(file: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in entries:
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return file


def shards_in(listing: PackList) -> set[str]:
    paths = [member.path.split("/") for member in listing.members]
    return {path[2] for path in paths if path[1:2] == ["results"]}


def sealed(entries: dict[str, bytes], **changes: Any) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The members of a pack with these files, whose lists and tag files all agree."""
    texts = {name: entries[name] for name in (*bag.TAG_FILES, bag.TAG_MANIFEST)}
    payload = {n: sha256_hex(d) for n, d in entries.items() if n.startswith("data/")}
    # Not `bag.tag_files`: it is for good names.
    texts[bag.PAYLOAD_MANIFEST] = bag.checksum_lines(payload)
    tags = {name: sha256_hex(texts[name]) for name in bag.TAG_FILES}
    texts[bag.TAG_MANIFEST] = bag.checksum_lines(tags)
    files = {**entries, **texts}
    former = parse_canonical(files.pop("pack.json")[:-1])
    listed = [{"path": n, "bytes": len(d), "sha256": sha256_hex(d)} for n, d in files.items()]
    value = canonical_json({**former, "members": listed, **changes}) + b"\n"
    return [(plain(name), data) for name, data in {"pack.json": value, **files}.items()]


def plain(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    return info


def test_a_bundle_arrives_as_it_left(tmp_path: Path, bundle: Bundle, kit: "Kit") -> None:
    kit.work_all(bundle, [0])
    (file,) = pack(bundle, tmp_path / "out" / "b.tar")

    done = unpack(file, tmp_path / "there" / "b")

    assert content(tmp_path / "there/b") == content(bundle.path)
    assert (done.written, done.kept) == (len(content(bundle.path)), 0)
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == ["b"]
    assert not verify(Bundle.open(done.path)).refused


def test_the_same_bundle_gives_the_same_pack(tmp_path: Path, bundle: Bundle) -> None:
    (one,) = pack(bundle, tmp_path / "1.tar")
    (two,) = pack(bundle, tmp_path / "2.tar")

    assert one.read_bytes() == two.read_bytes()


def test_tar_can_list_and_read_a_pack_and_its_parts(
    tmp_path: Path, bundle: Bundle, kit: "Kit", require: Require
) -> None:
    require(shutil.which("tar"), "tar is not installed")
    attempt = "a" * 80
    kit.work(bundle, 0, attempt)
    parts = pack(bundle, tmp_path / "b.tar", max_bytes=1500)
    assert len(parts) > 3
    whole = b"".join(part.read_bytes() for part in parts)

    done = subprocess.run(["tar", "tf", "-"], input=whole, capture_output=True, check=True)

    names = done.stdout.decode().split()
    assert names[0] == "pack.json"
    assert sorted(names[1:]) == sorted(content(bundle.path))


def test_parts_are_put_together_and_a_missing_one_is_noticed(
    tmp_path: Path, bundle: Bundle
) -> None:
    parts = pack(bundle, tmp_path / "b.tar", max_bytes=1000)
    assert [part.name for part in parts] == [f"b.tar.{n:03d}" for n in range(len(parts))]
    assert all(part.stat().st_size == 1000 for part in parts[:-1])

    assert content(unpack(tmp_path / "b.tar", tmp_path / "there").path) == content(bundle.path)
    parts[-1].unlink()
    with pytest.raises(BundleInvalidError, match=r"truncated|tar: "):
        unpack(tmp_path / "b.tar", tmp_path / "again")
    parts[2].unlink()
    with pytest.raises(BundleInvalidError, match=r"truncated|tar: "):
        unpack(tmp_path / "b.tar", tmp_path / "again")
    assert not (tmp_path / "again").exists()


class TestResults:
    """The way back brings results to the bundle that they belong to."""

    def test_they_arrive_at_their_bundle(self, tmp_path: Path, bundle: Bundle, kit: "Kit") -> None:
        away = Bundle.open(shutil.copytree(bundle.path, tmp_path / "away"))
        kit.work_all(away, [0, 2])
        kit.work(away, 1, "partial", {4: kit.answer()})
        (file,) = pack(away, tmp_path / "r.tar", results_only=True)

        done = unpack(file, bundle.path)

        assert incomplete_shards(bundle) == (1,)
        assert (done.written, done.kept, done.signed_by) == (6, 0, None)
        assert not (bundle.results_dir / "00001").exists()
        assert verify(bundle).counts["ok"] == 6

    def test_another_trip_brings_only_what_is_new(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit"
    ) -> None:
        away = Bundle.open(shutil.copytree(bundle.path, tmp_path / "away"))
        kit.work_all(away, [0])
        unpack(pack(away, tmp_path / "1.tar", results_only=True)[0], bundle.path)
        kit.work_all(away, [1, 2])

        first = unpack(pack(away, tmp_path / "2.tar", results_only=True)[0], bundle.path)
        again = unpack(tmp_path / "2.tar", bundle.path)

        assert (first.written, first.kept) == (6, 3)
        assert (again.written, again.kept) == (0, 9)
        assert verify(bundle).complete

    def test_a_later_pack_can_leave_out_what_a_former_one_held(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit"
    ) -> None:
        away = Bundle.open(shutil.copytree(bundle.path, tmp_path / "away"))
        kit.work_all(away, [0])
        unpack(pack(away, tmp_path / "1.tar", results_only=True)[0], bundle.path)
        kit.work_all(away, [1])
        first = read_list(tmp_path / "1.tar")
        (later,) = pack(away, tmp_path / "2.tar", results_only=True, since=[first])

        kit.work_all(away, [2])
        former = [first, read_list(later)]
        parts = pack(away, tmp_path / "3.tar", results_only=True, since=former, max_bytes=999)

        assert shards_in(read_list(later)) == {"00001"}
        assert unpack(later, bundle.path).written == 3
        last = parts[-1].rename(tmp_path / "aside")
        assert shards_in(read_list(tmp_path / "3.tar")) == {"00002"}
        last.rename(parts[-1])
        assert unpack(tmp_path / "3.tar", bundle.path).kept == 0
        assert verify(bundle).complete

    def test_a_shard_that_went_on_comes_again(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit"
    ) -> None:
        kit.work(bundle, 0, "a", {0: kit.answer()})
        (file,) = pack(bundle, tmp_path / "1.tar", results_only=True, shards=[0])
        former = [read_list(file)]

        assert pack(bundle, tmp_path / "2.tar", results_only=True, shards=[0], since=former) == ()
        kit.work(bundle, 0, "b")
        (later,) = pack(bundle, tmp_path / "3.tar", results_only=True, shards=[0], since=former)

        assert "data/results/00000/a.jsonl.zst" in members(later)

    def test_without_results_there_is_no_pack(self, tmp_path: Path, bundle: Bundle) -> None:
        assert pack(bundle, tmp_path / "1.tar", results_only=True) == ()
        assert not (tmp_path / "1.tar").exists()

    def test_a_former_pack_of_another_bundle_is_refused(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit"
    ) -> None:
        other = kit.bundle(tmp_path / "other", items=3)
        (file,) = pack(other, tmp_path / "1.tar")

        with pytest.raises(ValueError, match="of another bundle"):
            pack(bundle, tmp_path / "2.tar", results_only=True, since=[read_list(file)])

    def test_their_bag_must_describe_them(self, tmp_path: Path, bundle: Bundle, kit: "Kit") -> None:
        kit.work_all(bundle)
        good = members(pack(bundle, tmp_path / "r.tar", results_only=True)[0])
        shutil.rmtree(bundle.results_dir)
        fewer = {name: data for name, data in good.items() if "00002" not in name}
        other = {**good, "data/manifest.json": b"{}\n"}
        stray = {**good, "results/00000/a.json": b"x"}

        assert unpack(forge(tmp_path / "0.tar", sealed(good)), bundle.path).written == 9
        for entries, words in (
            (fewer, r"bag-info\.txt: bag: it does not describe these results"),
            (other, r"data/manifest\.json: digest: not the bundle"),
            (stray, "is no file of a bag of results"),
        ):
            with pytest.raises(BundleInvalidError, match=words):
                unpack(forge(tmp_path / "x.tar", sealed(entries)), bundle.path)

    @pytest.mark.parametrize("max_bytes", [None, 1500])
    def test_plain_tar_gives_a_bag_that_other_tools_prove(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit", require: Require, max_bytes: int | None
    ) -> None:
        bagit = Path(sys.executable).with_name("bagit.py")
        require(bagit.exists(), "bagit is not installed")
        require(shutil.which("tar") and shutil.which("sha256sum"), "no tar, or no sha256sum")
        kit.work_all(bundle, [0, 2])
        parts = pack(bundle, tmp_path / "r.tar", results_only=True, max_bytes=max_bytes)
        whole = b"".join(part.read_bytes() for part in parts)
        out = tmp_path / "out"
        out.mkdir()

        def passes(*command: str | Path) -> bool:
            return (
                subprocess.run(command, cwd=out, capture_output=True, check=False).returncode == 0
            )

        subprocess.run(["tar", "-x"], input=whole, cwd=out, check=True)
        checks: list[tuple[str | Path, ...]] = [
            ("sha256sum", "--strict", "-c", "tagmanifest-sha256.txt"),
            ("sha256sum", "--strict", "-c", "manifest-sha256.txt"),
            (sys.executable, bagit, "--validate", "."),
        ]
        assert [passes(*check) for check in checks] == [True, True, True]
        assert sha256_hex((out / "data/manifest.json").read_bytes()) == bundle.digest
        path = next((out / "data/results/00002").glob("*.zst"))
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        assert [passes(*check) for check in checks] == [True, False, False]

    def test_an_attempt_that_went_on_replaces_what_came_before(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit"
    ) -> None:
        away = Bundle.open(shutil.copytree(bundle.path, tmp_path / "away"))
        writer = ResultWriter(away, 0, "a", header={}, flush_records=1)
        kit.append(writer, away, {0: kit.answer()})
        writer.status(force=True)
        (early,) = pack(away, tmp_path / "early.tar", results_only=True, shards=[0])
        kit.append(writer, away, {seq: kit.answer() for seq in (1, 2, 3)})
        writer.close()
        (late,) = pack(away, tmp_path / "late.tar", results_only=True)

        assert unpack(early, bundle.path).written == 2
        assert verify(bundle).counts["ok"] == 1
        assert unpack(late, bundle.path).written == 3
        assert unpack(early, bundle.path).kept == 2
        assert verify(bundle).counts["ok"] == 4
        assert incomplete_shards(bundle) == (1, 2)

    def test_results_that_contradict_are_refused(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit"
    ) -> None:
        away = Bundle.open(shutil.copytree(bundle.path, tmp_path / "away"))
        kit.work(away, 0, "a", {0: kit.answer("4")})
        kit.work(bundle, 0, "a", {0: kit.answer("5")})
        before = content(bundle.path)
        (file,) = pack(away, tmp_path / "r.tar", results_only=True, shards=[0])

        with pytest.raises(BundleInvalidError, match=r"results/00000/a\.jsonl\.zst: conflict"):
            unpack(file, bundle.path)

        after = content(bundle.path)
        assert {k: v for k, v in after.items() if k.endswith(".zst")} == {
            k: v for k, v in before.items() if k.endswith(".zst")
        }

    def test_results_of_another_bundle_are_refused(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit"
    ) -> None:
        other = kit.bundle(tmp_path / "other", items=3)
        kit.work_all(other)
        (file,) = pack(other, tmp_path / "r.tar", results_only=True)

        with pytest.raises(BundleInvalidError, match=f"it is of {other.digest}"):
            unpack(file, bundle.path)
        with pytest.raises(BundleInvalidError, match=r"unpack its bundle to .* first"):
            unpack(file, tmp_path / "nowhere")

        assert not bundle.results_dir.exists()


class TestHostile:
    """Only listed names, regular files, below the target; anything else is refused."""

    @pytest.fixture
    def good(self, tmp_path: Path, bundle: Bundle) -> dict[str, bytes]:
        """The members of a pack that would be taken."""
        return members(pack(bundle, tmp_path / "good.tar")[0])

    def test_members_sealed_again_are_taken(
        self, tmp_path: Path, bundle: Bundle, good: dict[str, bytes]
    ) -> None:
        file = forge(tmp_path / "again.tar", sealed(good))

        assert content(unpack(file, tmp_path / "new").path) == content(bundle.path)

    @pytest.mark.parametrize(
        "name",
        [
            "../escape",
            "/etc/escape",
            "data/../../escape",
            "data/items/../../../escape",
            "results/00000/../../../escape.json",
            "results/00000/.hidden.json",
            "results/00000/a/b.json",
            "data/items/00000.py",
            "data/extra",
            "data/results/00000/a.json",
            "fetch.txt",
            "signatures/../x.sig",
            "DATA/manifest.json",
            "data\\manifest.json",
            "data/manifest.json\n",
            "results/00000/\u0430.json",
            "results/00000/\u2025/x.json",
            "",
        ],
    )
    def test_a_name_that_is_no_file_of_a_bundle(
        self, tmp_path: Path, bundle: Bundle, good: dict[str, bytes], name: str
    ) -> None:
        file = forge(tmp_path / "evil.tar", sealed({**good, name: b"x"}))
        before = sorted(tmp_path.rglob("*"))

        for target in (tmp_path / "new", bundle.path):
            with pytest.raises(BundleInvalidError, match=r"name: .* is no file of a bundle"):
                unpack(file, target)

        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize(
        "kind",
        [
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.BLKTYPE,
            tarfile.FIFOTYPE,
            tarfile.DIRTYPE,
            b"7",
        ],
    )
    @pytest.mark.parametrize("name", ["bagit.txt", "data/components.jsonl.zst"])
    def test_a_member_that_is_no_regular_file(
        self, tmp_path: Path, good: dict[str, bytes], kind: bytes, name: str
    ) -> None:
        entries = sealed(good)
        for info, _ in entries:
            if info.name == name:
                info.type = kind
                info.linkname = "/etc/passwd"
        file = forge(tmp_path / "evil.tar", entries)

        with pytest.raises(BundleInvalidError, match=f"{name}: tar: another member"):
            unpack(file, tmp_path / "new")

        assert not (tmp_path / "new").exists()

    def test_a_member_twice_or_that_is_not_listed(
        self, tmp_path: Path, good: dict[str, bytes]
    ) -> None:
        entries = sealed(good)
        value = parse_canonical(entries[0][1][:-1])
        value["members"].append(value["members"][-1])
        twice = canonical_json(value) + b"\n"

        with pytest.raises(BundleInvalidError, match="listed twice"):
            unpack(forge(tmp_path / "1.tar", [(plain("pack.json"), twice), *entries[1:]]), tmp_path)
        with pytest.raises(BundleInvalidError, match="or something follows it"):
            unpack(forge(tmp_path / "2.tar", [*entries, entries[-1]]), tmp_path / "n")

    def test_names_that_differ_only_by_case(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit", good: dict[str, bytes]
    ) -> None:
        both = {**good, "results/00000/a.json": b"x", "results/00000/A.json": b"y"}
        away = Bundle.open(shutil.copytree(bundle.path, tmp_path / "away"))
        kit.work(away, 0, "Slow")
        kit.work(bundle, 0, "slow", {0: kit.answer()})
        (back,) = pack(away, tmp_path / "back.tar", results_only=True)
        before = content(bundle.path)

        with pytest.raises(BundleInvalidError, match=r"A\.json' differs from .* only by case"):
            unpack(forge(tmp_path / "evil.tar", sealed(both)), tmp_path / "new")
        with pytest.raises(BundleInvalidError, match=r"Slow.* differs from .*slow.* only by case"):
            unpack(back, bundle.path)
        kit.work(away, 0, "SLOW")
        with pytest.raises(BundleInvalidError, match="only by case"):
            pack(away, tmp_path / "more.tar", results_only=True)

        assert content(bundle.path) == before

    def test_a_list_that_claims_too_much(self, tmp_path: Path, good: dict[str, bytes]) -> None:
        entries = sealed(good)
        value = parse_canonical(entries[0][1][:-1])
        place = [member["path"] for member in value["members"]].index("data/components.jsonl.zst")
        value["members"][place]["bytes"] = 10**9
        entries[0] = (entries[0][0], canonical_json(value) + b"\n")

        with pytest.raises(BundleInvalidError, match=r"size: \d+ bytes, not 1000000000"):
            unpack(forge(tmp_path / "1.tar", entries), tmp_path / "new")
        value["members"][0]["bytes"] = 10**9
        entries[0] = (entries[0][0], canonical_json(value) + b"\n")
        with pytest.raises(BundleInvalidError, match=r"1000000000 bytes, more than 268435456"):
            unpack(forge(tmp_path / "2.tar", entries), tmp_path / "new")

    def test_more_signatures_than_anybody_needs(
        self, tmp_path: Path, good: dict[str, bytes]
    ) -> None:
        head = {name: good.pop(name) for name in ("pack.json", *bag.TAG_FILES, bag.TAG_MANIFEST)}
        many = {f"signatures/{number}.sig": b"x" for number in range(65)}

        with pytest.raises(BundleInvalidError, match="more than 64 signatures"):
            unpack(forge(tmp_path / "x.tar", sealed({**head, **many, **good})), tmp_path / "new")

    def test_tag_files_that_come_late(self, tmp_path: Path, good: dict[str, bytes]) -> None:
        late = {name: data for name, data in good.items() if name != "bagit.txt"}

        with pytest.raises(BundleInvalidError, match=r"must begin with bag-info\.txt"):
            unpack(
                forge(tmp_path / "x.tar", sealed({**late, "bagit.txt": good["bagit.txt"]})),
                tmp_path / "new",
            )

    @pytest.mark.parametrize("name", ["bagit.txt", "bag-info.txt"])
    def test_tag_files_that_say_something_else(
        self, tmp_path: Path, good: dict[str, bytes], name: str
    ) -> None:
        changed = {**good, name: good[name].replace(b"1", b"2")}

        with pytest.raises(BundleInvalidError, match=f"{name}: bag: it does not"):
            unpack(forge(tmp_path / "x.tar", sealed(changed)), tmp_path / "new")

        assert not (tmp_path / "new").exists()

    def test_a_payload_that_the_manifest_does_not_know(
        self, tmp_path: Path, good: dict[str, bytes]
    ) -> None:
        """All lists are sealed again after a change; the manifest of the bundle is not fooled."""
        good["data/items/00000.ids"] = bytes(128)
        file = forge(tmp_path / "evil.tar", sealed(good))

        with pytest.raises(
            BundleInvalidError, match=r"data/items/00000\.ids: bag: .* differ on it"
        ):
            unpack(file, tmp_path / "new")

        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "bundle",
            "evil.tar",
            "good.tar",
        ]

    @pytest.mark.parametrize("what", ["folder", "file"])
    def test_a_link_that_waits_at_the_target_is_not_followed(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit", what: str
    ) -> None:
        away = Bundle.open(shutil.copytree(bundle.path, tmp_path / "away"))
        kit.work_all(away)
        (file,) = pack(away, tmp_path / "r.tar", results_only=True)
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "victim").write_text("precious")
        if what == "folder":
            bundle.results_dir.symlink_to(outside)
        else:
            (bundle.results_dir / "00000").mkdir(parents=True)
            (bundle.results_dir / "00000/done.json").symlink_to(outside / "victim")

        with pytest.raises((BundleInvalidError, BundleWriteError), match="link"):
            unpack(file, bundle.path)

        assert {path.name: path.read_text() for path in outside.iterdir()} == {"victim": "precious"}

    def test_random_damage_is_refused_or_harmless(
        self, tmp_path: Path, bundle: Bundle, kit: "Kit"
    ) -> None:
        kit.work_all(bundle)
        (file,) = pack(bundle, tmp_path / "good.tar")
        good, source = file.read_bytes(), random.Random(5)
        expected = content(bundle.path)
        damaged = tmp_path / "damaged.tar"

        for _ in range(150):
            data = bytearray(good)
            if source.random() < 0.5:
                del data[source.randrange(len(data)) :]
            else:
                data[source.randrange(len(data))] ^= 1 << source.randrange(8)
            damaged.write_bytes(data)
            target = tmp_path / "new"
            with pytest.raises(BundleInvalidError):
                unpack(damaged, target)

            assert not target.exists()
            for path in tmp_path.glob(".new.*"):
                assert all(expected[name] == found for name, found in content(path).items())
                shutil.rmtree(path)


def test_what_a_failed_unpacking_left_is_taken_up(
    tmp_path: Path, bundle: Bundle, kit: "Kit"
) -> None:
    kit.work_all(bundle)
    (file,) = pack(bundle, tmp_path / "b.tar")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleInvalidError, match="truncated"):
        unpack(file, tmp_path / "new")
    (left,) = tmp_path.glob(".new.*")
    (left / "data/items/.x.0123.tmp").write_text("of a killed process")
    there = len(content(left)) - 1
    file.write_bytes(data)

    done = unpack(file, tmp_path / "new")

    assert done.kept == there > 3
    assert content(tmp_path / "new") == content(bundle.path)
    assert not list(tmp_path.glob(".new.*"))


def test_nothing_is_overwritten(tmp_path: Path, bundle: Bundle) -> None:
    (file,) = pack(bundle, tmp_path / "b.tar")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious").write_text("x")

    with pytest.raises(BundleExistsError):
        pack(bundle, file)
    with pytest.raises(BundleExistsError):
        unpack(file, tmp_path / "mine")
    with pytest.raises(ValueError, match="at least 512"):
        pack(bundle, tmp_path / "c.tar", max_bytes=100)

    assert content(tmp_path / "mine") == {"precious": b"x"}
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_is_gone_or_replaced_is_named(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.read
    path = bundle.path / "data/items/00000.ids"

    def read(fd: int, count: int) -> bytes:
        data = real(fd, count)
        if len(data) == 128 and path.exists():
            path.write_bytes(bytes(128))
        return data

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(BundleInvalidError, match=r"00000\.ids: changed"):
        pack(bundle, tmp_path / "b.tar")
    path.unlink()
    with pytest.raises(BundleInvalidError, match=r"00000\.ids: unreadable"):
        pack(bundle, tmp_path / "b.tar")

    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
