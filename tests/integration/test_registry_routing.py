"""Routing in the ledger: kept, hashed only where there is any, and refused where it cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from registry.errors import LedgerConflict
from registry.ledger import Deployment, Ledger
from registry.routing import Routing, Segment, Share, When, read_routing, routing_from, write_routing
from tests.integration.ledger_tampering import attacking, remove_guards

WHEN = When(header="x-tenant", values=("gold", "silver"))
SEGMENT = Segment(WHEN, 7)
ARMS = (Share(2, 0.25), Share(3, 0.5))


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    opened = Ledger.open(ledger_url)
    yield opened
    opened.close()


def move(ledger: Ledger, champion: int = 1, **more: Any) -> Deployment:
    last = ledger.deployment("toy")
    revision = last.revision if last else 0
    return ledger.move("toy", expected_revision=revision, champion=champion, actor="ann", reason="r", **more)


def trial(arms: tuple[Share, ...] = ARMS, **more: Any) -> dict[str, Any]:
    first = arms[0] if arms else Share(2, 0.25)
    return {"candidate": first.version, "mode": "ab", "weight": first.weight, "routing": Routing(arms=arms, **more)}


def test_routing_is_kept_as_it_was_given(ledger: Ledger) -> None:
    """Read back by each way there is, and hashed."""
    given = Routing(
        0.25, (SEGMENT, Segment(When(column="carrier", values=("AA", 3, True)), 2)), (Share(2, 0.05), Share(3, 0.95))
    )
    moved = move(ledger, candidate=2, mode="ab", weight=0.05, routing=given)
    assert moved.routing == given
    assert ledger.deployment("toy") == moved
    assert ledger.history("toy") == [moved]
    assert ledger.deployments() == {"toy": moved}
    assert ledger.verify() == []


def test_rows_without_routing_hash_as_before(ledger: Ledger) -> None:
    """Known by heart: the digest of the row's fields as Perene 0.3 took it."""
    import hashlib
    import json

    moved = move(ledger)
    fields = ["", "toy", 1, 1, None, None, 0.0, "", "ann", "r", moved.at.isoformat(timespec="microseconds"), None]
    assert moved.hash == hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).hexdigest()
    assert move(ledger, 2, routing=Routing(1.0, ())).routing is None
    assert ledger.verify() == []


def test_segments_outlast_trials_and_rollbacks(ledger: Ledger) -> None:
    """They are an operator's; whoever moves something else leaves them alone, and an empty list takes them away."""
    move(ledger, routing=Routing(segments=(SEGMENT,)))
    assert move(ledger, **trial()).routing == Routing(segments=(SEGMENT,), arms=ARMS)
    assert move(ledger, 2).routing == Routing(segments=(SEGMENT,))
    assert ledger.rollback("toy", actor="ann", reason="back").routing == Routing(segments=(SEGMENT,))
    assert move(ledger, routing=Routing(segments=())).routing is None
    assert ledger.verify() == []


@pytest.mark.parametrize(
    "change",
    ["'{}'", "NULL", """'{"arms":[]}'""", "'nonsense'", "replace(routing, '0.5', '0.6')", "routing || ' '"],
)
def test_a_routing_that_was_changed_is_found(ledger: Ledger, ledger_url: str, change: str) -> None:
    """And a row that cannot be read any more keeps nobody from rolling back."""
    move(ledger)
    move(ledger, **trial())
    move(ledger, 2)
    with attacking(ledger_url) as connection:
        remove_guards(connection)
        connection.execute(text(f"UPDATE perene_deployments SET routing = {change} WHERE revision = 2"))
    assert ledger.verify() == ["deployment of toy revision 2 was altered"]
    assert ledger.rollback("toy", actor="ann", reason="back").champion == 1


def test_a_routing_that_was_put_in_is_found(ledger: Ledger, ledger_url: str) -> None:
    """A row that had none hashes without."""
    move(ledger)
    with attacking(ledger_url) as connection:
        remove_guards(connection)
        connection.execute(text(r"""UPDATE perene_deployments SET routing = '{"shadow_share"\:0.5}' """))
    assert ledger.verify() == ["deployment of toy revision 1 was altered"]


