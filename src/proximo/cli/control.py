"""`proximo train`, `environments` and `presets`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from proximo.cli.call import CallOptions, exit_code
from proximo.cli.foreign_options import CONTROL, answered
from proximo.cli.forms import Flag, Layout, changes, form, options_of
from proximo.cli.options import command, parse, peek, refusals
from proximo.cli.results import three_numbers
from proximo.control.config import TrainConfig
from proximo.errors import UserError


@dataclass(frozen=True)
class _Chosen:
    preset: str = "tuned"


_ABOUT = (
    "Train a policy; the preset gives the defaults, the options change them. ENVIRONMENT is an EnvPool or Gymnasium "
    "task, or `module:function` that makes an environment. All settings are written to RUN/config.toml."
)
_LAYOUT = Layout(
    first=(
        "preset",
        "steps",
        "seed",
        "run",
        "environments",
        "rollout_length",
        "learning_rate",
        "gamma",
        "lam",
        "device",
    ),
    groups={
        "environment": (
            "backend",
            "options",
            "frame_stack",
            "observation_keys",
            "mask_key",
            "random_phase",
            "restart_every",
            "environment_timeout",
        ),
        "evaluation": ("episodes", "episode_limit", "evaluate_every"),
        "checkpoint": ("checkpoint_every", "keep", "replay_mb"),
    },
    hidden=("environment",),
)


def train(arguments: list[str]) -> int:
    """Train a policy; the preset gives the defaults, the options change them."""
    named = bool(arguments) and bool(arguments[0].strip()) and not arguments[0].startswith("-")
    if not named and not {"-h", "--help"} & set(arguments):
        raise UserError(_which_environment(arguments))
    typed = arguments[named:]
    base = _preset_of(arguments[0], typed) if named else TrainConfig()
    shape = form(base, _LAYOUT, call=CallOptions())
    asked = parse(shape, typed, "train", foreign=CONTROL, description=_ABOUT, usage=" ENVIRONMENT")
    with refusals("train"):
        given = changes(asked, base)
        options = {key.replace("-", "_"): value for key, value in given["options"].items()}  # in Python they are names
        config = replace(base, **given | {"options": {**base.options, **options}})
    from proximo.control.result import default_run
    from proximo.control.run import run_training

    run = run_training(config, mode=asked.call.mode, call=asked.call.open(Path(config.run or default_run(config))))
    if asked.call.json:
        told = {"run": str(run.path), "stopped": run.stopped, "finished_before": run.finished_before}
        print(json.dumps({**told, **run.results}))
    else:
        _print_run(run)
    return exit_code(run.stopped)


def _preset_of(environment: str, typed: list[str]) -> TrainConfig:
    from proximo.control.environments import known_name
    from proximo.control.presets import configure

    return configure(known_name(environment), peek(_Chosen, typed).preset)[0]


def _which_environment(arguments: list[str]) -> str:
    """The error of a command line that does not open with an environment."""
    if foreign := answered(arguments, CONTROL, dict(options_of(form(TrainConfig(), _LAYOUT, call=CallOptions())))):
        return f"{foreign}; as in `proximo train CartPole-v1`"
    return "which environment? Name it first, as in `proximo train CartPole-v1`; `proximo environments` lists them"


def _print_run(run: Any) -> None:
    from proximo.runs.console.progress import print_results

    results = run.results
    if run.stopped:
        print(f"stopped by {run.stopped} at {results['steps']:,} steps; the same command goes on from {run.path}")
        return
    title = f"{run.config.environment}, {results['steps']:,} steps in {results['seconds']:,.1f} s"
    if run.finished_before:
        title += "; finished before, nothing was done now"
    print_results(three_numbers(results), title)
    print(f"everything is in {run.path}: checkpoints, metrics.jsonl, TensorBoard events, config.toml")
    print(f"next: proximo evaluate {run.path}")


@dataclass(frozen=True)
class Environments:
    """List environments whose name contains a word, and what steps them."""

    pattern: tyro.conf.Positional[str] = ""
    """Part of a name, in any case; all if not given."""
    json: Flag = False
    """Print one JSON object instead of a table."""

    def __call__(self) -> int:
        """Print the list."""
        from proximo.control.environments import list_environments

        found = list_environments(self.pattern)
        if not found:
            raise UserError(f"no environment's name contains {self.pattern!r}; `proximo environments` lists all")
        if self.json:
            print(json.dumps({"environments": [{"environment": name, "backend": backend} for name, backend in found]}))
            return 0
        from proximo.runs.console.progress import print_table

        print_table(found, ["environment", "stepped by"])
        return 0


@dataclass(frozen=True)
class Presets:
    """List the presets: their tasks, their numbers and where these come from."""

    environment: tyro.conf.Positional[str] = ""
    """Only those for this task."""
    json: Flag = False
    """Print one JSON object instead of a table."""

    def __call__(self) -> int:
        """Print the list."""
        from proximo.control import presets as shipped

        found = [p for p in shipped.presets() if not self.environment or p.matches(self.environment)]
        if self.json:
            print(json.dumps({"presets": [{**vars(p), "environments": list(p.environments)} for p in found]}))
            return 0
        from proximo.runs.console.progress import print_table

        if self.environment and all(p.family == "general" for p in found):
            print(
                f"no preset is for {self.environment!r} alone; tuned gives every environment that has none these "
                "numbers:"
            )
        rows = [(p.name, p.family, " ".join(p.environments), p.source) for p in found]
        print_table(rows, ["preset", "family", "for", "source"])
        return 0


VERBS: Mapping[str, Callable[[list[str]], int]] = {
    "train": train,
    "environments": command(Environments, "environments"),
    "presets": command(Presets, "presets"),
}
