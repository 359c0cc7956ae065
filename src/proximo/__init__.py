"""Proximo: Proximal Policy Optimization, once and right.

`proximo.train` trains a policy (`proximo.Trainer` in a loop of your own), `proximo.load` gives it back as numpy in,
numpy out; `evaluate`, `diagnose`, `replay`, `verify_resume` and `metrics` ask a run that is on disk, and `export`
writes its policy for programs without Proximo. `explain` says what a setting, metric or finding is.
`proximo.language` trains language models.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proximo import algorithms, language, schedules
    from proximo.control.distill import distill
    from proximo.control.loading import LoadedPolicy, load
    from proximo.control.many import train_seeds
    from proximo.control.result import Run
    from proximo.control.run import train
    from proximo.control.trainer import Trainer
    from proximo.control.tuning import tune
    from proximo.errors import UserError
    from proximo.inspection import diagnose, evaluate, metrics, replay, verify_resume
    from proximo.runs.session.callbacks import Callback
    from proximo.runs.session.trackers import Tracker
    from proximo.views.compare import compare
    from proximo.views.explain.explain import explain
    from proximo.views.export.export import export
    from proximo.views.inspect import inspect_run
    from proximo.views.record import VideoEvery, record
    from proximo.views.report import report
    from proximo.views.watch import watch

__version__ = "0.1.0"
__all__ = [
    "Callback",
    "LoadedPolicy",
    "Run",
    "Tracker",
    "Trainer",
    "UserError",
    "VideoEvery",
    "__version__",
    "algorithms",
    "compare",
    "diagnose",
    "distill",
    "evaluate",
    "explain",
    "export",
    "inspect_run",
    "language",
    "load",
    "metrics",
    "record",
    "replay",
    "report",
    "schedules",
    "train",
    "train_seeds",
    "tune",
    "verify_resume",
    "watch",
]

_WHERE = {
    "train": "proximo.control.run",
    "train_seeds": "proximo.control.many",
    "distill": "proximo.control.distill",
    "tune": "proximo.control.tuning",
    "Run": "proximo.control.result",
    "Trainer": "proximo.control.trainer",
    "Callback": "proximo.runs.session.callbacks",
    "Tracker": "proximo.runs.session.trackers",
    "load": "proximo.control.loading",
    "LoadedPolicy": "proximo.control.loading",
    "UserError": "proximo.errors",
    "diagnose": "proximo.inspection",
    "evaluate": "proximo.inspection",
    "explain": "proximo.views.explain.explain",
    "export": "proximo.views.export.export",
    "metrics": "proximo.inspection",
    "compare": "proximo.views.compare",
    "report": "proximo.views.report",
    "watch": "proximo.views.watch",
    "replay": "proximo.inspection",
    "verify_resume": "proximo.inspection",
    "record": "proximo.views.record",
    "VideoEvery": "proximo.views.record",
    "inspect_run": "proximo.views.inspect",
}


_PACKAGES = ("algorithms", "language", "schedules")


def __getattr__(name: str) -> Any:
    # Torch takes more than a second to import: keep `proximo --help` fast.
    if name not in _WHERE and name not in _PACKAGES:
        raise AttributeError(f"module 'proximo' has no attribute {name!r}")
    import importlib

    if name in _PACKAGES:
        return importlib.import_module(f"proximo.{name}")
    return getattr(importlib.import_module(_WHERE[name]), name)
