"""What findings mean, why, and what is expected: diagnosis, causes, known events, estimates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.drift.cause import explain
from monitoring.drift.season import matched
from monitoring.drift.windows import Window
from monitoring.watching.diagnosis import diagnose
from monitoring.watching.estimated import FINE, counted, estimate
from monitoring.watching.findings import State
from monitoring.watching.known import KnownEvent, event_at
from registry.contract import Column, Contract, Output
from registry.estimate import build_estimate
from registry.loss import bounded_loss
from registry.reference import bin_counts, build_reference

STATES = st.sampled_from(["ok", "watch", "confirmed", "insufficient"])
CLASSES = Output("classification", ("no", "yes"))


@given(st.sampled_from(["ok", "watch", "broken", "insufficient"]), STATES, STATES, STATES)
def test_every_combination_has_one_action_that_keeps_the_rules(
    data: State, drift: State, estimated: State, performance: State
) -> None:
    """Broken data blocks whatever else; only realised quality retrains; drift or an estimate alone never do."""
    found = diagnose(data_quality=data, drift=drift, estimated=estimated, performance=performance)
    assert (found.action == "block_retraining") == (data == "broken")
    assert found.retrains == (data != "broken" and performance == "confirmed")
    if found.retrains:
        assert (found.action == "retrain_sliding") == (drift == "confirmed")
    if found.action == "schedule_only":
        assert "confirmed" not in (drift, estimated, performance)
    assert found.reason


@pytest.mark.parametrize(
    ("states", "action"),
    [
        (("broken", "confirmed", "confirmed", "confirmed"), "block_retraining"),
        (("ok", "ok", "ok", "confirmed"), "retrain_since_drift"),
        (("ok", "confirmed", "confirmed", "insufficient"), "ask_for_labels"),
        (("ok", "confirmed", "ok", "ok"), "suggest_reference"),
        (("ok", "confirmed", "ok", "confirmed"), "retrain_sliding"),
        (("ok", "ok", "ok", "ok"), "schedule_only"),
    ],
)
def test_the_rows_of_the_design(states: tuple[State, State, State, State], action: str) -> None:
    """The six rows of its table."""
    data, drift, estimated, performance = states
    found = diagnose(data_quality=data, drift=drift, estimated=estimated, performance=performance)
    assert found.action == action


def made(n: int = 4000, *, hours: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """A reference of two columns, of which only the first moves the score, and the first's values."""
    rng = np.random.default_rng(2)
    at = np.arange(n) % 24 * 3600.0
    x = rng.standard_normal(n) + (np.sin(at / 3600 / 24 * 2 * np.pi) if hours else 0.0)
    frame = {"x": x, "idle": rng.standard_normal(n)}
    contract = Contract("m", (Column("x", "float"), Column("idle", "float")), Output("regression"))
    losses = np.minimum(np.abs(x) / 10, 1.0)
    reference = build_reference(contract, frame, 3 * x, losses, 10.0, {"mae": 1.0}, at=at if hours else None)
    return reference, frame


def test_the_column_that_moves_the_score_is_the_first_cause() -> None:
    """Both moved alike; the idle one a little more."""
    reference, _ = made()
    rng = np.random.default_rng(3)
    new = {"x": rng.standard_normal(2000) + 0.5, "idle": rng.standard_normal(2000) + 0.6}
    counts = {name: bin_counts(spec, new[name]).tolist() for name, spec in reference["columns"].items()}
    ranked = [{"column": "idle", "psi": 0.3, "scale": 1}, {"column": "x", "psi": 0.25, "scale": 1}]
    first, second = explain(ranked, reference["columns"], [Window(0.0, 1.0, 2000, counts)])
    assert (first["column"], second["column"]) == ("x", "idle")
    assert first["importance"] > 0.9
    assert second["importance"] < 0.1
    assert first["score_moved"] == pytest.approx(1.5, abs=0.2)
    assert abs(second["score_moved"]) < 0.1


def test_causes_of_a_reference_made_before_there_were_importances() -> None:
    """Nothing is known, so how far a column moved decides."""
    spec = {"kind": "number", "edges": [0.0], "minimum": -1.0, "maximum": 1.0, "counts": [0, 0, 0, 0, 5, 5]}
    ranked = [{"column": "a", "psi": 0.1, "scale": 1}, {"column": "b", "psi": 0.2, "scale": 1}]
    found = explain(ranked, {"a": spec, "b": spec}, [])
    assert [(f["column"], f["importance"], f["score_moved"]) for f in found] == [("b", None, None), ("a", None, None)]


def test_a_known_event_covers_its_span_and_its_columns() -> None:
    """Its ends are in it; other columns are not; a span that ends before it begins is refused."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    event = KnownEvent(name="sale", start=start, end=datetime(2026, 1, 2), columns=("price",))  # noqa: DTZ001
    at = start.timestamp()
    assert event_at([event], at, ["price"]) is event
    assert event_at([event], at + 86_400, ["price"]) is event
    assert event_at([event], at + 86_401, ["price"]) is None
    assert event_at([event], at, ["price", "age"]) is None
    with pytest.raises(ValueError, match="swap its times"):
        KnownEvent(name="sale", start=start, end=start - timedelta(days=1))


def test_a_season_is_found_in_the_reference_and_matched() -> None:
    """The column that follows the clock keeps its hours, the other does not; a day's mixture is the whole."""
    reference, _ = made(hours=True)
    spec, idle = reference["columns"]["x"], reference["columns"]["idle"]
    assert "seasons" in spec
    assert "seasons" not in idle
    hour, day = matched(spec, [[0] * 6 + [50] + [0] * 17, [10] * 24])
    assert hour.sum() == pytest.approx(sum(spec["seasons"][6]))
    assert day.sum() == pytest.approx(4000, rel=0.01)
    assert hour[-1] / hour.sum() > 2 * day[-1] / day.sum()  # at six in the morning the wave is at its top
    assert matched(spec, [0] * 24).sum() == 4000
    unseen = {**spec, "seasons": [[0] * len(spec["counts"]), *spec["seasons"][1:]]}
    assert matched(unseen, [5] + [0] * 23).sum() == 4000


