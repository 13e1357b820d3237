"""Identifiers: format, order, uniqueness across threads."""

from __future__ import annotations

import threading
import time
import uuid

import pytest

from monitoring.intake.ids import _Clock, _format, uuid7, uuid7s


def test_is_a_version_7_uuid_of_now() -> None:
    """The text parses as version 7, RFC variant, and carries the current milliseconds."""
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(uuid7())
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before - 1 <= made.int >> 80 <= after + 1


def test_text_order_is_creation_order() -> None:
    """Thousands made within a few milliseconds sort as they were made."""
    made = [uuid7() for _ in range(5000)]
    assert sorted(set(made)) == made


@pytest.mark.parametrize("count", [0, 1, 3, 16, 5000])
def test_many_at_once_are_like_one_after_the_other(count: int) -> None:
    """A batch is as long as was asked for, of version 7, sorted, and fits between what was made before and after."""
    made = [uuid7(), *uuid7s(count), uuid7(), *uuid7s(count), uuid7()]
    assert len(made) == 2 * count + 3
    assert sorted(set(made)) == made
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in made} == {(7, uuid.RFC_4122)}
    assert {str(uuid.UUID(text)) for text in made} == set(made)


def test_a_batch_that_does_not_fit_moves_to_the_next_millisecond() -> None:
    """Its values have one time part, whose next value comes after the last of them."""
    clock = _Clock()
    clock.next(100, 0)
    clock._tail = (1 << 74) - 5
    assert clock.next(100, 0, room=4) == (101, 0)
    assert clock.next(100, 0) == (101, 5)


def test_clock_going_back_does_not_break_the_order() -> None:
    """With a clock that stands, jumps back or runs out of room, the next value is still greater."""
    clock = _Clock()
    full = (1 << 74) - 1
    values = [clock.next(millis, full) for millis in (100, 100, 90, 1, 101)]
    values += [clock.next(50, full) for _ in range(3)]
    texts = [_format(*value) for value in values]
    assert sorted(set(texts)) == texts


def test_overflow_of_a_millisecond_moves_to_the_next() -> None:
    """When the 74 bits behind the clock are used up, the time part grows by one."""
    clock = _Clock()
    clock.next(100, 0)
    clock._tail = (1 << 74) - 1
    assert clock.next(100, 0) == (101, 0)


def test_threads_never_share_an_identifier() -> None:
    """Four threads, no duplicate."""
    made: list[str] = []

    def work() -> None:
        made.extend([uuid7() for _ in range(2000)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8000
