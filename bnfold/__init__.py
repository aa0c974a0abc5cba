"""bnfold folds every batch norm of a trained network that can be folded exactly, and says why the others stay.

The public names resolve on first use (PEP 562), so that ``import bnfold`` stays as cheap as an empty module.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False  # importing typing for its own would take longer than all else here
if TYPE_CHECKING:
    from bnfold.api import bench, calibrate, convert, fold, inspect, load_folded, verify
    from bnfold.core.reason import Reason
    from bnfold.errors import BnfoldError

_HOMES = {
    "bench": "bnfold.api",
    "calibrate": "bnfold.api",
    "convert": "bnfold.api",
    "fold": "bnfold.api",
    "inspect": "bnfold.api",
    "load_folded": "bnfold.api",
    "verify": "bnfold.api",
    "BnfoldError": "bnfold.errors",
    "Reason": "bnfold.core.reason",
}

__all__ = [
    "BnfoldError",
    "Reason",
    "__version__",
    "bench",
    "calibrate",
    "convert",
    "fold",
    "inspect",
    "load_folded",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'bnfold' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
