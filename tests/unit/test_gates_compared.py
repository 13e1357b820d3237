"""The gates that compare two versions on a holdout: what each finds, what it lets through, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from registry.contract import Column
from registry.errors import ConversionRefused
from retrain.evidence import gate_evidence, replay
from retrain.gates.gates import Gate, held, passed
from retrain.gates.judge import compare
from retrain.gates.side import Floats, Side
from tests.unit.gate_sides import CLASSES, NUMBER, case, classified, linear, noisy, rows, settings, side

GOOD = side(NUMBER, noisy(1.0))


def judged(champion: Side, candidate: Side, frame: pd.DataFrame, target: str = "y", **limits: Any) -> dict[str, Gate]:
    gates, _ = compare(champion, candidate, case(frame, settings(target, **limits)))
    assert replay(json.loads(json.dumps(gate_evidence("r", gates, {}))))
    return {gate.gate: gate for gate in gates}


def verdict(gate: str, champion: Side, candidate: Side, frame: pd.DataFrame | None = None, **limits: Any) -> str:
    target = "k" if champion.contract.output.kind == "classification" else "y"
    found = judged(champion, candidate, rows() if frame is None else frame, target, **limits)[gate]
    assert "could not be measured" not in found.reason, found.reason
    return found.verdict


# slices


def test_a_slice_that_pays_for_the_rest_is_found() -> None:
    """Better on the whole, worse for one group: it fails, and says for whom."""
    candidate = side(
        NUMBER, lambda frame: np.where((frame["g"] == "b").to_numpy()[:, None], noisy(3.0)(frame), linear(frame))
    )
    champion = side(NUMBER, noisy(2.0))
    found = judged(champion, candidate, rows())
    assert found["slices"].verdict == "fail"
    assert found["slices"].reason.startswith("g: b is worse by")
    assert not passed(list(found.values()))


def test_equal_models_have_no_worse_slice() -> None:
    assert verdict("slices", GOOD, side(NUMBER, noisy(1.0, seed=7))) == "pass"


def test_small_slices_are_shown_and_not_judged() -> None:
    """30 rows of a group say nothing, and are named all the same where the owner asked for them."""
    found = judged(GOOD, side(NUMBER, noisy(9.0, where="c")), rows(), slices=["g"], automatic_slices=False)["slices"]
    assert found.verdict == "pass"
    small = next(entry for entry in found.inputs["slices"] if entry["value"] == "c")
    assert small["rows"] < 100
    assert "mean" not in small


def test_a_slice_that_does_not_exist_is_no_pass() -> None:
    found = judged(GOOD, GOOD, rows(), slices=["nobody"])["slices"]
    assert (found.verdict, found.reason) == ("insufficient", "the contract has no column 'nobody'")


def test_what_the_log_may_not_keep_is_in_no_evidence() -> None:
    """Groups of a hashed column are numbered: their values are nobody's to read."""
    hidden = replace(NUMBER, columns=tuple(replace(c, policy="hash") if c.name == "g" else c for c in NUMBER.columns))
    frame = rows().replace({"g": {"a": "Anna Secret"}})
    version = side(hidden, noisy(1.0))
    found = judged(version, version, frame, slices=["g"], fairness=["g"])
    assert "Secret" not in json.dumps([gate.to_dict() for gate in found.values()])
    assert {entry["value"] for entry in found["slices"].inputs["slices"]} >= {"part 1", "part 2"}


# calibration


def test_overconfidence_fails_and_noise_does_not() -> None:
    champion = side(CLASSES, classified(1.0))
    assert verdict("calibration", champion, side(CLASSES, classified(3.0))) == "fail"
    for seed in range(20):
        frame, other = rows(1_000, seed=seed), np.random.default_rng(seed).normal(0, 0.03, 1_000)

        def equal(part: pd.DataFrame, moved: Floats = other) -> Floats:
            p = np.clip(classified(1.0)(part)[:, 1] + moved[part.index.to_numpy()], 0, 1)
            return np.column_stack([1 - p, p])

        others = ["latency", "robustness", "leakage"]
        assert verdict("calibration", champion, side(CLASSES, equal), frame, off=others) == "pass"


