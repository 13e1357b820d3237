"""Promise 24: an entity stays on its arm, across processes, restarts and replicas, and the split is what was asked for.

`PERENE_CHAOS=full` makes a million draws instead of 100,000, and asks the servers ten times as many entities.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from registry.routing import Routing, Share
from serving.routing import Route, choose
from tests.acceptance.test_serving_process import ROOT, Server, cache, offsets, until
from tests.integration.serving_toy import ROW, Cache

__all__ = ["cache", "offsets"]

FULL = os.environ.get("PERENE_CHAOS") == "full"
DRAWS = 1_000_000 if FULL else 100_000
ENTITIES = 10_000 if FULL else 1_000
DRAW = """
import hashlib, json, sys
from collections import Counter
from registry.routing import Share
from serving.routing import Route, choose
draws, manner = int(sys.argv[1]), sys.argv[2]
salt = "trial-7" if manner == "sticky" else f"trial-{hash('trial-7')}"  # the latter is another one in each process
arms = (Share(2, 0.25), Share(3, 0.1), Share(4, 0.05))
seen, order = Counter(), hashlib.sha256()
for n in range(draws):
    version = choose(Route(1, 2, "ab", 0.25, salt, arms), f"customer-{n}").version
    seen[version] += 1
    order.update(b"%d" % version)
print(json.dumps([order.hexdigest(), [seen[v] for v in (1, 2, 3, 4)]]))
"""


def drawn(manner: str, times: int) -> list[Any]:
    """What processes that know nothing of each other draw for the same entities: a digest of all, and counts."""
    command = [sys.executable, "-c", DRAW, str(DRAWS), manner]
    seeds = ({**os.environ, "PYTHONHASHSEED": str(seed)} for seed in range(1, times + 1))
    started = [subprocess.Popen(command, cwd=ROOT, env=seed, stdout=subprocess.PIPE, text=True) for seed in seeds]
    return [json.loads(process.communicate(timeout=300)[0]) for process in started]


def split_is_fair(counts: list[int], shares: list[float]) -> bool:
    """Within three standard errors, each arm."""
    n = sum(counts)
    return all(abs(c - n * p) <= 3 * math.sqrt(n * p * (1 - p)) for c, p in zip(counts, shares, strict=True))


@pytest.mark.timeout(400)
def test_every_process_draws_the_same_and_the_split_is_fair() -> None:
    """Three candidates beside the champion; the control salts by process, which must be seen."""
    told = drawn("sticky", 3)
    assert told[0] == told[1] == told[2]
    print(f"{DRAWS} draws in each of 3 processes: {told[0][1]}")
    assert split_is_fair(told[0][1], [0.6, 0.25, 0.1, 0.05])
    assert not split_is_fair([told[0][1][0] + DRAWS // 50, *told[0][1][1:]], [0.6, 0.25, 0.1, 0.05])
    control = drawn("by process", 2)
    assert control[0][0] != control[1][0]


def arms_of(server: Server, entities: list[str]) -> dict[str, tuple[int, str]]:
    """Version and arm by entity, over four kept connections."""

    def some(part: list[str]) -> list[tuple[str, tuple[int, str]]]:
        connection = server.connect()
        found = []
        for entity in part:
            status, body = server.on(connection, "POST", "/predict", {"rows": [ROW], "entity": entity})
            assert status == 200, body
            found.append((entity, (body["version"], body["arm"])))
        connection.close()
        return found

    with ThreadPoolExecutor(4) as threads:
        return dict(pair for part in threads.map(some, (entities[n::4] for n in range(4))) for pair in part)


@pytest.mark.timeout(300)
def test_replicas_and_restarts_keep_every_entity_on_its_arm(cache: Cache) -> None:
    """Two servers with nothing in common but the ledger's row, one of two workers, one killed; then a ramp."""
    cache.deploy(1, 2, "ab", 0.3, salt="trial-7")
    other = Cache(cache.folder.parent.parent / "other" / "cache")
    shutil.copytree(cache.folder, other.folder)
    entities = [f"customer-{n}" for n in range(ENTITIES - 4)] + ["é", "北京", " a", "a\x1fb"]
    with (
        Server(cache.folder.parent, "", auth=False) as one,
        Server(other.folder.parent, "", auth=False, workers=2) as two,
    ):
        one.ready()
        two.ready()
        first = arms_of(one, entities)
        route = Route(1, 2, "ab", 0.3, "trial-7")
        assert first == {e: (c.version, c.arm) for e in entities if (c := choose(route, e))}
        assert arms_of(two, entities) == first
        one.process.kill()
        one.process.wait()
        one.start()
        one.ready()
        assert arms_of(one, entities) == first
        counts = Counter(version for version, _ in first.values())
        print(f"{len(entities)} entities, 3 times: {dict(counts)}")
        assert split_is_fair([counts[1], counts[2]], [0.7, 0.3])
        ramp(one, cache, entities, first)


def ramp(server: Server, cache: Cache, entities: list[str], before: dict[str, tuple[int, str]]) -> None:
    """From 0.3 to 0.6 nobody leaves the candidate; the control, another salt, moves people both ways."""
    for salt, moved in (("trial-7", False), ("trial-8", True)):
        cache.deploy(1, 2, "ab", 0.6, salt=salt)
        route = Route(1, 2, "ab", 0.6, salt)
        probe = next(e for e in entities if choose(route, e).version != before[e][0])
        until(lambda p=probe: arms_of(server, [p])[p] != before[p], "the ramp did not come about")  # type: ignore[misc]
        now = arms_of(server, entities)
        left = [entity for entity, (version, _) in before.items() if version == 2 and now[entity][0] != 2]
        assert bool(left) is moved


def test_replicas_agree_on_arms_as_they_come_from_the_ledger() -> None:
    """The hand-over keeps weights to the last bit."""
    import msgspec

    from serving.state import Deployed

    routing = Routing(arms=(Share(2, 0.1 + 0.2), Share(3, 1 / 3)))
    given = Deployed(5, 1, 2, "ab", 0.1 + 0.2, "s", routing)
    read = msgspec.json.decode(msgspec.json.encode(given), type=Deployed)
    assert read.route() == given.route()
    assert [arm.weight for arm in read.route().arms] == [0.30000000000000004, 1 / 3]
