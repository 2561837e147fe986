"""The loop answers every request once, whatever the engine does to some of them."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from themis.generation.driver import DriveOutcome, drive
from themis.generation.stopping import Stopping
from themis.providers import Completion, Message, Request, Sampling


def requests(*texts: str, follow_ups: tuple[Message, ...] = ()) -> Iterator[Request]:
    for number, text in enumerate(texts):
        yield Request(number, (Message("user", text),), Sampling(8), number, follow_ups)


def never() -> Stopping:
    return Stopping(deadline=None, drain_seconds=0)


def run(
    engine: Any, source: Iterator[Request], stopping: Stopping | None = None, **options: Any
) -> tuple[DriveOutcome, dict[int, Completion]]:
    got: list[Completion] = []
    outcome = drive(
        engine,
        source,
        got.append,
        stopping=stopping or never(),
        on_turn=lambda: None,
        **options,
    )
    assert len({completion.id for completion in got}) == len(got) == outcome.delivered
    return outcome, {completion.id: completion for completion in got}


def test_every_request_is_answered_once_in_any_order(scripted: Callable[..., Any]) -> None:
    outcome, got = run(scripted(), requests(*(f"q{n}" for n in range(50))))

    assert [got[n].text for n in range(50)] == [f"q{n}!" for n in range(50)]
    assert outcome == DriveOutcome(50, stopped=False)


def test_a_rejected_request_fails_alone(scripted: Callable[..., Any]) -> None:
    _, got = run(scripted(), requests("a", "reject", "b"))

    assert got[1].error is not None
    assert got[1].error.kind == "model"
    assert (got[0].text, got[2].text) == ("a!", "b!")


def test_no_requests_are_no_work(scripted: Callable[..., Any]) -> None:
    outcome, got = run(scripted(), requests())

    assert outcome == DriveOutcome(0, stopped=False)
    assert got == {}


def test_requests_that_are_all_rejected_end_the_drive(scripted: Callable[..., Any]) -> None:
    outcome, got = run(scripted(window=2), requests(*["reject"] * 9))

    assert outcome.delivered == len(got) == 9


def test_a_retryable_failure_is_tried_once_more(scripted: Callable[..., Any]) -> None:
    engine = scripted()

    _, got = run(engine, requests("flaky", "broken"))

    assert got[0].text == "flaky!"
    assert got[1].error is not None
    assert sorted(engine.submitted) == [0, 0, 1, 1]


@pytest.mark.parametrize("window", [1, 3, 7])
def test_no_more_than_the_window_is_in_flight(scripted: Callable[..., Any], window: int) -> None:
    engine = scripted(window=window)

    run(engine, requests(*["x"] * 20))

    assert engine.widest == window


def test_requests_are_read_only_as_the_window_has_room(scripted: Callable[..., Any]) -> None:
    read: list[int] = []
    most_ahead = 0
    got: list[Completion] = []

    def source() -> Iterator[Request]:
        for request in requests(*["x"] * 30):
            read.append(request.id)
            yield request

    def deliver(completion: Completion) -> None:
        nonlocal most_ahead
        got.append(completion)
        most_ahead = max(most_ahead, len(read) - len(got) + 1)

    drive(scripted(window=4), source(), deliver, stopping=never(), on_turn=lambda: None)

    assert most_ahead == 4


def test_a_follow_up_is_sent_with_the_answer_before_it(scripted: Callable[..., Any]) -> None:
    follow_ups = (Message("user", "and then"), Message("user", "at last"))

    _, got = run(scripted(), requests("first", follow_ups=follow_ups))

    assert got[0].text == "at last!"
    assert [turn.text for turn in got[0].earlier] == ["first!", "and then!"]


def test_a_rejected_follow_up_fails_its_conversation(scripted: Callable[..., Any]) -> None:
    _, got = run(scripted(), requests("first", follow_ups=(Message("user", "reject"),)))

    assert got[0].error is not None
    assert [turn.text for turn in got[0].earlier] == ["first!"]


def test_a_death_is_an_outcome_that_names_what_was_in_flight(scripted: Callable[..., Any]) -> None:
    source = requests("a", "b", "c", "poison", "d", "e", "f")

    outcome, got = run(scripted(window=3), source)

    assert outcome.death is not None
    lost = {request.id for request in outcome.in_flight}
    assert 3 in lost
    assert lost.isdisjoint(got)
    assert lost | got.keys() | {request.id for request in source} == set(range(7))


def test_stopping_ends_admission_and_drains_what_fits(scripted: Callable[..., Any]) -> None:
    stopping = Stopping(deadline=time.time() + 0.2, drain_seconds=10)
    engine = scripted(window=4)

    outcome, got = run(engine, requests(*["slow"] * 100), stopping)

    assert outcome.stopped
    assert stopping.cause == "deadline"
    assert outcome.in_flight == ()
    assert sorted(got) == sorted(engine.submitted)
    assert 4 <= len(got) < 30


def test_what_does_not_fit_before_the_release_is_cancelled(scripted: Callable[..., Any]) -> None:
    stopping = Stopping(deadline=time.time() + 0.2, drain_seconds=0)
    engine = scripted(window=8)

    outcome, got = run(engine, requests(*["slow"] * 100), stopping)

    assert outcome.stopped
    assert outcome.in_flight
    assert {request.id for request in outcome.in_flight} == set(engine.submitted) - set(got)
    assert engine.inflight == 0
