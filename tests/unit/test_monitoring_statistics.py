"""Each statistic against an independent computation, and the windows and verdicts that use them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from monitoring.drift.data_quality import check_column, fisher_p, record_p
from monitoring.drift.drift import (
    benjamini_hochberg,
    cells,
    chi_square_p,
    compare,
    corrected_psi,
    g_statistic,
    severity,
)
from monitoring.drift.verdict import Flags, Rule, Verdict, advance
from monitoring.drift.windows import Window, ladder, merge, scales_of, segments
from monitoring.settings import MonitoringSettings
from monitoring.watching.findings import Finding
from monitoring.watching.quality import ESR, null_level, update

DRIFT = Rule("confirmed", 2, 3, 3)


def test_g_agrees_with_scipy_up_to_its_small_sample_correction() -> None:
    """The log-likelihood ratio is scipy's; Williams' correction makes p larger, by little at these counts."""
    w, q = np.array([40.0, 55.0, 105.0]), np.array([300.0, 330.0, 370.0])
    plain = stats.chi2_contingency(np.array([w, q]), correction=False, lambda_="log-likelihood").pvalue
    assert plain < float(chi_square_p(*g_statistic(w, q))) < 1.1 * plain


def test_fisher_is_exact() -> None:
    """The one-sided p is scipy's."""
    assert math.isclose(
        fisher_p(9, 100, 12, 1000), stats.fisher_exact([[9, 91], [12, 988]], alternative="greater").pvalue
    )


def test_record_p_is_the_share_found_by_drawing() -> None:
    """5 new among the 3 largest of 5 + 12: checked against 40,000 random orders."""
    rng = np.random.default_rng(0)
    hits = sum((rng.permutation(17)[:3] < 5).all() for _ in range(40_000)) / 40_000
    assert abs(hits - record_p(3, 5, 12)) < 0.003


def test_corrected_psi_has_mean_zero_without_drift() -> None:
    """Uncorrected PSI of 100 rows is about 0.1 with nothing wrong; corrected it is about 0."""
    rng = np.random.default_rng(1)
    values = [
        corrected_psi(rng.multinomial(100, [0.1] * 10).astype(float), rng.multinomial(1000, [0.1] * 10).astype(float))
        for _ in range(400)
    ]
    assert abs(float(np.mean(values))) < 0.01


def test_benjamini_hochberg_agrees_with_scipy() -> None:
    """Rejections are those whose adjusted p is under the rate."""
    p = np.random.default_rng(2).uniform(0, 1, 200) ** 6
    assert benjamini_hochberg(p.tolist(), 0.01) == (stats.false_discovery_control(p) <= 0.01).tolist()
    assert benjamini_hochberg([], 0.01) == []


def test_out_of_range_rows_join_the_outer_bins_unless_the_column_is_constant() -> None:
    """The reference has no rows outside its range by construction: such cells would always look drifted."""
    spec = {"kind": "number", "edges": [1.0], "minimum": 0.0, "maximum": 2.0, "counts": [0, 0, 0, 0, 50, 50]}
    assert cells(spec, [1, 2, 3, 4, 5, 6]).tolist() == [1, 2, 8, 10]
    still = {"kind": "number", "edges": [], "minimum": 1.0, "maximum": 1.0, "counts": [0, 0, 0, 0, 1000]}
    assert compare(still, [0, 0, 0, 100, 0]).p < 1e-9
    assert compare(still, [0, 0, 0, 0, 100]).p == 1.0


def test_severity_follows_the_table() -> None:
    """Bounds 0.1 and 0.25."""
    assert [severity(v) for v in (0.03, 0.1, 0.3)] == ["low", "medium", "high"]


COLUMN = {"kind": "number", "edges": [1.0], "minimum": 0.0, "maximum": 2.0}


