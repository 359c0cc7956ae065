"""`proximo train`, `environments` and `presets`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from proximo.cli.foreign_options import CONTROL, answered
from proximo.cli.options import (
    CALL_HELP,
    command,
    consent,
    exit_code,
    flag,
    option,
    options_of,
    parse,
    take_call,
    take_table,
)
from proximo.cli.results import three_numbers
from proximo.errors import UserError


def train(arguments: list[str]) -> int:
    """Train a policy; the preset gives the defaults, the options change them."""
    from proximo.control.config import TrainConfig
    from proximo.control.presets import configure

    as_json, quiet, yes = flag(arguments, "--json"), flag(arguments, "--quiet"), flag(arguments, "--yes")
    call = take_call(arguments)
    if not arguments or not arguments[0].strip() or arguments[0].startswith("-"):
        base = TrainConfig()
        if not {"-h", "--help"} & set(arguments):
            if foreign := answered(arguments, CONTROL, dict(options_of(TrainConfig))):
                raise UserError(f"{foreign}; as in `proximo train CartPole-v1`")
            raise UserError("which environment? As in `proximo train CartPole-v1`; `proximo environments` lists them")
    else:
        from proximo.control.environments import known_name

        name = known_name(arguments.pop(0))
        base, _ = configure(name, option(arguments, "--preset", "tuned"))
    # Free keys, which the parser would narrow down to those that the preset sets; in Python they are names.
    options = {key.replace("-", "_"): value for key, value in take_table(arguments, "--options").items()}
    config = parse(TrainConfig, arguments, "train ENVIRONMENT", replace(base, options={}), CALL_HELP, CONTROL)
    config = replace(config, options={**base.options, **options})
    if config.environment != base.environment:
        raise UserError(
            f"two environments are named, {base.environment} and {config.environment}: name the one to train in once, "
            f"as in `proximo train {config.environment}`"
        )
    from proximo.control.result import default_run
    from proximo.control.run import run_training

    if call.fresh:
        consent(Path(config.run or default_run(config)), yes)
    run = run_training(config, mode="quiet" if quiet else "auto", call=call)
    if as_json:
        told = {"run": str(run.path), "stopped": run.stopped, "finished_before": run.finished_before}
        print(json.dumps({**told, **run.results}))
    else:
        _print_run(run)
    return exit_code(run.stopped)


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
    json: bool = False
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
    json: bool = False
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
