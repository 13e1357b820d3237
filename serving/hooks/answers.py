"""What an external engine answers about a run that was handed over to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from registry.errors import LedgerConflict, ModelUnknown

if TYPE_CHECKING:
    from registry.ledger import Ledger

__all__ = ["Answer", "write"]

KIND: Final = "run_callback"
_TEXT: Final = 300


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version of the model in MLflow, or why there is none."""

    version: Annotated[int, msgspec.Meta(ge=1, le=999_999_999)] | None = None
    error: str = ""
    run: str = ""
    """The path is not signed, this is: with it an answer is good for one run only."""


def write(ledger: Ledger, run: str, answer: Answer) -> dict[str, Any]:
    """Write the first answer about a run that waits for one.

    Raises:
        ModelUnknown: there is no such run.
        LedgerConflict: it waits for no answer, or has one.
    """
    rows = ledger.run_steps(run)
    if not rows:
        raise ModelUnknown("there is no such run", where="run")
    waits = rows[-1].status == "running" and any(row.step == "hand_over" for row in rows)
    model = rows[0].model
    known = any(row.body.get("run_id") == run for row in ledger.evidence(model, KIND, limit=50))
    if known or not waits:
        said = "was answered already" if known else "waits for no answer"
        raise LedgerConflict(f"this run {said}", where="run")
    told = {"version": answer.version} if answer.version is not None else {"error": answer.error[:_TEXT]}
    return {"run": run, "evidence": ledger.record_evidence(model, KIND, {"run_id": run, "actor": "signed", **told})}
