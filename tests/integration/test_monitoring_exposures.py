"""The exposure log of an experiment, from a ledger and the events that a real server left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monitoring.lake.lake import Lake
from monitoring.reading.exposures import SCHEMA, drawn_by, exposures, propensities
from registry.ledger import Deployment, Ledger
from registry.routing import Routing, Segment, Share, When, salt_of
from serving.routing import bucket
from tests.integration.serving_app import run
from tests.integration.serving_toy import ROW, Cache, serving, stored_events

SALT = "trial-7"
STEPS: list[dict[str, Any]] = [
    {},
    {"candidate": 2, "mode": "shadow", "salt": SALT},
    {"candidate": 2, "mode": "ab", "weight": 0.25, "salt": SALT},
    {"candidate": 2, "mode": "ab", "weight": 0.75, "salt": SALT},
    {"candidate": 2, "mode": "ab", "weight": 0.5, "salt": "another"},
]


@pytest.fixture
def history(tmp_path: Path) -> list[Deployment]:
    """A champion, a shadow, two steps of A/B, and an A/B of another experiment."""
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    gold = Segment(When(header="x-tenant", values=("gold",)), 2)
    for revision, step in enumerate(STEPS):
        more: dict[str, Any] = {"routing": Routing(segments=(gold,))} if revision == 0 else {}
        ledger.move("toy", expected_revision=revision, champion=1, actor="ann", reason="r", **step, **more)
    rows = ledger.history("toy")
    ledger.close()
    return rows


def test_shares_are_exactly_those_of_the_row(history: list[Deployment]) -> None:
    """The champion has what the candidates leave; a shadow and another experiment draw nothing of this one."""
    assert drawn_by(history, SALT) == {3: {1: 0.75, 2: 0.25}, 4: {1: 0.25, 2: 0.75}}
    assert [propensities(row) for row in history[:2]] == [{}, {}]
    assert drawn_by(history, "") == {}
    long = f"{'a-model-with-a-long-name' * 2}-0123456789ab-trial"  # a salt has 64 characters at most
    assert drawn_by([replace(one, salt=salt_of(long)) for one in history if one.salt == SALT], long) == drawn_by(
        history, SALT
    )


def test_shares_of_several_candidates(tmp_path: Path) -> None:
    """Read from the routing of the row."""
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    routing = Routing(arms=(Share(2, 0.25), Share(3, 0.5)))
    more: dict[str, Any] = {"candidate": 2, "mode": "ab", "weight": 0.25, "salt": "s", "routing": routing}
    row = ledger.move("toy", expected_revision=0, champion=1, actor="ann", reason="r", **more)
    ledger.close()
    assert propensities(row) == {1: 0.25, 2: 0.25, 3: 0.5}


def test_each_unit_is_exposed_once_to_each_arm(
    cache: Cache, offsets: dict[int, Path], history: list[Deployment]
) -> None:
    """Sticky over a ramp, without those who pinned, belong to a segment or came before; requests without entity too."""
    for version, bundle in offsets.items():
        cache.add(version, bundle)
    entities = [f"e{n}" for n in range(40)]

    def deploy(row: Deployment) -> None:
        cache.revision = row.revision - 1
        cache.deploy(1, row.candidate, row.mode, row.weight, salt=row.salt, routing=row.routing)

    async def scenario() -> Path:
        deploy(history[0])  # before the server looks: two states of one revision it would not tell apart
        async with serving(cache, auth=False) as served:
            for row in history:
                deploy(row)

                async def taken(wanted: int = row.revision) -> bool:
                    return bool(served.app.state.service.table.models["toy"].revision == wanted)

                await served.until(taken)
                for entity in entities:
                    await served.predict(entity=entity)
                await served.predict()
                await served.client.post("/predict", json={"rows": [ROW], "entity": "g"}, headers={"x-tenant": "gold"})
                await served.predict(path="/models/toy/versions/2/predict", entity="p")
            return served.spool.path

    path: list[Path] = []

    async def once() -> None:
        path.append(await scenario())

    run(once)
    lake = Lake(path[0].parent.parent / "lake")
    events = list(enumerate(stored_events(path[0]), 1))
    lake.write(events, boot="b", first=1, last=len(events), contracts=_contracts(offsets))
    table = exposures(lake, "toy", drawn_by(history, SALT), champion=1)
    assert table.schema == SCHEMA
    found = table.to_pylist()
    by_bucket = sorted(bucket(SALT, entity) for entity in entities)
    named = [row for row in found if row["entity"]]
    treated_first = sum(b < 0.25 for b in by_bucket)
    treated_later = sum(0.25 <= b < 0.75 for b in by_bucket)
    assert sum(r["deployment"] == 3 for r in named) == len(entities)
    assert sum(r["deployment"] == 3 and r["arm"] == "candidate" for r in named) == treated_first
    assert [(r["arm"], r["propensity"]) for r in named if r["deployment"] == 4] == [("candidate", 0.75)] * treated_later
    assert len({(r["unit"], r["version"]) for r in named}) == len(named) == len(entities) + treated_later
    assert sum(not row["entity"] for row in found) == 2
    assert {(r["version"], r["deployment"], r["propensity"]) for r in found} <= {
        (1, 3, 0.75), (2, 3, 0.25), (1, 4, 0.25), (2, 4, 0.75)
    }  # fmt: skip
    firsts = table.column("first").to_pylist()
    assert firsts == sorted(firsts)
    assert exposures(lake, "toy", {}, champion=1).num_rows == 0
    assert exposures(lake, "nobody", drawn_by(history, SALT), champion=1).num_rows == 0


def _contracts(offsets: dict[int, Path]) -> Any:
    from registry.bundle import read_bundle

    return {("toy", version): read_bundle(bundle).contract for version, bundle in offsets.items()}