def test_a_regression_that_is_off_by_as_much_everywhere_fails() -> None:
    assert verdict("calibration", GOOD, side(NUMBER, lambda frame: noisy(1.0)(frame) + 1.0)) == "fail"


def test_scores_have_no_calibration() -> None:
    scored = replace(CLASSES, output=replace(CLASSES.output, scores=("decision",)))
    version = side(scored, lambda frame: np.eye(2)[(frame["x"] > 5).to_numpy().astype(int)])
    assert verdict("calibration", version, version) == "not applicable"


# robustness


def fragile(frame: pd.DataFrame) -> Floats:
    """Fine on the rows as they are; without an answer wherever a number has an odd digit."""
    return np.where(
        (frame["z"].to_numpy() == ROWS["z"].reindex(frame.index).to_numpy())[:, None], linear(frame), np.nan
    )


ROWS = rows()


def test_no_answer_on_disturbed_rows_is_the_worst_answer() -> None:
    assert verdict("robustness", GOOD, side(NUMBER, fragile)) == "fail"


def test_a_version_that_falls_over_fails() -> None:
    def strict(frame: pd.DataFrame) -> Floats:
        if not set(frame["g"]) <= {"a", "b", "c"}:
            raise ConversionRefused("unknown category")
        return linear(frame)

    found = judged(GOOD, side(NUMBER, strict), rows())["robustness"]
    assert found.verdict == "fail"
    assert "unseen category: the candidate does not answer" in found.reason


def test_both_bear_it_alike() -> None:
    assert verdict("robustness", GOOD, side(NUMBER, noisy(1.0, seed=3))) == "pass"


def test_nothing_to_disturb_is_not_applicable() -> None:
    contract = replace(NUMBER, columns=(Column("b", "bool"),))
    version = side(contract, lambda frame: np.zeros((len(frame), 1)))
    assert verdict("robustness", version, version, rows().assign(b=True)) == "not applicable"


# fairness


def test_a_wider_gap_fails_and_the_same_gap_passes() -> None:
    unfair = side(NUMBER, noisy(4.0, where="b"))
    assert verdict("fairness", GOOD, unfair, fairness=["g"]) == "fail"
    assert verdict("fairness", unfair, unfair, fairness=["g"]) == "pass"
    assert verdict("fairness", unfair, GOOD, fairness=["g"]) == "pass"


def test_groups_that_are_too_small_or_absent_are_no_pass() -> None:
    assert verdict("fairness", GOOD, GOOD, fairness=["nobody"]) == "insufficient"
    assert verdict("fairness", GOOD, GOOD, rows(300), fairness=["g"], slice_min_rows=200) == "insufficient"


def test_without_declared_groups_it_is_not_applicable() -> None:
    assert verdict("fairness", GOOD, GOOD) == "not applicable"


# leakage


def leaky(frame: pd.DataFrame) -> Floats:
    return frame["z"].to_numpy(np.float64).reshape(-1, 1)


def test_a_label_in_a_feature_asks_for_a_person() -> None:
    frame = rows()
    frame["z"] = frame["y"]
    found = judged(GOOD, side(NUMBER, leaky), frame)
    assert found["leakage"].verdict == "human"
    assert "'z' is 100%" in found["leakage"].reason
    assert held(list(found.values()))
    assert not passed(list(found.values()))


def test_what_the_champion_lives_on_too_is_the_nature_of_the_problem() -> None:
    assert verdict("leakage", side(NUMBER, lambda frame: linear(frame) + 10.0), GOOD) == "pass"


def test_an_order_that_is_suddenly_far_better_asks_for_a_person() -> None:
    blunt = side(CLASSES, lambda frame: classified(1.0)(frame)[np.random.default_rng(0).permutation(len(frame))])
    assert verdict("leakage", blunt, side(CLASSES, classified(1.0))) == "human"


