"""What one element of an array runs, and one slot of a local pool: one shard, once.

    python -m themis_slurm.task BUNDLE SHARD --options FILE

The work itself is `themis.generation.worker.work_shard`; this module gives it a deadline, a
private place for caches, a check of what it needs, and turns how it ended into an exit code that
Slurm shows: 0 done, 75 to be continued, 65 bad input, 69 unfit node, 70 a bug.

Nothing heavy is imported at the top: the login node imports this module to submit it.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from themis.errors import EnvironmentNotReadyError, SpecValidationError
from themis_bundles import Bundle, BundleError, BundleWriteError, shard_state
from themis_slurm.evidence import Cause
from themis_slurm.exit_codes import BAD_INPUT, DONE, NOT_READY, PARTIAL, SOFTWARE
from themis_slurm.failures import leave_failure
from themis_slurm.network import switch_hubs_off
from themis_slurm.node_folders import node_folders
from themis_slurm.options import TaskOptions
from themis_slurm.preflight import NodeUnfitError, insist, preflight
from themis_slurm.scheduler import job_end_time

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
# vLLM takes 5 to 10 s to shut down, and a slow disk some more to flush.
SHUTDOWN_S = 30.0


@dataclass(frozen=True)
class _End:
    """How a task ended; a cause only when something went wrong."""

    code: int
    cause: Cause | None = None
    message: str = ""


def run_array_task(bundle: str, shard: int, options: str) -> None:
    """Be the function that submitit calls in a job; does not return.

    The process ends here, without submitit's result file: nobody reads it, its writer can be
    stopped half-way by a kill, and a shard that is to be continued must not look COMPLETED.
    """
    _leave(run_task(bundle, shard, options))


def _leave(code: int) -> NoReturn:
    """End the process without waiting for threads that an engine may have left."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_task(bundle: str, shard: int, options: str) -> int:
    """Run one shard, or what is left of it, and say how it ended as an exit code.

    Args:
        bundle: The bundle's directory.
        shard: The shard's index.
        options: A file that `write_options` wrote.

    Returns:
        One of the codes of `themis_slurm.exit_codes`; it never raises.
    """
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    early = _EarlyStop()
    dispatch: Path | None = None
    try:
        told = TaskOptions.load(Path(options))
        dispatch = Path(told.dispatch)
        with node_folders(os.environ, told.scratch, told.caches):
            _prepare(os.environ)
            end = _work(Path(bundle), shard, told, early)
    except BundleWriteError as error:  # a full or broken disk that all nodes share
        end = _End(NOT_READY, Cause.NOT_READY, str(error))
    except (BundleError, SpecValidationError) as error:
        end = _End(BAD_INPUT, Cause.BAD_INPUT, str(error))
    except (NodeUnfitError, OSError) as error:
        end = _End(NOT_READY, Cause.BAD_NODE, f"{type(error).__name__}: {error}")
    except EnvironmentNotReadyError as error:
        end = _End(NOT_READY, Cause.NOT_READY, str(error))
    except Exception:  # noqa: BLE001 - whatever it is, Slurm and the log must get to know it
        end = _End(SOFTWARE, Cause.CRASHED, traceback.format_exc())
    if end.cause is not None:
        log.error("shard %d: %s: %s", shard, end.cause, end.message)
        if dispatch is not None:
            _leave_words(dispatch / "failures", shard, end.cause, end.message)
    return end.code


def _work(bundle: Path, shard: int, told: TaskOptions, early: "_EarlyStop") -> "_End":
    from themis.evaluation.plugins import load_plugins
    from themis.generation.worker import WorkOptions, work_shard

    deadline = _deadline(told)
    work = WorkOptions(
        results=Path(told.results),
        model_paths=told.model_paths,
        engine_options=told.engine_options,
        deadline=deadline,
        flush_records=told.flush_records,
        flush_seconds=told.flush_seconds,
        # The rest of the margin is for flushing and for the engine's shutdown.
        drain_seconds=max(told.margin_s - SHUTDOWN_S, told.margin_s / 2),
        registry=load_plugins(told.plugins, directories=told.plugin_directories),
    )
    if early.requested or (deadline is not None and time.time() >= deadline):
        return _End(PARTIAL)
    opened = Bundle.open(bundle, results=work.results)
    if not shard_state(opened, shard).done:
        # After the last question to Slurm: it may cut the task off the network.
        insist(preflight(opened, shard, told, os.environ))
    outcome = work_shard(bundle, shard, work)
    log.info("shard %d: %s (%s)", shard, outcome.state, outcome.cause)
    if outcome.state in {"complete", "already"}:
        return _End(DONE)
    if outcome.state == "partial":
        return _End(PARTIAL)
    return _End(SOFTWARE, Cause.ENGINE_CRASH, outcome.cause)


def _leave_words(folder: Path, shard: int, cause: Cause, message: str) -> None:
    try:
        leave_failure(folder, shard, cause, message, os.environ)
    except OSError as error:  # a full disk refuses these too; the log has them
        log.warning("the failure could not be noted: %s", error)


def _deadline(told: TaskOptions) -> float | None:
    """When to stop taking items, in Unix seconds."""
    end = job_end_time(os.environ)
    if end is None and told.walltime_s is not None:
        end = time.time() + told.walltime_s
    return None if end is None else end - told.margin_s


class _EarlyStop:
    """Remember a signal that arrives before the worker's own handlers are in place.

    submitit's handlers would ignore SIGTERM, and would requeue the job on SIGUSR2. A signal
    that comes between the last look at `requested` and the worker's first would be lost, so it
    is sent again until somebody else takes it.
    """

    def __init__(self) -> None:
        self.requested = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCONT, signal.SIG_DFL)
            for number in STOP_SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        again = threading.Timer(0.5, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()


def _prepare(environment: MutableMapping[str, str]) -> None:
    switch_hubs_off(environment)
    cpus = environment.get("SLURM_CPUS_PER_TASK")
    if cpus:
        # Without it PyTorch starts one thread for each core of the node.
        environment.setdefault("OMP_NUM_THREADS", cpus)


def _follow(parent: int) -> None:
    """Stop in an orderly way when the pool that started this task is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        log.warning("the process that started this task is gone")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m themis_slurm.task")
    parser.add_argument("bundle")
    parser.add_argument("shard", type=int)
    parser.add_argument("--options", required=True, help="a file under dispatch/options/")
    parser.add_argument("--parent", type=int, help="stop when this process is no longer the parent")
    given = parser.parse_args(arguments)
    if given.parent is not None:
        _follow(given.parent)
    return run_task(given.bundle, given.shard, given.options)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
