"""Explanations of one version: TreeSHAP where its graph is trees, checked against the graph itself, else mixes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx

from registry.bundle import ONNX, Bundle
from registry.contract import Contract, Output
from registry.errors import NotExplained
from registry.explain import forest as trees
from registry.explain.columns import trace
from registry.explain.mixes import Players, Tensors, mix
from registry.explain.sums import Explained, explained, forests
from registry.golden import read_golden
from registry.parity import Run, answers, onnx_runner
from registry.run import opened
from registry.tensors import pack_frame

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]
Method = Literal["auto", "permutation"]
BACKGROUND: Final = 64
"""Golden rows that a row is compared with; a bundle of ours has so many."""
TOLERANCE: Final = 1e-4
"""By how much base and attributions may miss what ONNX Runtime says, relative to the number or the numbers' spread:
sums of float32 differ in the last digits. Beyond it the trees were not read as they are run, and are not believed.
"""
_UNITS: Final = {"identity": "", "logistic": "log_odds", "softmax": "margin", "exp": "log_prediction"}


@dataclass(frozen=True)
class Explanation:
    """What moved one answer: `base` and all `attributions` add up to `value`, but for `error`.

    `output` says which number that is: `prediction`, `probability`, `score`, or before the link `log_odds`, `margin`
    (before softmax) or `log_prediction`; `of` is the class, target or score that it is of.
    """

    method: str
    output: str
    of: str | int | bool | None
    base: float
    value: float
    attributions: tuple[float, ...]
    error: float
    background_rows: int
    deviation: float | None = None


@dataclass(frozen=True)
class _Trees:
    """A model of trees as it was read from its graph; of each forest the players of its features."""

    forests: list[trees.Forest]
    inputs: list[str]
    groups: list[Array]
    explained: Explained


class Explainer:
    """One version, open. Its background are its golden rows: real ones, spread over all that it was built with.

    Interventional rather than along the paths of training: the graph keeps no counts of training rows, and columns are
    held responsible for what the model does with them, not for what they are correlated with.
    """

    def __init__(
        self, contract: Contract, file: str, data: bytes, golden: pd.DataFrame, *, allow_pickle: bool = False
    ) -> None:
        self.contract = contract
        chosen = np.linspace(0, len(golden) - 1, min(BACKGROUND, len(golden))).astype(int)
        self.background = pack_frame(contract, golden.iloc[chosen])
        self._closing = ExitStack()
        self.trees: _Trees | None = None
        self._run: Run
        if file == ONNX:
            graph = onnx.load_from_string(data)
            self.trees = _read(graph, contract)
            if self.trees is not None:
                self._run = _runner(graph, self.trees)
        if self.trees is None:
            self._run = self._closing.enter_context(opened(contract, file, data, allow_pickle=allow_pickle))
        places = {c.name: ("numbers", n) for n, c in enumerate(self.contract.numbers)}
        places |= {c.name: ("strings", n) for n, c in enumerate(self.contract.strings)}
        self._players = Players(tuple(places[name] for name in self.contract.names))
        self._base = self._run(self.background)

    @classmethod
    def of(cls, bundle: Bundle, *, allow_pickle: bool = False) -> Explainer:
        """Open a bundle.

        Raises:
            BundleCorrupt, ConversionRefused: it does not open.
            NotAllowed: it is a pickle, and those are not allowed.
        """
        golden = read_golden(bundle.path / "golden.parquet", bundle.contract)
        return cls(bundle.contract, bundle.model_file, bundle.model_bytes(), golden, allow_pickle=allow_pickle)

    def close(self) -> None:
        """End the process of a native model."""
        self._closing.close()

    def explain(self, tensors: Mapping[str, Array], method: Method = "auto") -> list[Explanation]:
        """An explanation of each row.

        Args:
            tensors: the rows, packed by the contract.
            method: `auto`, or `permutation` for the answer itself where trees would explain what is before its link.

        Raises:
            NotExplained: the model answers a mix of a row and the golden rows with what is no finite number.
        """
        given = dict(tensors)
        outputs = self._run(given)
        found = answers(self.contract, outputs)
        chosen = _chosen(self.contract.output, found.labels, len(found.values))
        done: list[Explanation | None] = [None] * len(chosen)
        if self.trees is not None and method == "auto":
            done = self._by_trees(self.trees, outputs, chosen)
        for number, explanation in enumerate(done):
            if explanation is None:
                row = {name: tensor[number : number + 1] for name, tensor in given.items()}
                done[number] = self._by_mixes(row, int(chosen[number]), float(found.values[number, chosen[number]]))
        return [one for one in done if one is not None]

    def _by_trees(self, read: _Trees, outputs: Mapping[str, Array], chosen: Array) -> list[Explanation | None]:
        """Where base and attributions do not add up to what ONNX Runtime says, nothing."""
        whole = read.explained
        picked = [whole.columns[int(k)] for k in chosen]
        values = np.zeros((len(chosen), len(self.contract.columns)))
        for number, (grown, name, groups) in enumerate(zip(read.forests, read.inputs, read.groups, strict=True)):
            held = whole.sums.parts.get(number)
            if held is not None:
                weights = np.stack([held[:, a] - (held[:, b] if b is not None else 0.0) for a, b in picked])
                rows, others = (np.asarray(one[name], np.float64) for one in (outputs, self._base))
                got = trees.shapley(grown, weights, rows, others, groups)
                values[:, : got.shape[1]] += got
        raw, usual = (np.asarray(one[whole.name], np.float64) for one in (outputs, self._base))
        made: list[Explanation | None] = []
        for n, (a, b) in enumerate(picked):
            others = usual[:, a] - (usual[:, b] if b is not None else 0.0)
            value, base = float(raw[n, a] - (raw[n, b] if b is not None else 0.0)), float(others.mean())
            error = abs(base + float(values[n].sum()) - value)
            right = error <= TOLERANCE * max(abs(value), float(others.std()), 1e-6)
            kind = _UNITS[whole.link] or _plain_unit(self.contract.output)
            of = _of(self.contract.output, int(chosen[n]))
            facts = (tuple(values[n].tolist()), error, len(usual))
            made.append(Explanation("tree", kind, of, base, value, *facts) if right else None)
        return made

    def _by_mixes(self, row: Tensors, chosen: int, value: float) -> Explanation:
        output = self.contract.output

        def ask(tensors: Tensors) -> Array:
            found = np.asarray(answers(self.contract, self._run(tensors)).values[:, chosen])
            if not np.isfinite(found).all():
                raise NotExplained(
                    "the model's answer to a mix of this row and golden rows is not a finite number", where="rows"
                )
            return found

        made = mix(ask, self._players, row, self.background)
        error = abs(made.base + float(made.values.sum()) - value)
        facts = (tuple(made.values.tolist()), error, made.rows, made.deviation)
        return Explanation(made.method, _plain_unit(output), _of(output, chosen), made.base, value, *facts)


def _chosen(output: Output, labels: Array | None, rows: int) -> Array:
    """Which number of each answer is explained: of two classes the second, of more the predicted one."""
    width = len(output.scores or output.classes)
    if labels is None or width == 1:
        return np.zeros(rows, np.int64)
    if width == 2 or width != len(output.classes):
        return np.full(rows, 1 if not output.scores else 0, np.int64)
    return labels


def _of(output: Output, chosen: int) -> str | int | bool | None:
    if output.kind == "regression":
        return output.targets[chosen] if output.targets else None
    return output.scores[chosen] if output.scores else output.classes[chosen]


def _plain_unit(output: Output) -> str:
    if output.kind == "regression":
        return "prediction"
    return "score" if output.scores else "probability"


def _read(model: onnx.ModelProto, contract: Contract) -> _Trees | None:
    """The trees of a graph, if its answer is made of nothing else and each feature is of one column."""
    output = contract.output
    name = "prediction" if output.kind == "regression" else "scores" if output.scores else "probabilities"
    width = len(output.targets) or 1 if output.kind == "regression" else len(output.scores or output.classes)
    try:
        grown, inputs = forests(model.graph)
        whole = explained(model.graph, name, width, grown) if grown else None
        if whole is None:
            return None
        held = trace(model.graph, contract)
        groups = [_players(held[read], int(one.feature.max()) + 1) for one, read in zip(grown, inputs, strict=True)]
        used = [groups[number] is not None for number in whole.sums.parts]
        if not all(used):
            return None
        kept = [np.zeros(1, np.int64) if one is None else one for one in groups]
        found = _Trees(grown, inputs, kept, whole)
        _runner(model, found)
    # a graph that others made may be built in ways that nobody foresaw: its model is asked instead
    except Exception:
        return None
    return found


def _players(held: Any, width: int) -> Array | None:
    """The one column that each feature depends on; a feature of none is given to the first."""
    each = held.each if held.each is not None else (held.all,) * width
    if any(len(columns) > 1 for columns in each):
        return None
    return np.array([next(iter(columns), 0) for columns in each], np.int64)


def _runner(model: onnx.ModelProto, read: _Trees) -> Run:
    """The graph with what its trees read and answer among its outputs."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    there = {output.name for output in wider.graph.output}
    for name in dict.fromkeys([*read.inputs, read.explained.name]):
        if name not in there:
            wider.graph.output.append(onnx.ValueInfoProto(name=name))
    return onnx_runner(wider.SerializeToString())
