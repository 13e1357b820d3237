"""The monitor: a deterministic fold of events into findings, for one model and one champion version.

Its state is counts, a join book and four numbers; restored from bytes it goes on exactly as if it had never
stopped. A new champion gets a new monitor: a performance alarm therefore stands until the champion changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any, Final, Self

import msgspec
import numpy as np
import pyarrow as pa

from monitoring.drift.assess import SCORE, SHOWN, Assessment, assess
from monitoring.drift.cause import explain
from monitoring.drift.drift import severity
from monitoring.drift.verdict import Flags, Rule, Verdict, advance
from monitoring.drift.windows import DEPTH, Segment, Window, extend, segments
from monitoring.lake.consumed import Consumed
from monitoring.reading import tables
from monitoring.settings import MonitoringSettings
from monitoring.watching import estimated, quality, slices
from monitoring.watching import labels as join
from monitoring.watching.facts import EXPECTED, estimated_facts, performance_facts, snapshot
from monitoring.watching.findings import KINDS, Finding, Kind, Severity, State
from monitoring.watching.known import event_at
from monitoring.watching.reasons import MIN_REFERENCE
from monitoring.watching.state import Gauges, MonitorState
from registry.contract import Contract
from registry.errors import ConfigInvalid
from registry.estimate import confidence
from registry.reference import bin_counts

FORMAT: Final = 1
WATCH_SHARE: Final = 0.1
"""Share of the alarm's e-value at which performance is watched; a tenth of that ends the watch."""
MIN_ESTIMATED: Final = 100
"""Answers of the champion in a window below which its quality is not estimated."""


