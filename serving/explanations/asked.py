"""What a request to explain asks for, read and checked before anybody works on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.datastructures import QueryParams

from registry.contract import Contract
from registry.errors import ContractViolation, FieldError, NotExplained
from serving.decode import Decoder
from serving.errors import Malformed, TooLarge
from serving.explanations.messages import Method
from serving.json_text import read_json

_IDS = "prediction_ids"
_LONGEST = 64
"""Characters of an id: ours have 36."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows as the contract has them, or ids of recorded predictions."""

    rows: list[list[Any]]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids) or len(self.rows)


def read(data: bytes, decoder: Decoder, most: int) -> Asked:
    """A body: `{"prediction_ids": […]}`, or rows as `/predict` takes them.

    Raises:
        Malformed, TooLarge, ContractViolation: it is neither, or asks for more than `most` explanations.
    """
    if _IDS.encode() in data and _IDS not in decoder.contract.names:
        body = read_json(data, most_rows=decoder.max_rows)
        if isinstance(body, dict) and _IDS in body:
            return Asked([], _ids(body, most))
    rows = decoder.decode(data).rows
    if len(rows) > most:
        raise _too_many("rows", most)
    return Asked([list(row) for row in rows], [])


def _ids(body: dict[str, Any], most: int) -> list[str]:
    given = body[_IDS]
    ids: list[str] = given if isinstance(given, list) else []
    if not ids or len(body) > 1 or not all(isinstance(one, str) and 0 < len(one) <= _LONGEST for one in ids):
        error = FieldError(_IDS, "not a list of ids by itself", f'{{"{_IDS}": ["0198c0de-…"]}} and nothing else')
        raise ContractViolation(f"{_IDS}: {error.message}", errors=(error,))
    if len(ids) > most:
        raise _too_many(_IDS, most)
    return ids


def method_of(query: QueryParams) -> Method:
    """The `method` of a query, which has nothing else.

    Raises:
        Malformed: another parameter, or another method.
    """
    if set(query) - {"method"}:
        raise Malformed("there is no such parameter", where="query", expected="method")
    given = query.getlist("method")
    if given == ["permutation"]:
        return "permutation"
    if given not in ([], ["auto"]):
        raise Malformed("there is no such method", where="method", expected="auto or permutation")
    return "auto"


def check_kept(contract: Contract) -> None:
    """Refuse recorded predictions of a model whose values are not all kept.

    Raises:
        NotExplained: a column is hashed or dropped.
    """
    hidden = next((column for column in contract.columns if column.policy != "store"), None)
    if hidden is not None:
        raise NotExplained(
            f"recorded predictions of this model cannot be explained: the log does not keep column '{hidden.name}'",
            where=_IDS,
            expected="columns whose policy is store",
            hint="send the rows themselves",
        )


def _too_many(where: str, most: int) -> TooLarge:
    return TooLarge(
        "too many explanations in one request", where=where, expected=f"at most {most}", hint="serving.explain.max_rows"
    )
