"""What a killed export left is removed by the next one; what a living one writes never is."""

import fcntl
import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from themis_bundles import BundleExistsError, partials
from themis_bundles.partials import Partial, remove_abandoned

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

STRANGE = f"{'0' * 16}-{'a' * 16}"
"""What is in the name of a folder from another machine."""

HOLD = """
import sys
from pathlib import Path
from themis_bundles.partials import Partial
partial = Partial(Path(sys.argv[1]))
(partial.folder / "data").mkdir(parents=True)
print(partial.folder, flush=True)
sys.stdin.read()
"""


def start(target: Path, script: str = HOLD) -> tuple[subprocess.Popen[str], Path]:
    """A process that writes to a target, and the folder that it has made."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def finish(process: subprocess.Popen[str], number: signal.Signals) -> None:
    process.send_signal(number)
    process.communicate()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


def test_what_a_killed_export_left_is_removed_by_the_next_one(tmp_path: Path, target: Path) -> None:
    process, folder = start(target)
    finish(process, signal.SIGKILL)
    assert names(tmp_path) == [folder.name, f"{folder.name}.lock"]

    partial = Partial(target)

    assert names(tmp_path) == [f"{partial.folder.name}.lock"]
    partial.release()
    partial.release()
    assert names(tmp_path) == []


def test_the_folder_of_a_living_export_is_left_and_named(
    tmp_path: Path, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process, folder = start(target)
    try:
        with caplog.at_level(logging.WARNING):
            assert remove_abandoned(target) == (folder,)
            Partial(target).release()
        assert (folder / "data").is_dir()
    finally:
        finish(process, signal.SIGKILL)

    assert f"{folder} is of an export that may still be running" in caplog.text
    assert remove_abandoned(target) == ()
    assert names(tmp_path) == []


def test_two_exports_in_one_process_leave_each_other_alone(tmp_path: Path, target: Path) -> None:
    one = Partial(target)
    one.folder.mkdir()

    two = Partial(target)

    assert one.folder.is_dir()
    one.folder.rmdir()
    one.release()
    two.release()
    assert names(tmp_path) == []


def test_a_folder_without_a_lock_file_is_left(tmp_path: Path, target: Path) -> None:
    folder = tmp_path / f".bundle.{STRANGE}.partial"
    folder.mkdir()

    assert remove_abandoned(target) == (folder,)
    assert folder.is_dir()


@pytest.mark.parametrize("kernel", ["0" * 16, "a" * 16])
def test_a_free_lock_of_another_machine_proves_nothing(
    tmp_path: Path, target: Path, kernel: str
) -> None:
    folder = tmp_path / f".bundle.{'1' * 16}-{kernel}.partial"
    folder.mkdir()
    folder.with_name(f"{folder.name}.lock").touch()

    assert remove_abandoned(target) == (folder,)
    assert folder.is_dir()


def test_where_nothing_can_be_locked_everything_is_left(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _operation: int) -> None:
        raise OSError(38, "Function not implemented")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        partial = Partial(target)
        partial.folder.mkdir()
        assert remove_abandoned(target) == (partial.folder,)
    # Nor is it taken for abandoned by an export that can lock.
    assert remove_abandoned(target) == (partial.folder,)

    assert partial.folder.is_dir()


def test_where_the_kernel_has_no_name_everything_is_left(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partials, "_BOOT_ID", tmp_path / "nothing")
    folder = tmp_path / f".bundle.{'1' * 16}-{'0' * 16}.partial"
    folder.mkdir()
    folder.with_name(f"{folder.name}.lock").touch()

    assert remove_abandoned(target) == (folder,)


def test_a_lock_file_that_is_alone_is_removed(tmp_path: Path, target: Path) -> None:
    (tmp_path / f".bundle.{STRANGE}.partial.lock").touch()

    assert remove_abandoned(target) == ()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        f".other.{STRANGE}.partial",
        f".bundle.x.{STRANGE}.partial",
        ".bundle.0123.partial",
        f".bundle.{STRANGE}.partial.bak",
        f"bundle.{STRANGE}.partial",
        f".bundle.{STRANGE.replace('0', 'g')}.partial",
    ],
)
def test_nothing_else_is_touched(tmp_path: Path, target: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / f"{name}.lock").touch()

    assert remove_abandoned(target) == ()
    assert names(tmp_path) == sorted([name, f"{name}.lock"])


def test_links_in_place_of_a_folder_or_its_lock_are_not_followed(
    tmp_path: Path, target: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    process, folder = start(target)
    finish(process, signal.SIGKILL)
    (folder / "data").rmdir()
    folder.rmdir()
    folder.symlink_to(outside)
    other = tmp_path / f".bundle.{STRANGE}.partial"
    other.mkdir()
    other.with_name(f"{other.name}.lock").symlink_to(folder.with_name(f"{folder.name}.lock"))

    assert sorted(remove_abandoned(target)) == sorted((other, folder))
    assert names(outside) == ["precious"]


EXPORT = """
import sys
from pathlib import Path
from themis_bundles import BundleInfo, BundleWriter, GroupSpec
info = BundleInfo("generation", "run", {"project": "p", "benchmark": "b"}, "2026-01-02")
with BundleWriter(Path(sys.argv[1]), info) as writer:
    print(next(Path(sys.argv[1]).parent.glob("*.partial")), flush=True)
    sys.stdin.read()
"""


def test_an_export_removes_what_a_killed_one_left(tmp_path: Path, target: Path, kit: "Kit") -> None:
    process, folder = start(target, EXPORT)
    finish(process, signal.SIGKILL)
    assert folder.is_dir()

    kit.bundle(target)

    assert names(tmp_path) == ["bundle"]


def test_an_export_touches_nothing_of_a_living_one(
    tmp_path: Path, target: Path, kit: "Kit"
) -> None:
    process, folder = start(target, EXPORT)
    try:
        kit.bundle(target)

        assert (folder / "data/items").is_dir()
        with pytest.raises(BundleExistsError):
            kit.bundle(target)
    finally:
        finish(process, signal.SIGKILL)
    assert remove_abandoned(target) == ()
    assert names(tmp_path) == ["bundle"]
