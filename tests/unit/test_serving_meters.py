"""Answers that were noted are counted as if each had been counted at once."""

from __future__ import annotations

import random

import pytest
from prometheus_client import CollectorRegistry

from monitoring.alerting.metrics import ServeMetrics
from serving.observed.meters import NOTES, Meters


@pytest.mark.parametrize("answers", [0, 1, NOTES - 1, NOTES, 3 * NOTES + 7])
def test_notes_amount_to_what_the_collectors_would_have_counted(answers: int) -> None:
    """Every counter, bucket and sum, with values on, between and beyond the bounds of the buckets."""
    chance = random.Random(answers)
    noted, plain = ServeMetrics(CollectorRegistry()), ServeMetrics(CollectorRegistry())
    meters = Meters(noted)
    meter = meters.of("m", 1, "champion")
    stages = [plain.stage_duration_seconds.labels("m", stage) for stage in ("parse", "queue", "infer", "encode")]
    whole = plain.request_duration_seconds.labels("m")
    counter = plain.requests_total.labels("m", "1", "champion", "perene", "200")
    bounds = [0.0005, 0.001, 0.01, 1e9]
    for _ in range(answers):
        rows = chance.randint(1, 9)
        parse, queue, infer, encode, took = (chance.choice((chance.random(), chance.choice(bounds))) for _ in range(5))
        meter.answered(rows, parse, infer, encode, took, queue)
        counter.inc()
        plain.rows_total.labels("m").inc(rows)
        for stage, value in zip((*stages, whole), (parse, queue, infer, encode, took), strict=True):
            stage.observe(value)
    plain.rows_total.labels("m").inc(0)
    meters.count()
    meters.count()  # nothing is counted twice
    assert samples(noted) == pytest.approx(samples(plain))


def samples(metrics: ServeMetrics) -> dict[tuple[str, ...], float]:
    """Every sample but the moments at which collectors were made."""
    return {
        (sample.name, *map(str, sorted(sample.labels.items()))): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
