"""The file operations keep their promises, also on file systems that behave oddly."""

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from themis_bundles import BundleExistsError, files
from themis_bundles.files import UnsafeFileError


def fails(error: int) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return call


class TestPublishOnce:
    """A name appears once, with its whole content, and the loser of a race keeps quiet."""

    def test_the_first_wins(self, tmp_path: Path) -> None:
        path = tmp_path / "done.json"

        assert files.publish_once(path, b"one")
        assert not files.publish_once(path, b"two")
        assert path.read_bytes() == b"one"
        assert list(tmp_path.iterdir()) == [path]

    def test_one_of_many_threads_wins_and_no_reader_sees_a_part(self, tmp_path: Path) -> None:
        path = tmp_path / "done.json"
        start = threading.Barrier(9)
        wins: list[int] = []
        seen: set[int] = set()

        def write(number: int) -> None:
            start.wait()
            if files.publish_once(path, b"%d" % number * 50_000):
                wins.append(number)

        def read() -> None:
            start.wait()
            while len(seen) < 1:
                if path.exists():
                    seen.add(len(path.read_bytes()))

        threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        threads.append(threading.Thread(target=read))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(wins) == 1
        assert path.read_bytes() == b"%d" % wins[0] * 50_000
        assert seen == {50_000}

    @pytest.mark.parametrize("error", [errno.EPERM, errno.ENOTSUP])
    def test_it_works_where_links_are_not_supported(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
    ) -> None:
        monkeypatch.setattr(os, "link", fails(error))
        path = tmp_path / "done.json"

        assert files.publish_once(path, b"one")
        assert not files.publish_once(path, b"two")
        assert path.read_bytes() == b"one"
        assert list(tmp_path.iterdir()) == [path]

    def test_an_answer_that_was_lost_on_the_way_is_no_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """NFS can repeat a request that succeeded; the repetition then fails."""
        real = os.link

        def link(source: Path, target: Path) -> None:
            real(source, target)
            raise OSError(errno.EIO, "lost")

        monkeypatch.setattr(os, "link", link)

        assert files.publish_once(tmp_path / "done.json", b"one")
        assert (tmp_path / "done.json").read_bytes() == b"one"

    def test_a_real_failure_is_raised_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "link", fails(errno.EIO))

        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            files.publish_once(tmp_path / "done.json", b"one")
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_synced_is_fine_where_that_is_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fails(errno.EINVAL))
    files.sync_folder(tmp_path)

    monkeypatch.setattr(os, "fsync", fails(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.sync_folder(tmp_path)


def test_a_replacement_that_fails_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "status.json"
    files.replace(path, b"old")
    monkeypatch.setattr(os, "replace", fails(errno.ENOSPC))

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        files.replace(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_created_once(tmp_path: Path) -> None:
    files.write_new(tmp_path / "a", b"one")

    with pytest.raises(BundleExistsError):
        files.write_new(tmp_path / "a", b"two")

    assert (tmp_path / "a").read_bytes() == b"one"


class TestReading:
    """Nothing outside the folder and nothing but regular files is read."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "root/in").mkdir(parents=True)
        (tmp_path / "root/in/file").write_bytes(b"inside")
        (tmp_path / "secret").write_bytes(b"secret")
        return tmp_path / "root"

    def test_a_file_below_is_read(self, root: Path) -> None:
        assert files.read_inside(root, "in/file", 6) == b"inside"

    def test_a_link_to_the_root_itself_is_the_callers_choice(self, root: Path) -> None:
        (root.parent / "link").symlink_to(root)

        assert files.read_inside(root.parent / "link", "in/file", 6) == b"inside"

    @pytest.mark.parametrize(
        "path", ["../secret", "in/../../secret", "/etc/hostname", "", ".", "in//file", "in/./file"]
    )
    def test_a_path_that_leaves_or_wanders_is_refused(self, root: Path, path: str) -> None:
        with pytest.raises(UnsafeFileError):
            files.read_inside(root, path, 100)

    @pytest.mark.parametrize("kind", ["file link", "folder link", "pipe", "socket", "folder"])
    def test_anything_but_a_regular_file_is_refused_at_once(self, root: Path, kind: str) -> None:
        path = root / "odd"
        if kind == "file link":
            path.symlink_to(root.parent / "secret")
        elif kind == "folder link":
            (root / "in/file").rename(root / "in/x")
            path.symlink_to(root / "in")
            path = path / "x"
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(os.path.relpath(path))
        else:
            path.mkdir()

        with pytest.raises(OSError, match=r"link|not a regular file|No such device"):
            files.read_inside(root, str(path.relative_to(root)), 100)

    def test_a_device_is_refused(self) -> None:
        with pytest.raises(UnsafeFileError, match="not a regular file"):
            files.read_inside(Path("/dev"), "null", 100)

    def test_a_file_above_the_limit_is_not_read(self, root: Path) -> None:
        with pytest.raises(UnsafeFileError, match="larger than 5 bytes"):
            files.read_inside(root, "in/file", 5)

    def test_no_descriptor_is_left_open(self, root: Path) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for path in ("in/file", "in/none", "in/file/x", "../secret", "in"):
            try:
                files.read_inside(root, path, 100)
            except OSError:
                continue

        assert len(list(Path("/proc/self/fd").iterdir())) == before
