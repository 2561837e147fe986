"""Shards as processes of this machine: slots, each with GPUs of its own.

Each shard runs in a fresh `python -m themis_slurm.task`, the command that a Slurm element runs
too, so a crash of an engine costs one shard and a run on one machine exercises the same path.
"""

import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from themis.errors import EnvironmentNotReadyError
from themis_slurm.dispatcher import LiveShard
from themis_slurm.evidence import Cause, Verdict, judge_exit
from themis_slurm.import_path import importable
from themis_slurm.launch import local_environment, python_command
from themis_slurm.processes import is_alive, this_process
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import SubmissionRecord
from themis_slurm.workspace import Workspace

log = logging.getLogger(__name__)

# An engine needs seconds to shut down, and a flush to a slow disk a few more.
PATIENCE_S = 60.0


@dataclass
class _Slot:
    """One place to run a shard."""

    number: int
    devices: tuple[str, ...] | None
    """GPU ids for CUDA_VISIBLE_DEVICES; None leaves the variable alone."""

    shard: int | None = None
    process: subprocess.Popen[bytes] | None = None


@dataclass
class _State:
    """What the slots' threads share; every access holds `change`."""

    waiting: deque[tuple[SubmissionRecord, int]] = field(default_factory=deque)
    cancelled: set[int] = field(default_factory=set)
    exit_codes: dict[int, int] = field(default_factory=dict)
    closed: bool = False


