"""What every detector of drift must do, as checks that any one of them can be put through.

The built-in detectors pass them in the tests; `perene drift check module:name` puts another one through.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from monitoring.drift.detectors import Detector, DetectorFailed, Reading
from monitoring.drift.windows import Window, merge
from monitoring.settings import MonitoringSettings
from registry.contract import Column, Contract, Output
from registry.reference import FIRST_CATEGORY, FIRST_NUMBER, INFINITE, NULL, UNSEEN, build_reference

__all__ = ["CHECKS", "Checked", "run"]

ROWS: Final = 2_000
Specs = dict[str, dict[str, Any]]
Check = Callable[[Detector], None]


class Broken(AssertionError):
    """A detector does not do what it must; the message says what."""


@dataclass(frozen=True, slots=True)
class Checked:
    """How one check went; `problem` is empty where all is well."""

    name: str
    ok: bool
    problem: str = ""


def run(detector: Detector) -> list[Checked]:
    """Put a detector through every check."""
    found = []
    for check in CHECKS:
        try:
            check(detector)
        except (Broken, DetectorFailed) as error:
            found.append(Checked(_title(check), ok=False, problem=str(error)))
        except Exception as error:  # the detector is somebody's code: its failure is the answer
            found.append(Checked(_title(check), ok=False, problem=f"it raises {type(error).__name__}"))
        else:
            found.append(Checked(_title(check), ok=True))
    return found


def says_nothing_of_identical_data(detector: Detector) -> None:
    """Windows with exactly the reference's shares: no flag, after one window, or sixteen."""
    specs = _specs()
    closed = [_like(specs, number) for number in range(16)]
    flagged = sorted({r.column for n in (1, 4, 16) for r in _read(detector, specs, closed[:n]) if r.flagged})
    _need(not flagged, f"flags {', '.join(flagged)} where nothing has changed")


def sees_a_column_that_moved_altogether(detector: Detector) -> None:
    """All rows in one bin that held a tenth: that column is flagged, and no other."""
    specs = _specs()
    windows = [_moved(_like(specs, n), specs, "number") for n in range(4)]
    flagged = {r.column for r in _read(detector, specs, windows) if r.flagged}
    _need("number" in flagged, "does not flag a column whose rows all lie in one bin")
    _need(flagged <= {"number"}, f"flags {', '.join(sorted(flagged - {'number'}))}, which did not move")


def is_deterministic(detector: Detector) -> None:
    """The same counts give the same readings, and are left as they are."""
    specs = _specs()
    windows = [_drawn(specs, n) for n in range(4)]
    before = copy.deepcopy((specs, windows))
    first, again = _read(detector, specs, windows), _read(detector, specs, windows)
    _need((specs, windows) == before, "changes what it was given")
    _need(first == again, "answers the same windows differently")


def survives_a_restart(detector: Detector) -> None:
    """What it is given says all: windows that were saved and read again, beside others read in between."""
    import msgspec

    specs = _specs()
    windows = [_drawn(specs, n) for n in range(4)]
    first = _read(detector, specs, windows)
    _read(detector, specs, [_moved(window, specs, "number") for window in windows])
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(windows), type=list[Window])
    _need(_read(detector, specs, saved) == first, "remembers other windows")


def takes_merged_windows(detector: Detector) -> None:
    """Two halves of a window, counted apart and merged, are that window."""
    specs = _specs()
    halves = [_drawn(specs, n) for n in range(2)]
    counts = {name: (np.array(halves[0].counts[name]) + np.array(halves[1].counts[name])).tolist() for name in specs}
    whole = Window(halves[0].start, halves[1].end, 2 * ROWS, counts)
    _need(_read(detector, specs, [merge(halves)]) == _read(detector, specs, [whole]), "tells merged windows apart")


def does_not_mind_the_order_of_columns(detector: Detector) -> None:
    """Columns in another order have the same readings."""
    specs = _specs()
    windows = [_moved(_drawn(specs, n), specs, "number") for n in range(4)]
    turned = dict(reversed(specs.items()))
    key = _by_column
    _need(
        sorted(_read(detector, specs, windows), key=key) == sorted(_read(detector, turned, windows), key=key),
        "reads columns differently in another order",
    )


