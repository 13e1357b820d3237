"""What may come as feedback: a label for a prediction, checked against the model's output, and named outcomes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from registry.contract import Output
from registry.errors import ContractViolation, FieldError
from serving.errors import Malformed, TooLarge
from serving.explain import json_type
from serving.json_text import read_json

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")

MOST_OUTCOMES: Final = 16
"""Outcomes of one item."""
_OUTCOME = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
_YEAR_1900 = datetime(1900, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class LabelItem:
    """One item of a feedback body. Whether the prediction exists is found when the two are joined."""

    model: str
    prediction_id: str
    label: Any = None
    at: Any = None
    outcomes: Any = None


def read_items(data: bytes, model: str | None, *, most: int) -> list[LabelItem]:
    """The items of a body: a list, `{"items": […]}`, or one item; without a model in the path each names its own.

    Raises:
        Malformed: not JSON of that form, or a key occurs twice.
        TooLarge: more than `most` items.
    """
    body = read_json(data, most_rows=most)
    if isinstance(body, dict):
        body = body["items"] if set(body) == {"items"} else [body]
    whose = "" if model else '"model": "…", '
    wanted = f'[{{{whose}"prediction_id": "…", "label": 1.5}}]'
    if not isinstance(body, list) or not body or not all(isinstance(item, dict) for item in body):
        raise Malformed("the body is not a list of labels", expected=wanted)
    if len(body) > most:
        raise TooLarge("too many labels in one request", where="items", expected=f"at most {most}")
    items = []
    for n, item in enumerate(body):
        named = model or item.get("model")
        identifier = item.get("prediction_id")
        if not isinstance(named, str):
            hint = "POST it to /models/{name}/feedback, or name the model in each item"
            raise Malformed(f"item {n} has no model", where=f"items[{n}].model", expected=wanted, hint=hint)
        if not isinstance(identifier, str) or not ("label" in item or "outcomes" in item):
            raise Malformed(f"item {n} has no prediction_id or label", where=f"items[{n}]", expected=wanted)
        items.append(LabelItem(named, identifier, item.get("label"), item.get("at"), item.get("outcomes")))
    return items


def check_label(output: Output, item: LabelItem) -> tuple[float | int | str | bool | None, float | None]:
    """The label and its time in unix seconds, as the model's output can take them; no label where outcomes are told.

    Raises:
        ContractViolation: not a prediction's id, not a possible label, or not a time.
    """
    if not _ID.match(item.prediction_id):
        raise _violation("prediction_id", "an id that a prediction was answered with", "another text")
    label = None if item.label is None and item.outcomes else _label(output, item.label)
    return label, _time(item.at)


def check_outcomes(given: Any) -> dict[str, float] | None:
    """Named numbers; None where there are none.

    Raises:
        ContractViolation: something else, too many of them, a name that cannot be a column's, or no finite number.
    """
    if given is None:
        return None
    if not isinstance(given, dict):
        raise _violation("outcomes", "an object of numbers by name", json_type(given))
    if len(given) > MOST_OUTCOMES:
        raise _violation("outcomes", f"at most {MOST_OUTCOMES} of them", "more")
    found = {}
    for name, value in given.items():
        if not isinstance(name, str) or _OUTCOME.match(name) is None:
            raise _violation("outcomes", "names of 1-40 characters a-z 0-9 _, a letter first", "another name")
        found[name] = _finite(f"outcomes.{name}", value)
    return found or None


def check_at(at: float, now: float) -> None:
    """Refuse an event time, in unix seconds, before 1900 or more than a day ahead of `now`.

    The one has no date that the event lake can be filed by; the other would run away with event clocks.

    Raises:
        ContractViolation: it is such a time.
    """
    if at < _YEAR_1900:
        raise _violation("at", "a time since 1900", "an earlier one")
    if at > now + 86_400:
        raise _violation("at", "a time not more than a day ahead", "a later one")


def _label(output: Output, label: Any) -> float | int | str | bool:
    if output.kind == "regression":
        return _finite("label", label)
    for known in output.classes:
        # 1 == True in Python, but not in a contract
        if known == label and isinstance(known, bool) == isinstance(label, bool):
            return known
    raise _violation("label", f"one of the model's {len(output.classes)} classes", json_type(label))


def _finite(path: str, value: Any) -> float:
    try:
        if not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(float(value)):
            return float(value)
    except OverflowError:  # an integer beyond what a float holds
        pass
    raise _violation(path, "a finite number", json_type(value))


def _time(at: Any) -> float | None:
    if at is None:
        return None
    try:
        moment = datetime.fromisoformat(at)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        raise _violation("at", "RFC 3339, for example 2013-04-01T12:00:00Z", json_type(at)) from None


def _violation(path: str, expected: str, got: str) -> ContractViolation:
    return ContractViolation(f"{path}: expected {expected}", errors=(FieldError(path, "not possible", expected, got),))
