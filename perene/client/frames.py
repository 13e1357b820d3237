"""DataFrames in and out: a part of a table as a request, answers as a table beside it.

Tables travel as Arrow where PyArrow is installed (a tenth of the bytes and of the time), else as rows of JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from perene.client.values import is_frame, plain, rows_of
from perene.client.wire import Reply, Request, post, with_headers
from registry.errors import ContractViolation, FieldError

if TYPE_CHECKING:
    import pandas as pd

ARROW: Final = "application/vnd.apache.arrow.stream"
MOST_BYTES: Final = 8 * 1024 * 1024
"""Of one request's body: what servers take unless they are told otherwise."""
_ROW: Final = re.compile(r"rows\[(\d+)\]")


def names_of(frame: Any) -> list[str]:
    """Names of the columns of a table.

    Raises:
        ContractViolation: this is no DataFrame, or two columns have one name.
    """
    if not is_frame(frame):
        raise _violation("rows", "not a table", "a DataFrame of pandas", type(frame).__name__)
    names = [str(name) for name in frame.columns]
    for name in names if len(set(names)) < len(names) else ():
        if names.count(name) > 1:
            raise _violation(name, "a column that comes twice", "each column once", "")
    return names


def request_of(path: str, part: pd.DataFrame, headers: Mapping[str, str]) -> Request:
    """A part of a table as a request to predict it."""
    if find_spec("pyarrow") is None:
        request = post(path, {"rows": rows_of(part)})
    else:
        request = Request("POST", path, _stream(part), {"content-type": ARROW, "accept": f"{ARROW}, application/json"})
    return with_headers(request, headers)


def _stream(part: pd.DataFrame) -> bytes:
    import pyarrow as pa

    columns = {str(name): _column(part.iloc[:, n], str(name)) for n, name in enumerate(part.columns)}
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _column(values: pd.Series[Any], name: str) -> Any:
    """A column as Arrow has it; what is no plain type there goes through the values' form in JSON."""
    import pyarrow as pa

    try:
        made = pa.array(values, from_pandas=True)
        if _is_plain(made.type):
            return made
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass  # values of several kinds, or of a kind that only Python has
    rows = [plain(value, f"rows[{n}].{name}") for n, value in enumerate(values)]
    try:
        return pa.array(rows)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        kinds = ", ".join(sorted({type(row).__name__ for row in rows if row is not None}))
        raise _violation(name, "a column of several types", "values of one type", kinds) from None


def _is_plain(kind: Any) -> bool:
    import pyarrow.types as t

    if t.is_dictionary(kind):
        return bool(t.is_string(kind.value_type) or t.is_large_string(kind.value_type))
    tests = (t.is_boolean, t.is_integer, t.is_floating, t.is_string, t.is_large_string, t.is_null)
    return any(test(kind) for test in tests)


def answers_of(reply: Reply) -> dict[str, list[Any]]:
    """The columns of an answer."""
    if reply.headers.get("content-type", "").startswith(ARROW):
        import pyarrow as pa

        with pa.ipc.open_stream(pa.py_buffer(reply.body)) as reader:
            found: dict[str, list[Any]] = reader.read_all().to_pydict()
        version = int(reply.headers["x-model-version"])
    else:
        body = json.loads(reply.body)
        found = {"prediction": body["predictions"], "prediction_id": body["prediction_ids"]}
        found.update({name: body[name] for name in ("probabilities", "scores") if name in body})
        version = body["version"]
    order = [name for name in ("prediction", "probabilities", "scores", "prediction_id") if name in found]
    return {**{name: found[name] for name in order}, "version": [version] * len(found["prediction_id"])}


def joined(parts: Sequence[Mapping[str, list[Any]]], index: pd.Index[Any]) -> pd.DataFrame:
    """Answers of all parts as one table with the index of the rows that were sent."""
    import pandas as pd

    names = list(parts[0]) if parts else ["prediction", "prediction_id", "version"]
    columns = {name: [value for part in parts for value in part[name]] for name in names}
    return pd.DataFrame(columns, index=index)


def moved(error: ContractViolation, start: int) -> ContractViolation:
    """What is wrong with a part of a table, told by rows of the whole."""

    def moved_text(text: str) -> str:
        return _ROW.sub(lambda found: f"rows[{int(found[1]) + start}]", text)

    errors = tuple(replace(e, path=moved_text(e.path)) for e in error.errors)
    made = ContractViolation(moved_text(error.message), hint=error.hint, errors=errors)
    made.request_id = error.request_id
    return made


def _violation(path: str, message: str, expected: str, got: str) -> ContractViolation:
    return ContractViolation(f"{path}: {message}", errors=(FieldError(path, message, expected, got),))