@pytest.mark.parametrize(
    ("old", "new", "large", "hard"),
    [
        (10, 12, False, False),  # 1 % to 2.4 %: under the floor of two points
        (10, 25, True, False),  # 1 % to 5 %
        (780, 425, False, False),  # 78 % to 85 %: such a column moves by points every day
        (780, 480, True, False),  # 78 % to 96 %
        (0, 500, True, True),  # the column is gone
    ],
)
def test_null_shares_need_significance_and_a_floor(old: int, new: int, large: bool, hard: bool) -> None:
    """500 new rows beside a reference of 1,000."""
    spec = {**COLUMN, "counts": [old, 0, 0, 0, 500 - old // 2, 500 - old + old // 2]}
    check = check_column("x", spec, [new, 0, 0, 0, 500 - new, 0])[0]
    assert (check.fault, check.large, check.hard) == ("null", large, hard)


def test_a_null_share_that_the_reference_reached_in_a_block_is_not_a_fault() -> None:
    """61 % null in all but 95 % on a calm day: 92 % in a window is ordinary, an all-null column is not."""
    spec = {**COLUMN, "counts": [610, 0, 0, 0, 200, 190], "null_peak": 0.95}
    calm, gone = (check_column("gust", spec, [k, 0, 0, 0, 500 - k, 0])[0] for k in (460, 500))
    assert (calm.large, gone.large, gone.hard) == (False, True, False)
    whole = check_column("gust", {**spec, "null_peak": 1.0}, [500, 0, 0, 0, 0, 0])[0]
    assert (whole.large, whole.p < 1e-9) == (False, True)


def test_a_warm_summer_is_out_of_range_but_not_broken() -> None:
    """A third of rows above the reference's maximum is certain drift, and only worth watching here."""
    spec = {**COLUMN, "counts": [0, 0, 0, 0, 500, 500]}
    check = check_column("temp", spec, [0, 0, 0, 170, 0, 330])[-1]
    assert (check.fault, check.large, check.hard, check.breaks) == ("out_of_range", True, False, False)
    assert check.p < 1e-9


def test_unseen_categories_are_measured_against_the_rate_at_which_new_ones_are_due() -> None:
    """2 % unseen is a fault where every level is frequent, and expected where a tenth are seen once."""
    frequent = {"kind": "category", "values": ["a", "b"], "counts": [0, 0, 0, 500, 500]}
    rare = {"kind": "category", "values": ["a"], "others": [], "counts": [0, 0, 100, 900]}
    assert check_column("c", frequent, [0, 10, 0, 245, 245])[1].p < 1e-6
    assert check_column("c", rare, [0, 10, 40, 450])[1].p > 0.5


def test_a_name_must_repeat_to_confirm_and_calm_windows_end_it() -> None:
    """Two different columns are two coincidences; the same one twice in three is not; three calm windows clear."""
    states = []
    verdict = Verdict()
    for names in ("a", "b", "", "c", "", "c", "", "", ""):
        verdict = advance(verdict, Flags(set(names)), DRIFT)
        states.append(verdict.state)
    assert states == ["watch", "watch", "watch", "watch", "watch", "confirmed", "confirmed", "confirmed", "ok"]


def test_a_confirmed_drift_at_half_the_floor_is_not_calm() -> None:
    """Hysteresis: what is nearly drift keeps a confirmed state, and an immediate flag needs no second window."""
    verdict = advance(Verdict(), Flags((), {"x"}), DRIFT)
    assert verdict.state == "confirmed"
    for _ in range(5):
        verdict = advance(verdict, Flags(unsettled=True), DRIFT)
    assert verdict.state == "confirmed"


def test_an_oddity_of_another_kind_does_not_keep_an_alarm_up() -> None:
    """Nulls were mended while summer went on being warm: broken ends, and the warmth is still watched."""
    verdict = advance(Verdict(), Flags((), {"x:null"}, odd=True), Rule("broken", 2, 3, 3))
    for _ in range(3):
        assert verdict.state == "broken"
        verdict = advance(verdict, Flags(odd=True), Rule("broken", 2, 3, 3))
    assert verdict.state == "watch"


@given(
    st.lists(st.floats(0, 500), min_size=1, max_size=120),
    st.lists(st.integers(0, 120), max_size=5),
)
@settings(max_examples=60)
def test_windows_do_not_depend_on_batches(gaps: list[float], cuts: list[int]) -> None:
    """Rows are cut at the same places whatever the batches; closed windows obey both limits."""
    at = np.cumsum(np.array(gaps))

    def closed(edges: list[int]) -> list[list[float]]:
        done: list[list[float]] = []
        held: list[float] = []
        for first, last in pairwise(edges):
            part = at[first:last]
            start = held[0] if held else 0.0
            for s in segments(part, start, len(held), window_rows=20, max_age_s=2000, min_rows=10):
                held = held + part[s.first : s.last].tolist()
                if s.closes:
                    done.append(held)
                    held = []
        return done

    whole = closed([0, len(at)])
    assert closed([0, *sorted(c for c in cuts if c < len(at)), len(at)]) == whole
    for rows in whole:
        assert 10 <= len(rows) <= 20
        assert rows[9] <= rows[-1]
        assert len(rows) == 20 or rows[-1] - rows[0] < 2000 or len(rows) == 10


def test_ladder_pools_the_last_windows_and_merge_is_exact() -> None:
    """Scales sum the newest windows; scales that would repeat a smaller one are left out."""
    closed = [Window(float(i), float(i), 1, {"x": [i, 1]}) for i in range(6)]
    pools = ladder(np.array([window.counts["x"] for window in closed]))
    assert dict(zip(scales_of(6), pools.tolist(), strict=True)) == {1: [5, 1], 4: [14, 4], 16: [15, 6]}
    assert (scales_of(0), scales_of(1), scales_of(64)) == ([], [1], [1, 4, 16, 64])
    assert merge(closed) == Window(0.0, 5.0, 6, {"x": [15, 6]})
    assert merge([merge(closed[4:]), Window(), merge(closed[:4])]) == merge(closed)


def test_null_level_is_the_upper_bound_plus_the_larger_tolerance() -> None:
    """2 points for a small loss, a tenth for a large one, none without losses."""
    quality: dict[str, Any] = {"n": 100, "loss": 0.1, "loss_sd": 0.1}
    assert null_level(quality, 0.02, 0.10) == pytest.approx(0.1 + 0.01645 + 0.02)
    assert null_level({**quality, "loss": 0.5}, 0.02, 0.10) == pytest.approx(0.51645 * 1.1)
    assert null_level({"n": 0, "loss": None}, 0.02, 0.10) is None


@given(st.floats(0.01, 0.95), st.floats(0, 1))
def test_the_detectors_factor_is_an_evalue_at_the_null_level(level: float, spread: float) -> None:
    """For losses of mean h on any two points around h, one step multiplies (M + 1) by at most 1 on average."""
    low, high = level * (1 - spread), level + (1 - level) * spread
    weight = (level - low) / (high - low) if high > low else 0.0
    expected = np.zeros(4)
    for loss, share in ((low, 1 - weight), (high, weight)):
        detector = ESR(level)
        update(detector, loss, 0.0)
        expected += share * np.array(detector.processes)
    assert (expected <= 1 + 1e-9).all()


def test_findings_and_settings_are_read_back_and_checked() -> None:
    """A finding survives JSON; settings that could never act are refused."""
    finding = Finding("m", "feature_drift", "watch", "none", datetime(2026, 1, 2, tzinfo=UTC), {"flagged": ["x"]})
    assert Finding.from_dict(finding.to_dict()) == finding
    with pytest.raises(ValueError, match="no window could close"):
        MonitoringSettings(window_rows=50, min_rows=100)
    with pytest.raises(ValueError, match="nothing could be confirmed"):
        MonitoringSettings(confirm=4)