def bears_bad_columns(detector: Detector) -> None:
    """All null, all infinite, all unseen, constant, and nothing at all: readings with numbers, and no exception."""
    specs = _specs()
    for name, place in (("number", NULL), ("number", INFINITE), ("category", UNSEEN), ("constant", NULL)):
        window = _like(specs, 0)
        window.counts[name] = _all_in(len(window.counts[name]), place)
        _read(detector, specs, [window] * 3)
    blank = Window(0.0, 3600.0, ROWS, {name: [0] * len(spec["counts"]) for name, spec in specs.items()})
    _need(_read(detector, specs, [blank] * 3) == [], "reads columns that have no rows")
    _read(detector, {"empty": specs["empty"]}, [_like(specs, 0)] * 3)


def bears_a_reference_of_few_rows(detector: Detector) -> None:
    """Thirty rows of reference: readings with numbers."""
    specs = _specs(30)
    _read(detector, specs, [_drawn(_specs(), n, specs) for n in range(4)])


CHECKS: Final[tuple[Check, ...]] = (
    says_nothing_of_identical_data,
    sees_a_column_that_moved_altogether,
    is_deterministic,
    survives_a_restart,
    takes_merged_windows,
    does_not_mind_the_order_of_columns,
    bears_bad_columns,
    bears_a_reference_of_few_rows,
)


def _need(met: bool, problem: str) -> None:  # noqa: FBT001 - as `assert` takes it
    if not met:
        raise Broken(problem)


def _read(detector: Detector, specs: Specs, closed: Sequence[Window]) -> list[Reading]:
    """Readings that are well formed."""
    found = detector(specs, closed, MonitoringSettings())
    for reading in found:
        _need(reading.column in specs, "reads a column that is none")
        _need(math.isfinite(reading.psi) and 0.0 <= reading.p <= 1.0, f"gives no number for {reading.column}")
    order = list(specs)
    places = [order.index(reading.column) for reading in found]
    _need(places == sorted(places), "does not read columns in their order")
    return found


def _specs(rows: int = ROWS) -> Specs:
    """Descriptions of columns, as a reference holds them: plain ones, a constant, one without a value."""
    rng = np.random.default_rng(7)
    frame = {
        "number": rng.standard_normal(rows),
        "category": np.array(["a", "b", "c"], dtype=object)[rng.integers(0, 3, rows)],
        "constant": np.ones(rows),
        "empty": np.full(rows, np.nan),
        "flag": rng.integers(0, 2, rows).astype(float),
    }
    kinds = {"category": "string"}
    columns = tuple(Column(name, kinds.get(name, "float"), nullable=True) for name in frame)  # type: ignore[arg-type]
    contract = Contract("checked", columns, Output("regression"))
    made = build_reference(contract, frame, np.zeros(rows), np.zeros(rows), 1.0, {})
    found: Specs = made["columns"]
    return found


def _like(specs: Specs, number: int) -> Window:
    """A window with the reference's own counts."""
    counts = {name: list(spec["counts"]) for name, spec in specs.items()}
    return Window(3600.0 * number, 3600.0 * (number + 1), ROWS, counts)


def _drawn(specs: Specs, number: int, into: Specs | None = None) -> Window:
    """A window drawn from the reference's shares."""
    rng = np.random.default_rng(number)
    window = _like(specs, number)
    for name, spec in specs.items():
        shares = np.array(spec["counts"], float) / sum(spec["counts"])
        drawn = rng.multinomial(ROWS, shares).tolist()
        width = len((into or specs)[name]["counts"])
        window.counts[name] = (drawn + [0] * width)[:width]
    return window


def _moved(window: Window, specs: Specs, name: str) -> Window:
    """The same with all rows of a column in its last bin."""
    place = FIRST_NUMBER if specs[name]["kind"] == "number" else FIRST_CATEGORY
    counts = {**window.counts, name: _all_in(len(window.counts[name]), max(place, len(window.counts[name]) - 1))}
    return Window(window.start, window.end, window.rows, counts)


def _all_in(width: int, place: int) -> list[int]:
    return [ROWS if i == place else 0 for i in range(width)]


def _by_column(reading: Reading) -> tuple[str, int]:
    return reading.column, reading.scale


def _title(check: Check) -> str:
    return str(getattr(check, "__name__", "check")).replace("_", " ")
