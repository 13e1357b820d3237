"""The child that explains: it may die or hang, ends when nobody asks, and predictions go on meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import httpx
import psutil
import pytest

from registry.native.protocol import send
from serving.errors import Overloaded
from serving.explanations import desk
from serving.settings import ExplainSettings
from tests.integration.serving_app import run
from tests.integration.serving_toy import ROW, Cache, serving
from tests.integration.test_explain_http import PATH, desk_of, explain, require_sum, toy

__all__ = ["toy"]  # a fixture


def test_a_killed_child_costs_one_refusal(cache: Cache, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 while it works: a 503 that says when to come again, and the next one is answered."""
    sent = threading.Event()

    def told(*given: Any) -> None:
        send(*given)
        sent.set()

    async def scenario() -> None:
        async with serving(cache, toy) as served:
            await explain(served, {"rows": [ROW]})
            process = desk_of(served).process
            first = process.pid
            assert first is not None
            os.kill(first, signal.SIGSTOP)  # so that it is at work when it dies
            monkeypatch.setattr("serving.explanations.process.send", told)
            asked = asyncio.create_task(served.client.post(PATH, json={"rows": [ROW]}))
            assert await asyncio.to_thread(sent.wait, 60)
            os.kill(first, signal.SIGKILL)
            reply = await asked
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
            assert int(reply.headers["retry-after"]) >= 1
            require_sum((await explain(served, {"rows": [ROW]}))[0])
            assert process.pid not in (None, first)
            # killed while it rests: nobody notices
            os.kill(process.pid or 0, signal.SIGKILL)

            async def dead() -> bool:
                return process.pid is None

            await served.until(dead)
            require_sum((await explain(served, {"rows": [ROW]}))[0])

    run(scenario)


def test_one_that_takes_too_long_is_ended_and_the_loop_answers_meanwhile(cache: Cache, toy: str) -> None:
    """Predictions go on while an explanation hangs; the few that wait are refused in time, the others at once."""

    async def scenario() -> None:
        # seconds in which a busy machine gives twenty predictions while the child hangs
        async with serving(cache, toy, explain=ExplainSettings(seconds=5.0)) as served:
            while (await served.client.post(PATH, json=ROW)).status_code != 200:
                await asyncio.sleep(0.1)
            process = desk_of(served).process
            stopped = process.pid
            assert stopped is not None
            os.kill(stopped, signal.SIGSTOP)
            asked = [asyncio.create_task(served.client.post(PATH, json=ROW)) for _ in range(desk.WAITING + 3)]
            await asyncio.sleep(0.1)
            for _ in range(20):
                assert (await served.predict())["version"] == 1
            assert not all(task.done() for task in asked)
            replies: list[httpx.Response] = await asyncio.gather(*asked)
            codes = [reply.status_code for reply in replies]
            assert set(codes) <= {200, 503}
            assert codes.count(503) >= 2
            assert not psutil.pid_exists(stopped)
            assert any("wait" in reply.json()["error"]["message"] for reply in replies if reply.status_code == 503)

    run(scenario)


def test_the_child_ends_when_nobody_asks_and_with_the_server(cache: Cache, toy: str) -> None:
    """Its memory is given back; it gives way to what answers; and it outlives nobody."""

    async def scenario() -> None:
        async with serving(cache, toy, explain=ExplainSettings(seconds=60, idle_seconds=600)) as served:
            await explain(served, {"rows": [ROW]})
            at, process = desk_of(served), desk_of(served).process
            assert process.pid is not None
            child = psutil.Process(process.pid)
            assert child.nice() >= 10

            async def ended() -> bool:
                return process.pid is None and not child.is_running()

            patient = at.settings
            at.settings = patient.model_copy(update={"idle_seconds": 0.1})
            await explain(served, {"rows": [ROW]})  # the last for a while
            await served.until(ended)
            at.settings = patient  # the next one rests until the server ends, however slowly we look at it
            await explain(served, {"rows": [ROW]})
            last = psutil.Process(process.pid or 0)
        assert not last.is_running()
        with pytest.raises(Overloaded):
            process.ask(None)  # type: ignore[arg-type]

    run(scenario)
