"""The process of a native model: takes the model over its socket, then answers rows until the other end goes.

`python -m registry.native.worker PARENT FD`, started by `registry.native.process.NativeProcess` and by nothing else.
"""

from __future__ import annotations

import importlib
import signal
import socket
import sys
from typing import Any, Final

import numpy as np

from registry.child import die_with_parent
from registry.contract import Contract
from registry.errors import PereneError
from registry.isolation import cut_network, limit
from registry.landlock import give_up
from registry.native.protocol import Ask, Broken, Load, Reply, receive, send

_WITH_ADAPTER: Final = {"xgboost", "lightgbm", "catboost"}
"""Packages whose models are not asked like scikit-learn's; the adapter of that one is for conversion only."""


def main(parent: int, descriptor: int) -> None:
    """Load what the first frame holds; answer the others."""
    die_with_parent(parent, signal.SIGKILL)
    cut_network()
    give_up(others=True)  # libraries start some to count processors
    link = socket.socket(fileno=descriptor)
    try:
        wanted = receive(link, Load)
        contract = Contract.from_dict(wanted.contract)
        try:
            estimator = _load(contract, wanted)
        # whatever a library raises on a file that is not what it should be
        except Exception as error:
            said = error.message if isinstance(error, PereneError) else f"{type(error).__name__}: {error}"
            send(link, Reply(error=said[:300]))
            return
        send(link, Reply())
        del wanted
        while True:
            send(link, _answer(estimator, contract, receive(link, Ask)))
    except (Broken, OSError):
        return  # nobody listens any more


def _load(contract: Contract, wanted: Load) -> Any:
    from registry.native.formats import import_libraries, load
    from registry.original import known

    import_libraries(wanted.file)
    importlib.import_module("registry.native.frame")  # here, so that the first row does not wait for it
    # address space is limited after the imports, whose reservations are not the model's
    limit(wanted.memory_mb)
    estimator = load(contract, wanted.file, wanted.data, allow_pickle=wanted.allow_pickle)
    if {base.__module__.partition(".")[0] for base in type(estimator).__mro__} & _WITH_ADAPTER:
        known(estimator)
    if type(estimator).__module__.partition(".")[0] == "sklearn":
        from registry.parts import parts

        for part in parts(estimator):
            if getattr(part, "n_jobs", None) not in (None, 1):
                part.n_jobs = 1  # threads cost a single row more than they save
    return estimator


def _answer(estimator: Any, contract: Contract, ask: Ask) -> Reply:
    from registry.native.frame import frame_of
    from registry.original import predict

    try:
        numbers = np.frombuffer(ask.numbers, np.float64).reshape(ask.rows, -1)
        found = predict(estimator, contract, frame_of(contract, numbers, ask.strings))
        labels = b"" if found.labels is None else found.labels.astype(np.int64).tobytes()
        return Reply(np.ascontiguousarray(found.values, np.float64).tobytes(), labels)
    # the message of a library may hold a value of the rows: only its kind is told
    except Exception as error:
        return Reply(error=type(error).__name__)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