class Monitor:
    """Watches one champion. See `start`, `observe`, `state` and `snapshot`."""

    def __init__(
        self, state: MonitorState, contract: Contract, reference: dict[str, Any], settings: MonitoringSettings
    ) -> None:
        self._state = state
        self._contract = contract
        self._reference = reference
        self._settings = settings
        self._specs: dict[str, dict[str, Any]] = {**reference["columns"], SCORE: reference["score"]}
        self._curve: dict[str, Any] | None = reference.get("estimate")
        self._sliced = slices.columns_of(reference)
        for kind in KINDS:  # a state saved before there was this kind
            state.verdicts.setdefault(kind, Verdict())

    @classmethod
    def start(
        cls,
        model: str,
        version: int,
        contract: Contract,
        reference: dict[str, Any],
        settings: MonitoringSettings,
    ) -> Self:
        """A monitor that has seen nothing yet."""
        level = quality.null_level(reference["quality"], settings.tolerance, settings.tolerance_relative)
        state = MonitorState(
            FORMAT, model, version, _digest(reference), quality.ESR(level) if level is not None else None
        )
        state.verdicts = {kind: Verdict() for kind in KINDS}
        state.slices = slices.begin(reference, settings)
        return cls(state, contract, reference, settings)

    @classmethod
    def restore(cls, body: bytes, contract: Contract, reference: dict[str, Any], settings: MonitoringSettings) -> Self:
        """The monitor that `state` was taken from.

        Raises:
            ConfigInvalid: the bytes are no monitor's state, or belong to another reference.
        """
        try:
            state = msgspec.msgpack.decode(body, type=MonitorState)
        except msgspec.DecodeError as error:
            raise ConfigInvalid("the saved state is not a monitor's", where="state", hint="start anew") from error
        if state.format != FORMAT or state.reference != _digest(reference):
            raise ConfigInvalid(
                "the saved monitor was made with another reference or format",
                where="state",
                expected=f"format {FORMAT}, reference {_digest(reference)[:12]}",
                got=f"format {state.format}, reference {state.reference[:12]}",
                hint="start a new monitor",
            )
        return cls(state, contract, reference, settings)

    @property
    def version(self) -> int:
        """The champion's version."""
        return self._state.version

    def inherit(self, body: bytes) -> None:
        """Take over, from the state of the former champion's monitor, parked labels and how long labels take.

        What was left by another format is left alone.
        """
        with contextlib.suppress(msgspec.DecodeError):
            join.inherit(self._state.book, msgspec.msgpack.decode(body, type=MonitorState).book)

    @property
    def given_up(self) -> tuple[str, ...]:
        """Ids of labels whose prediction did not come while they were parked, until `settled`."""
        return tuple(self._state.book.given_up)

    @property
    def received(self) -> float:
        """When the newest event was received, unix seconds."""
        return self._state.book.received

    def settled(self, identifiers: Collection[str]) -> int:
        """Forget labels that were given up: somebody has looked for their predictions.

        Returns:
            How many more were given up, in a flood, than there was room to remember.
        """
        book = self._state.book
        book.given_up = [i for i in book.given_up if i not in identifiers]
        flood, book.unlooked = book.unlooked, 0
        return flood

    @property
    def consumed(self) -> Consumed:
        """The lake files that the caller has marked as observed; kept in the state."""
        return Consumed(frozenset(self._state.consumed), self._state.marks)

    def mark_consumed(self, names: Iterable[str]) -> None:
        """Add lake files to `consumed`; save the state afterwards, in one step with the findings."""
        self._keep(self.consumed.add(names))

    def settle_consumed(self, listing: Iterable[str]) -> None:
        """Keep `consumed` small; `listing` are all files, as `Consumed.settled` wants them."""
        self._keep(self.consumed.settled(listing))

    def _keep(self, consumed: Consumed) -> None:
        self._state.consumed, self._state.marks = sorted(consumed.names), dict(sorted(consumed.marks.items()))

    def state(self) -> bytes:
        """Everything needed by `restore`; equal monitors have equal bytes."""
        return msgspec.msgpack.encode(self._state, order="deterministic")

    def observe(self, predictions: pa.Table, labels: pa.Table, *, all_made: bool = True) -> list[Finding]:
        """Fold in new events, in lake format; returns findings for states that changed, oldest first.

        Predictions are put in event order within the call and are expected in that order between calls. Without
        `all_made` more of them wait, so no label is given up: what it is about may be among those.
        """
        rows = tables.served(predictions)
        findings, due = self._fold_predictions(rows)
        findings += self._fold_labels(labels, due)
        if all_made:
            join.give_up(self._state.book, self._settings.park_hours * 3_600)
        join.trim(self._state.book, self._settings.max_pending)
        return sorted(findings, key=lambda finding: (finding.at, KINDS.index(finding.kind)))

    # predictions ------------------------------------------------------------------------------------------

    def _fold_predictions(self, rows: pa.Table) -> tuple[list[Finding], list[str]]:
        if rows.num_rows:
            rows = self._own(rows)
        if not rows.num_rows:
            return [], []
        s, settings = self._state, self._settings
        # a row dated ahead of its arrival would open a window that never comes of age
        received = tables.arrivals(rows)
        at = np.minimum(tables.seconds(rows, "_at"), received)
        mine = tables.floats(rows, "_version") == s.version
        outputs = tables.outputs(rows, self._contract.output)
        scores = tables.scores(self._contract.output, outputs, self._specs[SCORE]["kind"])
        fine = self._curve is not None and self._curve["kind"] == "calibration"
        confidences = confidence(outputs) if fine else None
        columns = {n: tables.feature(rows, n, v["kind"]) for n, v in self._reference["columns"].items()}

        def count(first: int, last: int) -> dict[str, list[int]]:
            found = {n: bin_counts(self._specs[n], v[first:last]).tolist() for n, v in columns.items()}
            found[SCORE] = bin_counts(self._specs[SCORE], scores[first:last][mine[first:last]]).tolist()
            if confidences is not None:
                found[estimated.FINE] = estimated.counted(self._curve, confidences[first:last][mine[first:last]]) or []
            return found

        findings: list[Finding] = []
        cuts = segments(
            at,
            s.open.start,
            s.open.rows,
            window_rows=settings.window_rows,
            max_age_s=settings.window_max_age_s,
            min_rows=settings.min_rows,
        )
        for segment in cuts:
            findings += self._grow(segment, at, count)
        identifiers = tables.objects(rows, "_id")
        sliced = slices.parts(self._reference, self._sliced, columns, len(identifiers))
        made = (
            (identifiers[i], float(at[i]), float(received[i]), outputs[i].tolist(), sliced[i])
            for i in np.flatnonzero(mine)
        )
        early = join.add_predictions(s.book, made)
        join.add_others(s.book, ((identifiers[i], float(at[i])) for i in np.flatnonzero(~mine)))
        return findings, early

    def _own(self, rows: pa.Table) -> pa.Table:
        """The rows that are counted; of others only ids are remembered, and how many they were."""
        s, foreign = self._state, tables.of_others(rows, self.version)
        self._seen(tables.seconds(rows, "_at"), tables.arrivals(rows))
        if not foreign.any():
            return rows
        left_out = rows.filter(pa.array(foreign))
        at = tables.seconds(left_out, "_at").tolist()
        join.add_others(s.book, zip(tables.objects(left_out, "_id"), at, strict=True))
        s.book.tally.foreign += len(at)
        return rows.filter(pa.array(~foreign))

    def _grow(self, segment: Segment, at: Any, count: Any) -> list[Finding]:
        s = self._state
        s.open = extend(s.open, segment, at, count)
        if not segment.closes:
            return []
        window, s.open = s.open, Window()
        s.closed = [*s.closed, window][-DEPTH:]
        s.windows += 1
        drifting = {name for kind in ("feature_drift", "score_drift") for name in s.verdicts[kind].held}
        found = assess(self._specs, s.closed, self._settings, alarmed=drifting)
        flagged = [*found.features.names, *(found.score.names if found.score else ())]
        s.gauges = Gauges(found.psi, sorted(flagged), found.null_ratio, found.unseen_ratio)
        return self._judge(found, window)

    def _judge(self, found: Assessment, window: Window) -> list[Finding]:
        rules = {"data_quality": self._rule("broken")}
        flags: dict[Kind, Flags] = {"data_quality": found.data}
        if self._reference["rows"] >= MIN_REFERENCE:
            flags["feature_drift"] = found.features
            flags |= {"score_drift": found.score} if found.score is not None else {}
        level = self._null_level()
        if self._curve is not None and level is not None and sum(window.counts.get(SCORE, ())) >= MIN_ESTIMATED:
            flags["estimated"] = estimated.flags(self._curve, self._state.closed, level)
        findings = []
        for kind, value in flags.items():
            verdict = advance(self._verdict(kind), value, rules.get(kind, self._rule("confirmed")))
            change = self._settle(kind, verdict, found, window)
            if change is not None:
                findings.append(change)
        return findings

    def _settle(self, kind: Kind, verdict: Verdict, found: Assessment, window: Window) -> Finding | None:
        before = self._verdict(kind)
        if verdict.state in ("confirmed", "broken"):
            names = set(verdict.confirmed)
            largest = max((r["psi"] for r in found.ranked if r["column"] in names), default=0.0)
            # an estimate is a warning, however far it falls
            fixed: dict[Kind, Severity] = {"data_quality": "high", "estimated": "low"}
            now = fixed.get(kind, severity(largest))
            verdict.severity = now if verdict.calm == 0 else before.severity
        self._state.verdicts[kind] = verdict
        if verdict.state == before.state:
            return None
        detail: dict[str, Any] = {
            "version": self.version,
            "window": {"start": _iso(window.start), "end": _iso(window.end), "rows": window.rows},
            "flagged": verdict.confirmed,
        }
        if kind == "data_quality":
            detail["checks"] = _faults(found)
        elif kind == "estimated":
            detail |= estimated_facts(self._state, self._reference, self._settings)
        else:
            wanted = [r for r in found.ranked if (r["column"] == SCORE) == (kind == "score_drift")]
            detail["columns"] = explain(wanted, self._specs, self._state.closed)[:SHOWN]
        if kind in EXPECTED:
            event = event_at(self._settings.known_events, window.end, verdict.held)
            if event is not None:
                verdict.severity, detail["known_event"] = "none", event.name
        return self._finding(kind, verdict.state, verdict.severity, window.end, detail)

    # labels -----------------------------------------------------------------------------------------------

    def _fold_labels(self, rows: pa.Table, found: list[str]) -> list[Finding]:
        s, settings = self._state, self._settings
        if rows.num_rows:
            at = tables.seconds(rows, "_at")
            received, seq = tables.arrivals(rows), tables.floats(rows, "_seq")
            values = zip(tables.objects(rows, "_id"), tables.objects(rows, "_label"), strict=True)
            held = (
                (identifier, join.Held(float(at[i]), float(received[i]), int(seq[i]), label))
                for i, (identifier, label) in enumerate(values)
                if label is not None
            )
            join.add_labels(s.book, held)
            self._seen(at, received)
        due = join.release(s.book, found, settings.label_lateness_s)
        cap = float(self._reference["quality"]["cap"])
        findings = []
        for label in join.use(s.book, due, self._contract.output, cap):
            join.keep(s.book, label, settings.window_rows)
            if s.detector is None:
                continue
            quality.update(s.detector, label.loss, label.made_at)
            of_slice = {"loss": label.loss, "at": label.made_at, "run_length": settings.esr_run_length}
            loud = slices.add(s.slices, self._sliced, label.part, **of_slice)
            state = self._performance(s.detector, loud=loud)
            if state != self._verdict("performance").state:
                findings.append(self._performance_changed(s.detector, state, label.at))
        return findings

    def _performance(self, detector: quality.ESR, *, loud: bool) -> State:
        before = self._verdict("performance").state
        alarm = self._settings.esr_run_length
        if before == "confirmed" or detector.evalue >= alarm or loud:
            return "confirmed"
        if detector.labels < self._settings.min_rows:
            return "insufficient"
        watch = alarm * WATCH_SHARE * (WATCH_SHARE if before == "watch" else 1.0)
        return "watch" if detector.evalue >= watch else "ok"

    def _performance_changed(self, detector: quality.ESR, state: State, at: float) -> Finding:
        facts = performance_facts(self._state, self._reference, self._settings)
        grade: Severity = "none"
        if state == "confirmed":
            grade = quality.severity(facts["loss"], detector.null_level)
            facts["since"] = detector.since
            if detector.evalue < self._settings.esr_run_length:
                facts |= slices.alarm_facts(self._state.slices, self._reference)
            facts["since"] = _iso(facts["since"])
        self._state.verdicts["performance"] = Verdict(state, grade)
        return self._finding("performance", state, grade, at, {"version": self.version, **facts})

    # shared -----------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Current facts for gauges; see the keys. Shares are 0..1, times are unix seconds of event time."""
        return snapshot(self._state, self._reference, self._settings)

    def _null_level(self) -> float | None:
        settings = self._settings
        return quality.null_level(self._reference["quality"], settings.tolerance, settings.tolerance_relative)

    def _verdict(self, kind: Kind) -> Verdict:
        return self._state.verdicts[kind]

    def _rule(self, alarm: State) -> Rule:
        return Rule(alarm, self._settings.confirm, self._settings.of, self._settings.clear)

    def _seen(self, at: tables.Floats, received: tables.Floats) -> None:
        """Move the clocks; an event dated ahead of its arrival moves event time to its arrival only."""
        s, newest = self._state, float(at.max())
        s.last_event = newest if s.last_event is None else max(s.last_event, newest)
        s.book.watermark = max(s.book.watermark, float(np.minimum(at, received).max()))
        s.book.received = max(s.book.received, float(received.max()))

    def _finding(self, kind: Kind, state: State, grade: Severity, at: float, detail: dict[str, Any]) -> Finding:
        moment = datetime.fromtimestamp(at, UTC)
        return Finding(self._state.model, kind, state, grade, moment, detail)


def _faults(found: Assessment) -> list[dict[str, Any]]:
    passed = sorted((c for c in found.checks if c.large and c.p < 1.0), key=lambda c: (c.p, c.column, c.fault))
    return [
        {"column": c.column, "fault": c.fault, "share": c.share, "expected": c.expected, "p": c.p}
        for c in passed[:SHOWN]
    ]


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def _digest(reference: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(reference, sort_keys=True).encode()).hexdigest()
