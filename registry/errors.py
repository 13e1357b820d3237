"""The platform's exceptions: one root, one class per cause; HTTP status is decided in `serving/errors.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One offending field of an input: where it is, what was expected, which *type* came (never the value)."""

    path: str
    message: str
    expected: str = ""
    got: str = ""
    hint: str = ""


class PereneError(Exception):
    """Something Perene refuses to do, with what was expected and how to mend it."""

    code: ClassVar[str] = "perene_error"
    request_id: str = ""
    """Of the request that a server refused; clients set it."""

    def __init__(self, message: str, *, where: str = "", expected: str = "", got: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.expected = expected
        self.got = got
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class NameInvalid(PereneError):
    """A model name that could escape its folder, collide, or not be typed in a URL."""

    code = "name_invalid"


class ModelUnknown(PereneError):
    """No model of this name is deployed or registered here."""

    code = "model_unknown"


class VersionUnknown(PereneError):
    """The model has no such version."""

    code = "version_unknown"


class ContractViolation(PereneError):
    """Rows that do not satisfy the model's contract."""

    code = "contract_violation"

    def __init__(
        self,
        message: str,
        *,
        where: str = "",
        expected: str = "",
        got: str = "",
        hint: str = "",
        errors: tuple[FieldError, ...] = (),
    ) -> None:
        first = errors[0] if errors else FieldError(where, message, expected, got, hint)
        super().__init__(message, where=first.path, expected=first.expected, got=first.got, hint=hint or first.hint)
        self.errors = errors


class ConversionRefused(PereneError):
    """The estimator cannot be served as an equivalent ONNX graph."""

    code = "conversion_refused"


class BundleCorrupt(PereneError):
    """A bundle whose files, digests or golden rows do not hold."""

    code = "bundle_corrupt"


class LedgerConflict(PereneError):
    """Somebody else moved the deployment first."""

    code = "ledger_conflict"


class LeaseLost(PereneError):
    """The writer's fencing token is no longer the newest: another leader has taken over."""

    code = "lease_lost"


class ConfigInvalid(PereneError):
    """A configuration that cannot be obeyed; nothing was started."""

    code = "config_invalid"


class StoreUnavailable(PereneError):
    """MLflow, the ledger or the lake does not answer."""

    code = "store_unavailable"


class NotAllowed(PereneError):
    """The key, or the policy, does not permit this."""

    code = "not_allowed"


class TrainingFailed(PereneError):
    """A training run ended without a usable estimator."""

    code = "training_failed"


class NotExplained(PereneError):
    """There is no explanation of this prediction: its values are not kept, or the model does not answer mixes of it."""

    code = "not_explained"


class PredictionUnknown(NotExplained):
    """No prediction of this id is recorded."""

    code = "prediction_unknown"


class ExperimentUnknown(PereneError):
    """There is no trial of this id."""

    code = "experiment_unknown"


class ExperimentInvalid(PereneError):
    """What is asked of a trial cannot be: an option, a reason, a version."""

    code = "experiment_invalid"
