"""A copy is refused for just what its bundle is refused for, and never reaches beyond it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from themis_bundles import Bundle, BundleInvalidError, BundleWriteError, verify
from themis_bundles.copying import copy_bundle, size_of
from themis_bundles.signed_results import FOLDER as SIGNED

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

GOLDEN = Path(__file__).parents[2] / "bundles/golden"
BUNDLES = sorted(path for path in GOLDEN.glob("*valid/*") if path.is_dir())


def copied(bundle: Path, folder: Path, results: Path | None = None) -> Path:
    folder.mkdir()
    copy_bundle(bundle, folder, results=results)
    return folder


def verdict(path: Path) -> tuple[str, ...]:
    try:
        return tuple(map(str, verify(Bundle.open(path)).problems))
    except BundleInvalidError as error:
        return error.problems


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_copy_has_the_problems_of_its_bundle(path: Path, tmp_path: Path) -> None:
    copy = copied(path, tmp_path / "copy")

    # A folder that is a link is named; what lies behind it is not looked at.
    behind = any(": link: " in problem for problem in verdict(path))
    assert verdict(copy) == verdict(path) or (behind and verdict(copy))
    assert set(verdict(copy)) <= set(verdict(path))


def test_nothing_outside_a_bundle_is_copied(bundle: Bundle, kit: "Kit", tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not for everybody")
    kit.work_all(bundle)
    (bundle.path / "results/00000/link.jsonl.zst").symlink_to(secret)
    (bundle.path / "data/items/link").symlink_to(secret)
    (bundle.path / "link.txt").symlink_to(secret)
    (bundle.path / "results/00009").symlink_to(tmp_path)
    os.mkfifo(bundle.path / "results/00001/pipe.jsonl.zst")

    copy = copied(bundle.path, tmp_path / "copy")

    content = [path.read_bytes() for path in copy.rglob("*") if path.is_file()]
    assert not any(b"not for everybody" in data for data in content)
    assert verdict(copy) == verdict(bundle.path)
    assert verify(Bundle.open(copy)).refused


def test_the_copy_of_a_copy_is_the_same_bytes(bundle: Bundle, kit: "Kit", tmp_path: Path) -> None:
    kit.work_all(bundle)
    signed = bundle.path / "results" / SIGNED / ("0" * 16)
    for folder in (signed / "signatures", bundle.path / "signatures"):
        folder.mkdir(parents=True)
        (folder / "one.sig").write_text("a signature")

    copy = copied(bundle.path, tmp_path / "copy")

    assert contents(copy) == contents(bundle.path)
    assert size_of(bundle.path) == sum(map(len, contents(copy).values()))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_results_that_lie_elsewhere_lie_inside_the_copy(
    bundle: Bundle, kit: "Kit", tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    kit.work_all(Bundle.open(bundle.path, results=elsewhere))

    copy = copied(bundle.path, tmp_path / "copy", results=elsewhere)

    assert verify(Bundle.open(copy)).complete


def test_what_no_reader_opens_keeps_its_name_and_loses_its_content(
    bundle: Bundle, tmp_path: Path
) -> None:
    (bundle.path / "dispatch").mkdir()
    (bundle.path / "dispatch/job.log").write_bytes(b"x" * 1000)
    (bundle.path / "huge.bin").write_bytes(b"x" * 1000)

    copy = copied(bundle.path, tmp_path / "copy")

    assert (copy / "huge.bin").read_bytes() == b""
    assert list((copy / "dispatch").iterdir()) == []
    assert verdict(copy) == verdict(bundle.path)


def test_a_full_disk_is_named(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_full(path: Path, mode: str, buffering: int) -> Any:
        # Writing to this device fails as writing to a full disk does.
        return (
            real(Path("/dev/full"), "wb", buffering) if path.suffix == ".zst" else real(path, mode)
        )

    real = Path.open
    monkeypatch.setattr(Path, "open", open_full)

    with pytest.raises(BundleWriteError, match=r"copy/data/.*No space left on device"):
        copied(bundle.path, tmp_path / "copy")
