"""Which columns of a file are read: the model's, and those that go through to the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from registry.contract import Contract
from registry.errors import PereneError
from serving.batch.refusals import BatchRefused, file_refused
from serving.decode import Decoder
from serving.dialects.tabular import check_names
from serving.explain import short


def check_columns(file: Path, names: Sequence[str], decoder: Decoder, keep: Sequence[str]) -> None:
    """Refuse a file whose columns do not fit, before any value is read; columns that nobody asks for are left out.

    Raises:
        BatchRefused: a column is missing or comes twice, or one that is to be kept is not there.
    """
    contract = decoder.contract
    wanted = {*contract.names, *keep}
    twice = [name for name, times in Counter(names).items() if times > 1 and name in wanted]
    if twice:
        raise BatchRefused(
            f"{file}: column '{short(twice[0])}' comes twice", where=f"{file}:1", hint="name each column once"
        )
    try:
        check_names(decoder, dict.fromkeys(names), mode="mlflow")
        missing = [name for name in contract.names if name not in names]
        if missing and decoder.mode == "strict":
            check_names(decoder, dict.fromkeys(name for name in names if name in contract.names), mode="strict")
    except PereneError as error:
        refused = file_refused(file, error)
        if not set(names) & set(contract.names):
            refused.hint = "the first line must name the columns, separated by commas"
        raise refused from None
    for name in keep:
        if name not in names:
            raise BatchRefused(
                f"{file}: there is no column '{short(name)}' to keep", where="--keep", hint="name a column of the file"
            )


def columns_read(contract: Contract, names: Sequence[str], keep: Sequence[str]) -> list[str]:
    """The columns that are needed, in the order of the file."""
    wanted = {*contract.names, *keep}
    return [name for name in names if name in wanted]