WRONG: dict[str, dict[str, Any]] = {
    "arms over the whole": trial((Share(2, 0.6), Share(3, 0.5))),
    "a negative weight": trial((Share(2, 0.5), Share(3, -0.1))),
    "a weight beyond 1": trial((Share(2, 0.0), Share(3, 1.5))),
    "a weight that is no number": trial((Share(2, 0.5), Share(3, math.nan))),
    "a weight that is endless": trial((Share(2, 0.5), Share(3, math.inf))),
    "a weight that is text": trial((Share(2, 0.5), Share(3, "0.1"))),  # type: ignore[arg-type]
    "an arm twice": trial((Share(2, 0.25), Share(2, 0.25))),
    "the champion as an arm": trial((Share(2, 0.25), Share(1, 0.25))),
    "version 0": trial((Share(2, 0.25), Share(0, 0.25))),
    "arms in shadow": {**trial(), "mode": "shadow"},
    "arms without a trial": {"routing": Routing(arms=ARMS)},
    "another candidate first": {**trial(), "candidate": 4},
    "another weight first": {**trial(), "weight": 0.3},
    "too many arms": trial(tuple(Share(n + 2, 0.01) for n in range(11))),
    "a share of shadow beyond 1": {"routing": Routing(shadow_share=1.1)},
    "a share of shadow below 0": {"routing": Routing(shadow_share=-0.1)},
    "a share of shadow that is no number": {"routing": Routing(shadow_share=math.nan)},
    "a segment of nothing": {"routing": Routing(segments=(Segment(When(("a",)), 2),))},
    "a segment of both": {"routing": Routing(segments=(Segment(When(("a",), "x-a", "b"), 2),))},
    "a segment without values": {"routing": Routing(segments=(Segment(When((), "x-a"), 2),))},
    "a segment with too many": {"routing": Routing(segments=(Segment(When(tuple(range(1001)), column="a"), 2),))},
    "too many segments": {"routing": Routing(segments=(SEGMENT,) * 101)},
    "a header that is none": {"routing": Routing(segments=(Segment(When(("a",), "X Tenant"), 2),))},
    "a header with a secret": {"routing": Routing(segments=(Segment(When(("a",), "authorization"), 2),))},
    "a header's number": {"routing": Routing(segments=(Segment(When((1,), "x-a"), 2),))},
    "a long value": {"routing": Routing(segments=(Segment(When(("a" * 257,), "x-a"), 2),))},
    "a list as value": {"routing": Routing(segments=(Segment(When(((1,),), column="a"), 2),))},  # type: ignore[arg-type]
    "segments too large": {
        "routing": Routing(segments=(Segment(When(tuple(f"{n:0250}" for n in range(1000)), "x-a"), 2),) * 2)
    },
    "a salt with the separator": {**trial(), "salt": "a\x1fb"},
    "a salt that is too long": {**trial(), "salt": "a" * 65},
    "a salt that is no ASCII": {**trial(), "salt": "sälz"},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused_and_leaves_no_row(ledger: Ledger, wrong: dict[str, Any]) -> None:
    """With where it is and what would do; the control is the same without the fault."""
    with pytest.raises(LedgerConflict) as caught:
        move(ledger, **wrong)
    assert caught.value.where.startswith(("routing", "salt"))
    assert caught.value.expected
    assert ledger.history("toy") == []


def test_weights_of_tenths_are_a_whole(ledger: Ledger) -> None:
    """Ten times 0.1 is not 1 in floating point."""
    assert move(ledger, **trial(tuple(Share(n + 2, 0.1) for n in range(10)))).routing is not None


@pytest.mark.parametrize(
    "body",
    [[], "x", {"arms": [{"version": 2}]}, {"arm": []}, {"segments": [{"when": {"in": [1.5]}, "version": 2}]}, None],
)
def test_values_of_another_form_are_refused(body: Any) -> None:
    with pytest.raises(LedgerConflict) as caught:
        routing_from(body)
    assert caught.value.where == "routing"


def test_a_file_s_values_become_a_routing() -> None:
    body = {"segments": [{"when": {"header": "x-tenant", "in": ["gold", "silver"]}, "version": 7}]}
    assert routing_from(body) == Routing(segments=(SEGMENT,))
    assert read_routing(write_routing(routing_from(body))) == routing_from(body)
