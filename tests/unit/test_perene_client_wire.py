"""A call of the client as steps: when it tries again, for how long, and what it raises in the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from perene.client.connection import checked_url, options
from perene.client.errors import ContractViolation, Limited, Overloaded, PereneError, Refused, Unreachable, error_of
from perene.client.wire import Lost, Patience, Reply, Request, Send, asked_s, call, get, pause, post, with_headers
from registry.errors import ConfigInvalid, FieldError
from serving.errors import body_of

PATIENCE = Patience(timeout_s=10, deadline_s=30, retries=4)
REQUEST = get("/models")
FAR = "Sat, 21 Nov 99999999999999999999 12:00:00 GMT"
OK = Reply(200, {}, b"{}")


def status(code: int, **headers: str) -> Reply:
    return Reply(code, {name.replace("_", "-"): value for name, value in headers.items()}, b"")


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_passing_statuses_are_tried_again(code: int) -> None:
    """And so is a lost connection."""
    assert pause(0, status(code), PATIENCE, left_s=30, draw=0.5) == 0.05
    assert pause(0, Lost("ReadError"), PATIENCE, left_s=30, draw=0.5) == 0.05


@pytest.mark.parametrize("code", [200, 400, 401, 403, 404, 409, 413, 415, 422, 500])
def test_an_answer_is_an_answer(code: int) -> None:
    """What will not change by asking again is not asked again, whatever it says of later."""
    assert pause(0, status(code), PATIENCE, left_s=30, draw=0.5) is None
    if code != 409:
        assert pause(0, status(code, retry_after="1"), PATIENCE, left_s=30, draw=0.5) is None


def test_an_attempt_that_is_still_under_way_is_asked_for_again() -> None:
    """A conflict that passes says when; one that does not says nothing."""
    assert pause(0, status(409, retry_after="1"), PATIENCE, left_s=30, draw=0.5) == 1.05


def test_pauses_grow_up_to_a_longest_and_jitter_is_full() -> None:
    """Anything from nothing to twice the pause before."""
    lost = Lost("ConnectError")
    many = Patience(retries=20, deadline_s=1_000)
    longest = [pause(n, lost, many, left_s=1_000, draw=1.0) for n in range(8)]
    assert longest == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert pause(6, lost, many, left_s=1_000, draw=0.0) == 0.0


def test_the_server_s_own_wish_comes_first() -> None:
    """`Retry-After` in seconds or as a date, and then the jitter; nonsense is no wish."""
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert pause(0, status(429, retry_after="7"), PATIENCE, left_s=30, draw=0.5) == 7.05
    assert pause(0, status(503, retry_after="0"), PATIENCE, left_s=30, draw=0.5) == 0.05
    assert asked_s("Sat, 21 Nov 2026 12:00:09 GMT", now) == 9.0
    assert asked_s("Sat, 21 Nov 2026 11:00:00 GMT", now) == 0.0
    assert [asked_s(text, now) for text in ("", "soon", "-3", "1e9", "nan", "²", FAR)] == [0.0] * 7


def test_no_pause_is_begun_that_ends_after_the_deadline() -> None:
    """Who is told to come back too late is told at once."""
    assert pause(0, status(429, retry_after="31"), PATIENCE, left_s=30, draw=0.5) is None
    assert pause(4, Lost("ReadError"), PATIENCE, left_s=30, draw=0.5) is None


def play(request: Request, replies: Iterator[Reply | Lost], patience: Patience) -> tuple[list[Send], Reply]:
    """Run a call against a script, on a clock that only pauses and attempts move."""
    now = 0.0
    steps = call(request, patience, clock=lambda: now, draw=lambda: 1.0)
    sent = [next(steps)]
    try:
        while True:
            now += sent[-1].after_s
            reply = next(replies)
            now += sent[-1].timeout_s if isinstance(reply, Lost) else 0.0
            sent.append(steps.send(reply))
    except StopIteration as done:
        reply = done.value
        assert isinstance(reply, Reply)
        return sent, reply


def test_every_attempt_sends_the_same_request() -> None:
    """The body, and the key that makes it one prediction."""
    request = with_headers(post("/models/toy/predict", {"rows": [{}]}), {"idempotency-key": "k"})
    sent, reply = play(request, iter([Lost("ReadError"), status(503), OK]), PATIENCE)
    assert [step.request for step in sent] == [request] * 3
    assert [step.after_s for step in sent] == [0.0, 0.1, 0.2]
    assert (reply, request.headers["idempotency-key"]) == (OK, "k")


def test_the_deadline_covers_all_attempts() -> None:
    """The last attempt waits only for what is left."""
    patience = Patience(timeout_s=10, deadline_s=25, retries=100)
    with pytest.raises(Unreachable, match=r"3 attempts, ReadTimeout") as caught:
        play(REQUEST, iter([Lost("ReadTimeout")] * 100), patience)
    assert "running" in caught.value.hint
    sent, _ = play(REQUEST, iter([Lost("ReadTimeout"), Lost("ReadTimeout"), OK]), patience)
    assert [round(step.timeout_s, 1) for step in sent] == [10.0, 10.0, 4.7]


def test_a_refusal_comes_back_as_the_server_raised_it() -> None:
    """Class, facts and field errors survive the wire."""
    field = FieldError("rows[0].wether", "unknown feature", "a feature of the contract", "", "did you mean 'weather'?")
    told = ContractViolation("rows[0].wether: unknown feature", errors=(field,))
    found = error_of(422, body_of(told, "r-1"))
    assert type(found) is ContractViolation
    assert (found.errors, found.request_id, str(found)) == (told.errors, "r-1", str(told))
    limited = error_of(429, body_of(Limited("too many", expected="10 a second"), "r-2"), retry_after_s=3.0)
    assert isinstance(limited, Limited)
    assert (limited.retry_after_s, limited.expected) == (3.0, "10 a second")
    assert isinstance(error_of(503, body_of(Overloaded("busy"), "r-3")), Overloaded)


@pytest.mark.parametrize("body", [b"", b"<html>Bad</html>", b"[]", b'{"error": "text"}', b'{"error": {"code": 1}}'])
def test_answers_of_others_are_refusals_too(body: bytes) -> None:
    """A proxy's page, or a server that is not Perene's."""
    assert isinstance(error_of(502, body), Unreachable)
    assert isinstance(error_of(418, body), Refused)
    assert "418" in error_of(418, body).message


def test_what_is_no_error_of_ours_is_none_either() -> None:
    """A page that says 200 is not an answer."""
    from perene.client.wire import answer

    with pytest.raises(PereneError, match="not as Perene does"):
        answer(Reply(200, {}, b"<html>"))
    assert answer(Reply(200, {}, json.dumps({"a": 1}).encode())) == {"a": 1}


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "ftp://host", "http://", "http://u:secret@host", "http://host?x=1", "http://host#x", "perene"],
)
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    """Before the first request, and without echoing it: it may hold a password."""
    with pytest.raises(ConfigInvalid) as caught:
        checked_url(url)
    assert "secret" not in f"{caught.value} {caught.value.expected}"


@pytest.mark.parametrize("url", ["http://host:99999", "http://host:0", "http://ho\nst", "http://[::1"])
def test_an_address_that_cannot_be_read_is_refused(url: str) -> None:
    """Neither is anything else raised."""
    with pytest.raises(ConfigInvalid):
        checked_url(url)


def test_addresses_and_keys_that_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix, IPv6, and what the environment says where nothing is given."""
    assert checked_url("https://models.example/perene/") == "https://models.example/perene"
    assert checked_url("http://[::1]:8000") == "http://[::1]:8000"
    monkeypatch.setenv("PERENE_KEY", "prn_env")
    monkeypatch.setenv("PERENE_URL", "http://elsewhere:1")
    found = options(None, None, PATIENCE, 5)
    assert (found["base_url"], found["headers"]["authorization"]) == ("http://elsewhere:1", "Bearer prn_env")
    assert "authorization" not in options("http://a", "", PATIENCE, 5)["headers"]
    assert options("http://a", "mine", PATIENCE, 5)["headers"]["authorization"] == "Bearer mine"
    with pytest.raises(ConfigInvalid, match="line break"):
        options("http://a", "prn_x\n", PATIENCE, 5)
