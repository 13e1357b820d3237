"""Usage from the lake: each answer once, by the day it arrived; bills add up and are safe to open."""

from __future__ import annotations

import csv
import io
import json
import random
from collections import Counter
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from monitoring.lake import upkeep
from monitoring.lake.lake import Key, Lake
from monitoring.reading.usage import Used, Whose, usage
from perene.cli import app
from perene.usage import bill, csv_text
from perene.usage_settings import UsageSettings
from registry.contract import Column, Contract, Output
from registry.errors import ConfigInvalid
from registry.keys import new_key
from registry.ledger import Ledger
from tests.integration.recorded_toy import DAY, NOON, Recorder, plain_rows

COLUMNS = (Column("temp", "float", nullable=True), Column("hour", "int"), Column("late", "bool"))
CONTRACT = Contract("toy", (*COLUMNS, Column("carrier", "string")), Output("regression"))
MARCH = date(2026, 3, 1)


def _recorded(lake: Lake, *, seed: int = 1) -> Counter[tuple[str, date, str]]:
    """Two processes, two versions and three keys on three days; what they answered."""
    dice, known = random.Random(seed), Counter[tuple[str, date, str]]()
    recorders = [Recorder(lake, CONTRACT, boot=f"b{n}", version=1 + n % 2) for n in range(4)]
    for n in range(60):
        rows, size, day = dice.randrange(1, 40), dice.randrange(1, 9), dice.randrange(3)
        key, behind = dice.choice(("k1", "k2", "k3")), dice.choice((0, 0, 40 * DAY, -0.9 * DAY))
        arrived = NOON + day * DAY + n
        recorder = dice.choice(recorders)
        recorder.requests(plain_rows(rows), at=arrived - behind, received=arrived, size=size, key=key)
        whose = date.fromordinal(MARCH.toordinal() + day)
        known.update({(key, whose, "rows"): rows, (key, whose, "requests"): -(-rows // size)})
    return known


def _counted(lake: Lake, **window: int | None) -> Counter[tuple[str, date, str]]:
    found = Counter[tuple[str, date, str]]()
    for whose, used in usage(lake, **{"low": None, "high": None, **window}).items():
        found.update({(whose.key, whose.day, "rows"): used.rows, (whose.key, whose.day, "requests"): used.requests})
        assert used.latency_us == used.requests * 1_500
    return found


def test_usage_is_by_arrival_whatever_event_time_callers_send(tmp_path: Path) -> None:
    """Rows that say they are of forty days ago, or of tomorrow, are of the day on which they came."""
    lake = Lake(tmp_path)
    known = _recorded(lake)
    assert _counted(lake) == known
    second = int((NOON + DAY / 2) * 1e6)
    some = _counted(lake, low=second, high=second + int(DAY * 1e6))
    assert some == Counter({whose: count for whose, count in known.items() if whose[1] == date(2026, 3, 2)})
    assert list(usage(lake, low=None, high=None)) == sorted(usage(lake, low=None, high=None))


def test_rows_that_lie_in_two_files_are_counted_once(tmp_path: Path) -> None:
    """Halves and wholes of files beside them, and a merge that was killed before the old files went."""
    lake = Lake(tmp_path)
    known = _recorded(lake)
    for key in lake.files("toy", "prediction")[::4]:
        table = lake.read("toy", "prediction", files=[key])
        half = table.num_rows // 2 // 8 * 8
        for name, part in (("0", table), ("1", table.slice(0, max(1, half)))):
            lake.storage.write(key.with_name(f"{name}{key.name}"), lake.encoded(key, part))
    assert _counted(lake) == known
    merges = list(
        upkeep.merges("toy", "prediction", lake.files("toy", "prediction"), before=date(2026, 4, 9), rows=lake.rows)
    )
    assert merges

    class Killed(BaseException):
        pass

    def kill(_: Key) -> None:
        raise Killed

    for merge in merges:
        with pytest.raises(Killed):
            upkeep.carry_out(lake, merge, between=kill)
        assert _counted(lake) == known
        upkeep.carry_out(lake, merge)
    assert _counted(lake) == known


def test_control_a_count_of_bare_files_sees_rows_twice(tmp_path: Path) -> None:
    """What the test above would catch."""
    lake = Lake(tmp_path)
    _recorded(lake)
    before = sum(lake.rows(key) for key in lake.files("toy", "prediction"))
    [key, *_] = lake.files("toy", "prediction")
    lake.storage.write(key.with_name(f"0{key.name}"), lake.encoded(key, lake.read("toy", "prediction", files=[key])))
    assert sum(lake.rows(key) for key in lake.files("toy", "prediction")) > before
    assert sum(count for whose, count in _counted(lake).items() if whose[2] == "rows") == before


def test_shadow_answers_and_labels_are_free(tmp_path: Path) -> None:
    """Nobody asked for them."""
    lake = Lake(tmp_path)
    recorder = Recorder(lake, CONTRACT)
    recorder.requests(plain_rows(10))
    recorder.labels(recorder.ids, 1.0)
    [key] = lake.files("toy", "prediction")
    shadow = Key("model=toy", "kind=shadow", *key.parts[2:])
    lake.storage.write(shadow, lake.encoded(shadow, lake.read("toy", "prediction")))
    assert list(usage(lake, low=None, high=None).values()) == [Used(2, 10, 3_000)]


def _used() -> dict[Whose, Used]:
    dice = random.Random(2)
    return {
        Whose(key, model, date(2026, 3, day)): Used(dice.randrange(9), dice.randrange(10**9), dice.randrange(10**12))
        for key in ("k1", "k2", "k3")
        for model in ("a", "b")
        for day in range(1, 20)
    }


PRICES = UsageSettings.model_validate(
    {"price_per_1000_rows": "0.1", "models": {"a": "0.333333333"}, "keys": {"k2": "1E-9"}, "currency": "EUR"}
)


def test_every_roll_up_adds_up_to_the_same_digits() -> None:
    """Binary fractions would not: 0.1 is none."""
    used, totals = _used(), set()
    for by in (("key", "model", "day"), ("day",), ("model", "key"), ("key",)):
        rows = bill(used, by=by, prices=PRICES, labels={})
        assert [tuple(r[n] for n in by) for r in rows] == sorted(tuple(r[n] for n in by) for r in rows)
        totals.add(
            (
                sum(row["rows"] for row in rows),
                sum(Decimal(row["cost"]) for row in rows),
                sum(Decimal(row["latency_seconds"]) for row in rows),
            )
        )
    [(_, cost, _)] = totals
    assert cost == sum(PRICES.price(w.key, w.model) * u.rows / 1000 for w, u in used.items())
    assert PRICES.price("k2", "a") == Decimal("1E-9")


@pytest.mark.parametrize("price", ["-1", "NaN", "Infinity", "1e99", "a lot"])
def test_prices_that_are_none_are_refused(price: str) -> None:
    """By pydantic, so that the command names file, line and key."""
    with pytest.raises(ValueError, match="price_per_1000_rows"):
        UsageSettings.model_validate({"price_per_1000_rows": price})


@pytest.mark.parametrize("label", ["=1+1", "+1", "-1", "@cmd", "\t=1", "\r=1", "\n=1"])
def test_labels_are_no_formulas_in_a_spreadsheet(label: str) -> None:
    """Whatever a person called a key; other texts and numbers are as they are."""
    rows: list[dict[str, Any]] = [{"label": label, "rows": -3}, {"label": 'a,"b"', "rows": 4}]
    [_, first, second] = csv.reader(io.StringIO(csv_text(rows, ["label", "rows"])))
    assert first == [f"'{label}".replace("\r", " "), "-3"]
    assert second == ['a,"b"', "4"]


def test_the_command_names_keys_and_refuses_other_columns(tmp_path: Path) -> None:
    """Data on stdout, as CSV or JSON; other roll-ups and moments are wrong use."""
    home = tmp_path / "home"
    _, record = new_key("=shop", {"predict"})
    home.mkdir()
    with closing(Ledger.open(f"sqlite:///{home / 'ledger.db'}")) as ledger:
        ledger.add_key(record)
    Recorder(Lake(home / "events"), CONTRACT).requests(plain_rows(10), key=record.id)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["usage", "--home", str(home), *arguments])

    found = run("--since", "2026-03-01", "--csv")
    assert found.exit_code == 0, found.stderr
    head = "key,label,model,day,requests,rows,latency_seconds,cost,currency"
    assert found.stdout.splitlines() == [head, f"{record.id},'=shop,toy,2026-03-01,2,10,0.003,0,"]
    assert json.loads(run("--since", "2026-03-01", "--by", "day", "--json").stdout) == [
        {"day": "2026-03-01", "requests": 2, "rows": 10, "latency_seconds": "0.003", "cost": "0", "currency": ""}
    ]
    assert json.loads(run("--since", "2026-03-02", "--json").stdout) == []
    for wrong in (
        ("--by", "entity"),
        ("--by", "key,key"),
        ("--csv", "--json"),
        ("--since", "soon"),
        ("--since", "2030-01-01"),
    ):
        assert isinstance(run(*wrong).exception, ConfigInvalid), wrong