class LocalPool:
    """Runs shards on this machine for as long as this object is open.

    Submitting returns at once. `cancel`, and leaving the `with` block, end the tasks in an
    orderly way: they flush what is finished, and the next run continues there.

    Raises:
        EnvironmentNotReadyError: The slots want more GPUs than CUDA_VISIBLE_DEVICES names.
    """

    def __init__(self, workspace: Workspace, profile: ClusterProfile) -> None:
        self._workspace = workspace
        self._profile = profile
        self._slots = [
            _Slot(number, devices)
            for number, devices in enumerate(assign_gpus(profile.slots, profile.gpus_per_slot))
        ]
        self._state = _State()
        self._change = threading.Condition()
        self._threads: list[threading.Thread] = []

    def elements_per_submission(self) -> int:
        """Give a number that splits nothing: a queue in memory has no bound."""
        return sys.maxsize

    def script(self, record: SubmissionRecord) -> str:
        """Give one command for each shard."""
        return "\n".join(" ".join(self._command(record, shard)) for shard in record.shards) + "\n"

    def submit(self, record: SubmissionRecord) -> SubmissionRecord:
        """Queue the shards; the first ones start at once."""
        with self._change:
            self._state.waiting.extend((record, shard) for shard in record.shards)
            self._state.cancelled.difference_update(record.shards)
            self._change.notify_all()
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._serve, args=(slot,), daemon=True)
                for slot in self._slots
            ]
            for thread in self._threads:
                thread.start()
        return record.model_copy(update={"state": "submitted"})

    def release(self, record: SubmissionRecord) -> None:
        """Do nothing: a pool holds no submission back."""

    def find(self, record: SubmissionRecord) -> str | None:  # noqa: ARG002 - asked of both kinds
        """Give nothing: a pool that died before it queued a record has lost it."""
        return None

    def alive(self, records: Sequence[SubmissionRecord]) -> Mapping[int, LiveShard]:
        """Give this pool's shards, and those of other pools whose process still runs."""
        alive: dict[int, LiveShard] = {}
        own = this_process()
        for record in records:
            if (
                record.state == "submitted"
                and record.submitter != own
                and is_alive(record.submitter)
            ):
                other = LiveShard(running=False, job="", reason=f"pool {record.submitter.pid}")
                alive |= dict.fromkeys(record.shards, other)
        with self._change:
            alive |= {
                shard: LiveShard(running=False, job="", reason="waits for a slot")
                for _, shard in self._state.waiting
            }
            alive |= {
                slot.shard: LiveShard(
                    running=True, job=str(slot.process.pid if slot.process else ""), node="here"
                )
                for slot in self._slots
                if slot.shard is not None
            }
        return alive

    def cancel(self, records: Sequence[SubmissionRecord], shards: Sequence[int]) -> None:
        """Stop shards of this pool, and wait until they have flushed.

        A pool of another process of this machine is asked to stop as a whole.
        """
        wanted = set(shards)
        own = this_process()
        for record in records:
            other = record.submitter
            if other != own and other.is_local and is_alive(other) and wanted & set(record.shards):
                os.kill(other.pid, signal.SIGINT)
        with self._change:
            self._state.waiting = deque(
                entry for entry in self._state.waiting if entry[1] not in wanted
            )
            self._state.cancelled |= wanted
            processes = [slot.process for slot in self._slots if slot.shard in wanted]
        _stop([process for process in processes if process is not None])

    def evidence(
        self, records: Sequence[SubmissionRecord], shards: Sequence[int]
    ) -> Mapping[int, Verdict]:
        """Tell from exit codes, where this pool ran the shard; else only that its pool is gone."""
        submitted = {shard for record in records for shard in record.shards}
        with self._change:
            return {shard: self._verdict(shard) for shard in shards if shard in submitted}

    def close(self) -> None:
        """Stop everything, and wait until it has flushed."""
        with self._change:
            self._state.closed = True
            self._state.waiting.clear()
            processes = [slot.process for slot in self._slots if slot.process is not None]
            self._change.notify_all()
        _stop(processes)
        for thread in self._threads:
            thread.join()

    def _verdict(self, shard: int) -> Verdict:
        if shard in self._state.cancelled:
            return Verdict(Cause.CANCELLED, "by this pool")
        code = self._state.exit_codes.get(shard)
        if code is None:
            return Verdict(Cause.LOST, "its pool ended without it")
        return judge_exit(code)

    def _serve(self, slot: _Slot) -> None:
        while True:
            with self._change:
                while not self._state.waiting and not self._state.closed:
                    self._change.wait()
                if self._state.closed:
                    return
                record, slot.shard = self._state.waiting.popleft()
                shard = slot.shard
                slot.process = self._start(record, shard, slot)
            code = slot.process.wait()
            log.info("shard %d ended with %d", shard, code)
            with self._change:
                self._state.exit_codes[shard] = code
                slot.shard = slot.process = None

    def _command(self, record: SubmissionRecord, shard: int) -> list[str]:
        python = shlex.split(python_command(self._workspace, self._profile))
        bundle = str(self._workspace.bundle.path)
        task = ["-m", "themis_slurm.task", bundle, str(shard), "--options", record.options]
        return [*python, *task, "--parent", str(os.getpid())]

    def _start(self, record: SubmissionRecord, shard: int, slot: _Slot) -> subprocess.Popen[bytes]:
        folder = self._workspace.jobs(record.number)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{shard:05d}.log").open("ab") as output:
            return subprocess.Popen(
                self._command(record, shard),
                env=self._environment(slot),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches this process only, which passes it on in order.
                start_new_session=True,
            )

    def _environment(self, slot: _Slot) -> dict[str, str]:
        environment = dict(os.environ)
        if slot.devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(slot.devices)
        if "cpus" in self._profile.model_fields_set:
            environment["OMP_NUM_THREADS"] = str(self._profile.cpus)
        return local_environment(importable(environment), self._profile)


def assign_gpus(slots: int, each: int) -> tuple[tuple[str, ...] | None, ...]:
    """Give each slot GPUs of its own.

    The GPUs are those of CUDA_VISIBLE_DEVICES, or numbered from 0 when it is not set. Slots
    without GPUs leave the variable as it is.

    Raises:
        EnvironmentNotReadyError: The variable names fewer than the slots need.
    """
    if each == 0:
        return (None,) * slots
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = named.split(",") if named else [str(number) for number in range(slots * each)]
    if len(devices) < slots * each:
        raise EnvironmentNotReadyError(
            f"{slots} slots with {each} GPUs each need {slots * each} GPUs; "
            f"CUDA_VISIBLE_DEVICES names {len(devices)}: {named}"
        )
    return tuple(tuple(devices[slot * each : (slot + 1) * each]) for slot in range(slots))


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes to flush and end; insist when they do not."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
