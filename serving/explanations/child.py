"""`python -m serving.explanations.child PARENT FD HOME LAKE SETTINGS`: explains what its parent asks, and nothing else.

It may be killed at any moment: it holds nothing but opened versions. It gives way to whatever answers on the machine.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from monitoring.lake.lake import Lake
from monitoring.reading.found import Kept, find
from monitoring.reading.tables import text_number
from registry.bundle import read_bundle
from registry.child import die_with_parent
from registry.contract import Column
from registry.errors import BundleCorrupt, NotExplained, PereneError, PredictionUnknown, VersionUnknown
from registry.explain.explainer import Explainer, Explanation
from registry.isolation import cut_network, limit
from registry.native.protocol import MESSAGE_BYTES, Broken, receive, send
from serving.decode import Decoder
from serving.errors import InferenceFailed
from serving.explanations.asked import check_kept
from serving.explanations.messages import Ask, Item, Told, Where

HELD: Final = 4
"""Versions that are kept open."""
_TOGETHER: Final = 16
"""Rows that are explained together, since they share the look at the golden rows."""


class Child:
    """Opened versions, and where recorded predictions lie."""

    def __init__(self, home: Path, lake: str, *, allow_pickle: bool) -> None:
        self._spools = home / "spool"
        self._lake = lake
        self._allow_pickle = allow_pickle
        self._open: OrderedDict[str, Explainer] = OrderedDict()

    def told(self, ask: Ask) -> Told:
        """What the parent is told; an error of ours is an answer, too."""
        try:
            return Told(self._recorded(ask) if ask.ids else self._rows(ask))
        except PereneError as error:
            return Told(error=_facts(error))
        except MemoryError:
            raise  # whatever is asked next needs a process that has some
        # a stranger's graph on a stranger's row: whoever asks next is not to wait for a new process because of it
        except Exception as error:
            return Told(
                error=_facts(InferenceFailed(f"the explanation failed ({type(error).__name__})", where="model"))
            )

    def _rows(self, ask: Ask) -> list[Item]:
        if ask.version is None:
            return []
        return self._explained(ask, ask.version, [("", tuple(row)) for row in ask.rows])

    def _recorded(self, ask: Ask) -> list[Item]:
        kept = find(Lake(self._lake), self._spools, ask.model, ask.ids)
        items: dict[str, Item] = {}
        together: dict[int, list[tuple[str, tuple[Any, ...]]]] = {}
        for identifier in dict.fromkeys(ask.ids):
            try:
                number, row = self._asked(ask, kept.get(identifier))
                together.setdefault(number, []).append((identifier, row))
            except PereneError as error:
                items[identifier] = _refused(identifier, error)
        for number, rows in together.items():
            for item in self._explained(ask, number, rows):
                items[item.prediction_id] = item
        return [items[identifier] for identifier in ask.ids]

    def _asked(self, ask: Ask, kept: Kept | None) -> tuple[int, tuple[Any, ...]]:
        """The version that explains a recorded prediction, and its row."""
        if kept is None:
            raise PredictionUnknown("no prediction of this id is recorded", where="prediction_ids")
        number = ask.version or kept.version
        where = ask.versions.get(number)
        if where is None:
            raise NotExplained(
                f"version {number}, which answered, is not served any more",
                where="prediction_ids",
                hint="X-Model-Version names a version that is to explain it instead",
            )
        contract = self._opened(where).contract
        check_kept(contract)
        missing = next((name for name in contract.names if name not in kept.values), None)
        if missing is not None:
            raise NotExplained(f"the prediction was recorded without column '{missing}'", where="prediction_ids")
        return number, tuple(_as_read(column, kept.values[column.name]) for column in contract.columns)

    def _explained(self, ask: Ask, number: int, rows: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Item]:
        where = ask.versions.get(number)
        if where is None:
            raise VersionUnknown("this version is not served", where="version")
        explainer = self._opened(where)
        packed = Decoder(explainer.contract, max_rows=len(rows)).pack
        found: list[Item] = []
        for start in range(0, len(rows), _TOGETHER):
            part = rows[start : start + _TOGETHER]
            try:
                made = explainer.explain(packed([row for _, row in part]), ask.method)
                found += [
                    _item(identifier, number, one, explainer) for (identifier, _), one in zip(part, made, strict=True)
                ]
            except PereneError:
                # one by one: a row without an explanation must not cost those beside it theirs
                for identifier, row in part:
                    try:
                        (one,) = explainer.explain(packed([row]), ask.method)
                        found.append(_item(identifier, number, one, explainer))
                    except PereneError as error:
                        found.append(_refused(identifier, error))
        return found

    def _opened(self, where: Where) -> Explainer:
        explainer = self._open.pop(where.digest, None)
        if explainer is None:
            bundle = read_bundle(Path(where.folder))
            if bundle.digest != where.digest:
                raise BundleCorrupt("the files of the version are not what they were", where="bundle")
            explainer = Explainer.of(bundle, allow_pickle=self._allow_pickle)
        self._open[where.digest] = explainer
        while len(self._open) > HELD:
            self._open.popitem(last=False)[1].close()
        return explainer


def _item(identifier: str, number: int, made: Explanation, explainer: Explainer) -> Item:
    facts = {"version": number, **told(made, explainer.contract.names)}
    return Item(_encoded(identifier, facts), identifier, number)


def _refused(identifier: str, error: PereneError) -> Item:
    return Item(_encoded(identifier, {"error": _facts(error)}), identifier)


def _encoded(identifier: str, facts: dict[str, Any]) -> bytes:
    return msgspec.json.encode(({"prediction_id": identifier} if identifier else {}) | facts)


def told(made: Explanation, names: Sequence[str]) -> dict[str, Any]:
    """An explanation in the words of HTTP."""
    return {
        "method": made.method,
        "output": made.output,
        "of": made.of,
        "base": made.base,
        "value": made.value,
        "attributions": dict(zip(names, made.attributions, strict=True)),
        "additivity_error": made.error,
        "standard_error": made.deviation,
        "background_rows": made.background_rows,
    }


def _as_read(column: Column, value: Any) -> Any:
    """A recorded value as the contract has it: in a file of versions that differ, numbers may be written as text."""
    if column.dtype == "string" or not isinstance(value, str):
        return value
    number = text_number(value)
    if math.isnan(number):
        raise NotExplained(f"column '{column.name}' was recorded as text", where="prediction_ids")
    return number


def _facts(error: PereneError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "where": error.where, "hint": error.hint}


def main(parent: int, descriptor: int, home: str, lake: str, settings: Mapping[str, Any]) -> None:
    """Explain until the other end goes."""
    die_with_parent(parent, signal.SIGKILL)
    link = socket.socket(fileno=descriptor)
    if "://" not in lake:
        cut_network()
    limit(settings["memory_mb"])
    os.nice(10)
    child = Child(Path(home), lake, allow_pickle=settings["allow_pickle"])
    try:
        send(link, Told())  # the imports are done
        while True:
            send(link, child.told(receive(link, Ask, most=settings["most_bytes"] + MESSAGE_BYTES)))
    except (Broken, OSError):
        return  # nobody listens any more


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], json.loads(sys.argv[5]))
