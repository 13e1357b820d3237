"""Long work that is interrupted."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest
import typer

from perene.progress import INTERRUPTED, bar, interruptible


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_that_was_swallowed_ends_the_work_at_its_next_step(number: signal.Signals) -> None:
    """An exception that a signal raises inside a library's callback does not come out of it."""
    done: list[int] = []

    def work() -> None:
        with interruptible("kept"), bar() as report:
            for step in range(3):
                if step == 1:
                    with contextlib.suppress(KeyboardInterrupt):
                        signal.raise_signal(number)
                report(step, 3, step)
                done.append(step)

    with pytest.raises(typer.Exit) as ended:
        work()
    assert (ended.value.exit_code, done) == (INTERRUPTED, [0])


def test_the_next_work_is_not_ended_by_it() -> None:
    """Each work begins anew."""
    with pytest.raises(typer.Exit), interruptible("kept"):
        signal.raise_signal(signal.SIGTERM)
    with interruptible("kept"), bar() as report:
        report(1, 1, 1)