def test_estimated_quality_follows_what_labels_would_say() -> None:
    """Fewer sure answers, as the model's own probabilities tell: the estimate finds the loss within its band."""
    rng = np.random.default_rng(4)

    def drawn(n: int, spread: float) -> tuple[Any, Any]:
        p = 1 / (1 + np.exp(-rng.normal(0, spread, n)))
        return np.column_stack([1 - p, p]), (rng.random(n) < p).astype(int)

    def losses(p: Any, y: Any) -> Any:
        return bounded_loss(CLASSES, p, np.array(["no", "yes"], dtype=object)[y], 1.0)

    p, y = drawn(20_000, 3.0)
    curve = build_estimate(CLASSES, {}, {}, p, y, losses(p, y))
    assert curve is not None
    for spread in (3.0, 1.0):
        p, y = drawn(5_000, spread)
        found = estimate(curve, {FINE: counted(curve, p[:, 1]) or []})
        assert found is not None
        assert found.lower < losses(p, y).mean() < found.upper
        assert found.metrics["accuracy"] == pytest.approx(((p[:, 1] >= 0.5) == y).mean(), abs=0.02)
    assert estimate(curve, {FINE: counted(curve, p[:0, 1]) or []}) is None


def test_a_regressions_loss_is_estimated_from_where_its_rows_are() -> None:
    """Its errors grow with |x|; more rows come from out there."""
    reference, frame = made()
    losses = np.minimum(np.abs(frame["x"]) / 10, 1.0)
    curve = build_estimate(Output("regression"), reference, frame, 3 * frame["x"][:, None], None, losses)
    assert curve is not None
    rng = np.random.default_rng(5)
    x = rng.choice(frame["x"], 2000, p=np.abs(frame["x"]) / np.abs(frame["x"]).sum())
    values = zip(reference["columns"].items(), (x, rng.standard_normal(2000)), strict=True)
    counts = {name: bin_counts(summary, column).tolist() for (name, summary), column in values}
    counts["_score"] = bin_counts(reference["score"], 3 * x).tolist()
    found = estimate(curve, counts)
    assert found is not None
    # counts do not tell that rows moved outwards within their bins too: a part of the rise is not seen, but allowed for
    assert found.loss == pytest.approx(np.abs(x).mean() / 10, rel=0.05)
    assert losses.mean() < found.lower < np.abs(x).mean() / 10 < found.upper


@pytest.mark.parametrize(
    ("scale", "rare"), [(1.0, 0.01), (1.5, 0.01), (1.0, 0.2)], ids=["as before", "further out", "a rare kind"]
)
def test_the_band_of_an_estimated_loss_holds_the_loss(scale: float, rare: float) -> None:
    """99 % is its name: of 120 windows over 60 references 95 % at least, also where the reference has few rows."""

    def drawn(rng: np.random.Generator, n: int, scale: float, rare: float) -> tuple[dict[str, Any], Any]:
        x, kind = (
            scale * rng.standard_normal(n),
            rng.choice(np.array(["a", "b", "c"], object), n, p=[0.6, 0.4 - rare, rare]),
        )
        mean = 0.15 + 0.08 * np.abs(x) + 0.15 * (kind == "c")
        return {"x": x, "kind": kind}, np.minimum(mean * rng.gamma(2.0, 0.5, n), 1.0)

    contract = Contract("m", (Column("x", "float"), Column("kind", "string")), Output("regression"))
    held, plain = list[bool](), list[bool]()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        frame, losses = drawn(rng, 1500, 1.0, 0.01)
        reference = build_reference(contract, frame, frame["x"], losses, 1.0, {"mae": 0.1})
        curve = build_estimate(contract.output, reference, frame, frame["x"][:, None], None, losses)
        assert curve is not None
        without = {key: value for key, value in curve.items() if key != "doubts"}
        for _ in range(2):
            new, truth = drawn(rng, 500, scale, rare)
            counts = {name: bin_counts(reference["columns"][name], new[name]).tolist() for name in new}
            counts["_score"] = bin_counts(reference["score"], new["x"]).tolist()
            for into, made_of in ((held, curve), (plain, without)):
                found = estimate(made_of, counts)
                assert found is not None
                into.append(found.lower < truth.mean() < found.upper)
    assert np.mean(held) >= 0.95
    # the control: a curve of before, without what is in doubt
    assert (np.mean(plain) >= 0.95) == ((scale, rare) == (1.0, 0.01))


def test_too_few_labelled_rows_teach_nothing() -> None:
    """Then there is no estimate, rather than a poor one."""
    p = np.full((999, 2), 0.5)
    assert build_estimate(CLASSES, {}, {}, p, np.zeros(999), np.full(999, 0.25)) is None
