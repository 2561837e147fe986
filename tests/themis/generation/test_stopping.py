"""Signals and deadlines end admission first."""

import os
import signal
import threading
import time

import pytest

from themis.generation.stopping import Stopping


def test_without_signal_and_deadline_work_goes_on() -> None:
    stopping = Stopping(deadline=None, drain_seconds=5)

    assert stopping.admits(1e12)
    assert stopping.may_run(1e12, turn_seconds=1e6)
    assert stopping.cause is None


def test_a_term_leaves_at_most_half_of_slurms_kill_wait() -> None:
    stopping = Stopping(deadline=None, drain_seconds=300)
    stopping.note(signal.SIGTERM, 100.0)

    assert not stopping.admits(100.0)
    assert stopping.may_run(110.0, turn_seconds=5.0)
    assert not stopping.may_run(110.0, turn_seconds=6.0)


def test_an_early_warning_leaves_the_drain_time() -> None:
    stopping = Stopping(deadline=None, drain_seconds=300)
    stopping.note(signal.SIGUSR2, 100.0)

    assert stopping.may_run(390.0, turn_seconds=10.0)


def test_a_later_term_shortens_an_early_warning_and_never_the_reverse() -> None:
    stopping = Stopping(deadline=None, drain_seconds=300)
    stopping.note(signal.SIGUSR2, 100.0)
    stopping.note(signal.SIGTERM, 200.0)
    stopping.note(signal.SIGUSR2, 210.0)

    assert stopping.may_run(214.0, turn_seconds=1.0)
    assert not stopping.may_run(216.0, turn_seconds=0.0)


def test_ctrl_c_finishes_nothing_more_and_a_second_one_interrupts() -> None:
    stopping = Stopping(deadline=None, drain_seconds=300)
    stopping.note(signal.SIGINT, 100.0)

    assert not stopping.may_run(100.1, turn_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        stopping.note(signal.SIGINT, 101.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_real_signal_is_noted_and_the_former_handler_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stopping = Stopping(deadline=None, drain_seconds=5)

    with stopping.listening():
        os.kill(os.getpid(), number)
        time.sleep(0.01)

        assert not stopping.admits(time.time())

    assert stopping.cause == number.name
    assert signal.getsignal(number) is before


def test_in_another_thread_handlers_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside: list[object] = []

    def listen() -> None:
        with Stopping(deadline=None, drain_seconds=5).listening():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()

    assert inside == [before]
