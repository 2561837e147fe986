"""The store opens what it can trust, and says why when it cannot."""

import sqlite3
from pathlib import Path

import pytest

from themis.errors import StorageError
from themis.storage import Store, open_store
from themis.storage.schema import FORMAT
from themis.storage.store import DATABASE, filesystem_type


def test_opening_twice_finds_what_was_written(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store, store.transaction():
        key = store.spec_key("model", {"model_id": "m"})

    with open_store(tmp_path / "s") as again:
        assert again.spec_key("model", {"model_id": "m"}) == key


def test_a_store_of_a_newer_version_is_refused_and_unchanged(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("UPDATE meta SET value = ?", (str(FORMAT + 1),))
    db.close()

    with pytest.raises(StorageError) as caught:
        open_store(tmp_path)

    assert str(caught.value) == (
        f"{tmp_path / DATABASE}: this store has format {FORMAT + 1}, and this Themis knows "
        f"formats up to {FORMAT}. Install a newer Themis to open it; nothing was changed."
    )
    assert caught.value.exit_code == 4


def test_a_missing_store_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no store here"):
        open_store(tmp_path / "mistyped", create=False)

    assert not (tmp_path / "mistyped").exists()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"no database" * 100)

    with pytest.raises(StorageError, match="not a Themis store"):
        open_store(tmp_path)


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()

    with pytest.raises(StorageError, match="not a Themis store"):
        open_store(tmp_path)


def test_a_transaction_happens_at_once_or_not_at_all(store: Store) -> None:
    def fail_halfway() -> None:
        with store.transaction():
            store.spec_key("model", {"model_id": "m"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()

    assert store.db.execute("SELECT count(*) FROM specs").fetchone() == (0,)


def test_a_network_filesystem_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("themis.storage.store.filesystem_type", lambda _path: "nfs4")

    with pytest.raises(StorageError, match="lies on nfs4, where SQLite's write-ahead log"):
        open_store(tmp_path)


def test_the_filesystem_of_a_directory_is_known() -> None:
    assert filesystem_type(Path("/proc")) == "proc"
