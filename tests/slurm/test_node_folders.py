"""Folders of one task on its node."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from themis.errors import EnvironmentNotReadyError
from themis_slurm.node_folders import LONGEST_FOR_SOCKETS, node_folders


def test_caches_are_private_and_taken_away(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path), "TRITON_CACHE_DIR": "/mine"}

    with node_folders(environment, None, None):
        assert Path(environment["VLLM_CACHE_ROOT"]).is_dir()
        assert Path(environment["TMPDIR"]).is_dir()
        assert environment["TRITON_CACHE_DIR"] == "/mine"

    assert list(tmp_path.iterdir()) == []


def test_sockets_get_a_short_path_where_scratch_is_long(tmp_path: Path) -> None:
    base = tmp_path / ("long" * 20)
    environment = {"JOB": base.name}

    with node_folders(environment, f"{tmp_path}/${{JOB}}", None):
        assert environment["VLLM_CACHE_ROOT"].startswith(str(base))
        for variable in ("VLLM_RPC_BASE_PATH", "TMPDIR"):
            assert len(environment[variable]) < LONGEST_FOR_SOCKETS


def test_a_longer_variable_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    environment = {"S": "/nowhere", "SCRATCH": str(tmp_path / "scratch")}

    with node_folders(environment, "$SCRATCH/me", None):
        assert environment["VLLM_CACHE_ROOT"].startswith(f"{tmp_path}/scratch/me/")


def test_an_unknown_variable_and_a_folder_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentNotReadyError, match=r"\$NOPE/x: this node does not know"),
        node_folders({}, "$NOPE/x", None),
    ):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EnvironmentNotReadyError, match="see `scratch` of the profile"),
        node_folders({}, str(tmp_path / "file" / "x"), None),
    ):
        pass
    with (
        pytest.raises(EnvironmentNotReadyError, match="see `caches` of the profile"),
        node_folders({}, None, str(tmp_path / "file" / "x")),
    ):
        pass


def test_kept_caches_are_found_again_and_never_shared_at_the_same_time(tmp_path: Path) -> None:
    row = tmp_path / socket.gethostname()
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    third: dict[str, str] = {}

    with ExitStack() as stack:
        stack.enter_context(node_folders(first, None, str(tmp_path)))
        stack.enter_context(node_folders(second, None, str(tmp_path)))
    with node_folders(third, None, str(tmp_path)):
        pass

    roots = [Path(environment["VLLM_CACHE_ROOT"]).parent for environment in (first, second, third)]
    assert roots == [row / "0", row / "1", row / "0"]
    assert (row / "0" / "triton").is_dir()


def test_an_error_of_the_task_is_not_taken_for_one_of_the_folders(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="the task's own"),
        node_folders({}, None, str(tmp_path)),
    ):
        raise FileNotFoundError("the task's own")
