"""Proximo: Proximal Policy Optimization, once and right.

`proximo.train` trains a policy, `proximo.load` gives it back as numpy in, numpy out.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proximo.control.loading import LoadedPolicy, load
    from proximo.control.training.run import Run, train
    from proximo.errors import UserError

__version__ = "0.1.0"
__all__ = ["LoadedPolicy", "Run", "UserError", "__version__", "load", "train"]

_WHERE = {
    "train": "proximo.control.training.run",
    "Run": "proximo.control.training.run",
    "load": "proximo.control.loading",
    "LoadedPolicy": "proximo.control.loading",
    "UserError": "proximo.errors",
}


def __getattr__(name: str) -> Any:
    # Torch takes more than a second to import: `proximo --help` shall not wait for it.
    if name not in _WHERE:
        raise AttributeError(f"module 'proximo' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
