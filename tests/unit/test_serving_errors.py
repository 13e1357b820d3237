"""Errors as answers: one status each, no values, problem+json on request."""

from __future__ import annotations

import json

import pytest

from registry import errors as registry_errors
from registry.errors import ContractViolation, FieldError, PereneError
from serving import errors
from serving.errors import Malformed, body_of, status_of


def test_every_error_has_a_code_of_its_own() -> None:
    """A client can tell them apart."""
    kinds: list[type[PereneError]] = [PereneError, *PereneError.__subclasses__()]
    codes = [kind.code for kind in kinds if kind.__module__ in (registry_errors.__name__, errors.__name__)]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Malformed("x"), 400),
        (errors.Unauthenticated("x"), 401),
        (registry_errors.NotAllowed("x"), 403),
        (registry_errors.ModelUnknown("x"), 404),
        (errors.TooLarge("x"), 413),
        (errors.WrongMediaType("x"), 415),
        (ContractViolation("x"), 422),
        (errors.OutputNotFinite("x"), 500),
        (registry_errors.StoreUnavailable("x"), 503),
        (registry_errors.TrainingFailed("x"), 500),
    ],
)
def test_statuses(error: PereneError, status: int) -> None:
    """The one table."""
    assert status_of(error) == status


def test_the_envelope_names_everything() -> None:
    """Where, expected, got, hint, request id."""
    error = ContractViolation("bad", errors=(FieldError("rows[0].x", "m", "number", "string", "h"),))
    facts = json.loads(body_of(error, "r1"))["error"]
    assert facts["request_id"] == "r1"
    assert (facts["where"], facts["expected"], facts["got"], facts["hint"]) == ("rows[0].x", "number", "string", "h")
    assert facts["errors"][0]["where"] == "rows[0].x"


def test_problem_json_on_request() -> None:
    """RFC 9457's members."""
    facts = json.loads(body_of(Malformed("bad"), "r1", problem=True))
    assert {"type", "title", "status", "detail"} <= set(facts)
    assert facts["status"] == 400
