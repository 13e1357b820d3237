"""The JSON files of a bundle that nobody trusts: objects of bounded size whose values have the types they must have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from registry.contract import Contract
from registry.errors import BundleCorrupt, NameInvalid
from registry.names import check_name

MAX_BYTES: Final = 32 * 1024 * 1024
MAX_COLUMNS: Final = 10_000
MAX_CLASSES: Final = 10_000
MAX_NAME: Final = 1_000
LARGEST: Final = 1.7e308
_NUMBER: Final = (int, float)
_EXAMPLE: Final[Mapping[str, tuple[type, ...]]] = {
    "float": _NUMBER,
    "int": _NUMBER,
    "bool": (bool,),
    "string": (str,),
}


def read_object(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in `data`, which is the bundle's file `name`.

    Raises:
        BundleCorrupt: too large, not JSON, nested without end, not an object, or with NaN in it.
    """
    if len(data) > MAX_BYTES:
        raise corrupt(name, f"it is larger than {MAX_BYTES} bytes")
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise corrupt(name, "it is not JSON") from error
    if not isinstance(value, dict):
        raise corrupt(name, "it is not a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def check_contract(contract: Contract) -> Contract:
    """Refuse a contract that has the form, but values from which nothing can be decoded or packed.

    Raises:
        BundleCorrupt: naming the field.
    """
    try:
        check_name(contract.model)
    except NameInvalid as error:
        raise _unfit("model", error.message) from None
    if not 0 < len(contract.columns) <= MAX_COLUMNS:
        raise _unfit("columns", f"there are not 1 to {MAX_COLUMNS}")
    for position, column in enumerate(contract.columns):
        if (wrong := _column(column)) is not None:
            raise _unfit(f"columns[{position}]", wrong)
    if len({column.name for column in contract.columns}) != len(contract.columns):
        raise _unfit("columns", "a name occurs twice")
    if contract.precision not in ("float32", "float64"):
        raise _unfit("precision", "it is neither float32 nor float64")
    if (wrong := _output(contract.output)) is not None:
        raise _unfit("output", wrong)
    return contract


def _column(column: Any) -> str | None:
    if not isinstance(column.name, str) or not 0 < len(column.name) <= MAX_NAME:
        return "its name is not a text"
    if (
        not isinstance(column.dtype, str)
        or column.dtype not in _EXAMPLE
        or column.policy not in ("store", "hash", "drop")
    ):
        return "its dtype or policy is unknown"
    if not isinstance(column.nullable, bool) or not isinstance(column.frame_dtype, str):
        return "'nullable' is not a boolean, or 'frame_dtype' is not a text"
    if not all(bound is None or _finite(bound) for bound in (column.minimum, column.maximum)):
        return "its range is not made of numbers"
    if column.categories is not None and not all(isinstance(value, str) for value in column.categories):
        return "its categories are not texts"
    if column.example is None:
        return None if column.nullable else "it has no example"
    right = isinstance(column.example, _EXAMPLE[column.dtype])
    # True is an int to Python
    if not right or (column.dtype in ("float", "int") and not _finite(column.example)):
        return "its example is of another type"
    return None


def _output(output: Any) -> str | None:
    lists: tuple[tuple[Any, ...], ...] = (output.classes, output.targets, output.scores)
    if not all(isinstance(value, str) for value in (*output.targets, *output.scores)):
        return "the names of its numbers are not texts"
    if not all(isinstance(value, (str, int)) for value in output.classes) or len(set(map(type, output.classes))) > 1:
        return "its classes are not of one type: text, integer or boolean"
    if any(len(values) > MAX_CLASSES or len(set(values)) != len(values) for values in lists):
        return f"it has more than {MAX_CLASSES} classes or numbers, or one of them twice"
    if output.kind == "regression":
        return "a regression has no classes and no scores" if output.classes or output.scores else None
    if output.kind != "classification":
        return "its kind is neither regression nor classification"
    if not output.classes:
        return "a classification has no classes"
    return "a classification has no targets" if output.targets else None


def _finite(value: object) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool) and abs(value) < LARGEST


def check_reference(reference: dict[str, Any], certificate: dict[str, Any], contract: Contract) -> None:
    """Refuse a reference that the monitor could not count by, and a certificate without a verdict.

    Raises:
        BundleCorrupt: naming the file and the field.
    """
    if not isinstance(certificate.get("verdict"), str):
        raise corrupt("certificate.json", "it has no verdict")
    columns, quality = reference.get("columns"), reference.get("quality")
    if not isinstance(columns, dict) or not isinstance(quality, dict):
        raise corrupt("reference.json", "it has no columns or no quality")
    for name, spec in (*columns.items(), ("score", reference.get("score"))):
        if not isinstance(spec, dict) or spec.get("kind") not in ("number", "category"):
            raise corrupt("reference.json", f"the entry of {ascii(name)[:64]} is of no known kind")
        inner = spec.get("edges" if spec["kind"] == "number" else "values")
        if not isinstance(inner, list) or not isinstance(spec.get("counts"), list):
            raise corrupt("reference.json", f"the entry of {ascii(name)[:64]} has no bins")
    if not columns.keys() <= set(contract.names):
        raise corrupt("reference.json", "it describes a column that the contract does not have")


def _unfit(where: str, reason: str) -> BundleCorrupt:
    return corrupt("contract.json", f"{where}: {reason}")


def corrupt(name: str, reason: str) -> BundleCorrupt:
    """A file of a bundle that does not hold, with the reason."""
    return BundleCorrupt(
        f"bundle file {name}: {reason}", where=name, hint="log the model again; the old version keeps serving"
    )