# whatever comes

Odd = Callable[[pd.DataFrame], pd.DataFrame]
ODD: dict[str, Odd] = {
    "a column of nulls": lambda f: f.assign(x=np.nan),
    "a constant column": lambda f: f.assign(x=1.0, g="a"),
    "thirty rows": lambda f: f.head(30),
    "one row": lambda f: f.head(1),
    "no rows": lambda f: f.head(0),
    "each row forty times": lambda f: f.iloc[np.repeat(np.arange(50), 40)].reset_index(drop=True),
    "one day": lambda f: f.assign(_at=f["_at"].iloc[0]),
    "infinities": lambda f: f.assign(z=np.inf),
    "one class": lambda f: f.assign(k="yes"),
    "unknown classes": lambda f: f.assign(k="perhaps"),
    "huge numbers": lambda f: f.assign(z=1e30, y=1e30),
}
ANSWERS: dict[str, Callable[[pd.DataFrame], Floats]] = {
    "constant": lambda f: np.zeros((len(f), 2)) + 0.5,
    "none": lambda f: np.full((len(f), 2), np.nan),
    "some": lambda f: np.where((np.arange(len(f)) % 2 == 0)[:, None], 0.5, np.nan) * np.ones((1, 2)),
    "infinite": lambda f: np.full((len(f), 2), np.inf),
}


def narrowed(answer: Callable[[pd.DataFrame], Floats], columns: int, frame: pd.DataFrame) -> Floats:
    return answer(frame)[:, :columns]


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_odd_rows_and_odd_answers_get_a_verdict(odd: Odd, answer: Callable[[pd.DataFrame], Floats]) -> None:
    """Never a traceback, never a pass for a version that answers nothing, and always the same verdict again."""
    frame = odd(rows(600))
    for contract, target, good in ((NUMBER, "y", noisy(1.0)), (CLASSES, "k", classified(1.0))):
        champion = side(contract, good)
        odd_one = side(contract, partial(narrowed, answer, 1 if contract is NUMBER else 2))
        found = judged(champion, odd_one, frame, target, fairness=["g"])
        assert len(found) == 8
        assert not passed(list(found.values()))
        judged(odd_one, champion, frame, target, fairness=["g"])


def test_rows_left_out_count_as_wrong() -> None:
    """A version that answers only the easy half is not better for it."""
    easy = side(NUMBER, lambda f: np.where((f["x"] < 5).to_numpy()[:, None], linear(f), np.nan))
    assert verdict("non_inferiority", GOOD, easy) == "fail"
    assert verdict("non_inferiority", easy, GOOD) == "pass"


def test_the_same_row_forty_times_is_one_row() -> None:
    """Fifty rows are rarely luck enough; control: repeats that are told apart pass for proof."""

    def passes(*, together: bool) -> int:
        count = 0
        for seed in range(40):
            frame = rows(50, seed=seed).assign(_at=pd.Timestamp("2013-06-01", tz="UTC"))
            repeated = frame.iloc[np.repeat(np.arange(50), 40)]
            if not together:
                repeated = repeated.assign(y=repeated["y"] + np.linspace(0, 1e-9, len(repeated)))
            versions = (side(NUMBER, noisy(1.0, seed=seed)), side(NUMBER, noisy(1.0, seed=1_000 + seed)))
            limits = ["slices", "calibration", "robustness", "latency", "leakage", "alpha"]
            gates, _ = compare(*versions, case(repeated, settings(off=limits)))
            count += gates[0].verdict == "pass"
        return count

    assert passes(together=True) <= 6
    assert passes(together=False) >= 12


def test_a_gate_that_is_off_is_seen_and_stops_nobody() -> None:
    found = judged(side(NUMBER, noisy(2.0)), side(NUMBER, linear), rows(), off=["slices", "alpha"])
    assert {found[name].verdict for name in ("slices", "alpha")} == {"not applicable"}
    assert found["slices"].reason == "switched off"
    assert passed(list(found.values()))
