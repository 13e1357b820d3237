"""Which types a skops file may hold, beyond those that skops itself trusts.

skops builds only what it is told to trust. Types come by name out of a file that anybody may have written, so the
rule is about what a name stands for: a class that holds the state of an estimator, not one that opens files or calls
what it is given, and no function but those that compute numbers from arrays.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

_PACKAGES: Final = ("sklearn.", "scipy.sparse.", "scipy.interpolate.", "scipy.stats.", "scipy.spatial.")
_NOT: Final = ("sklearn.datasets.", "sklearn.externals.", "sklearn.utils._testing.", "sklearn.conftest.")
_NAMES: Final = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "builtins.object",
        "numpy.dtype",
        "numpy.mean",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
        "catboost.core.CatBoostClassifier",
        "catboost.core.CatBoostRegressor",
        "xgboost.core.Booster",
        "xgboost.sklearn.XGBClassifier",
        "xgboost.sklearn.XGBRegressor",
        "xgboost.sklearn.XGBRFClassifier",
        "xgboost.sklearn.XGBRFRegressor",
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMClassifier",
        "lightgbm.sklearn.LGBMRegressor",
    }
)
_FUNCTIONS: Final = (
    "sklearn.feature_selection._univariate_selection.",
    "sklearn.feature_selection._mutual_info.",
    "sklearn.metrics.",
    "sklearn.cluster._kmeans.",
)


def refused_types(data: bytes) -> tuple[list[str], list[str]]:
    """Types of a skops file that are (to be trusted, refused), by name."""
    from skops.io import get_untrusted_types

    found = get_untrusted_types(data=data)
    refused = [name for name in found if not trusted(name)]
    return [name for name in found if name not in refused], refused


def trusted(name: str) -> bool:
    """Whether `module.Name` may be built from a file.

    >>> trusted("sklearn.tree._tree.Tree"), trusted("os.system"), trusted("numpy.memmap")
    (True, False, False)
    """
    if name in _NAMES:
        return True
    function = name.startswith(_FUNCTIONS)
    if not name.startswith(_PACKAGES) or name.startswith(_NOT):
        return False
    module_name, _, last = name.rpartition(".")
    try:
        # a package that is trusted to run is trusted to be imported
        module = sys.modules.get(module_name) or import_module(module_name)
    except ImportError:
        return False
    found = getattr(module, last, None)
    if isinstance(found, type):
        return found.__module__.startswith(_PACKAGES)
    return function and callable(found) and getattr(found, "__module__", "").startswith("sklearn.")
