"""One entry point; verbs only. Torch is imported by the verbs that need it."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from proximo.cli.doctor import DoctorArguments, examine
from proximo.cli.foreign_options import ASKING, CONTROL, answered
from proximo.cli.options import (
    CALL_HELP,
    consent,
    exit_code,
    flag,
    json_flag,
    option,
    options_of,
    parse,
    take_call,
    take_table,
)
from proximo.errors import UserError

_HELP = """Proximal Policy Optimization, once and right: train, evaluate, and see why.

  proximo train HalfCheetah-v5 --preset tuned --steps 1e6 --seed 0 --run runs/cheetah
  proximo evaluate runs/cheetah --episodes 20
  proximo doctor runs/cheetah
  proximo verify-resume runs/cheetah
  proximo replay runs/cheetah --set target_kl=0.03
  proximo environments cheetah
  proximo presets

  proximo rlhf all --preset movie-sentiment --run runs/movies
  proximo rlhf chat runs/movies

"""


@dataclass(frozen=True)
class EvaluateArguments:
    """Run episodes with a trained policy, on seeds that training never saw."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    episodes: int = 20
    """How many for each number."""
    seed: int | None = None
    """Seed of the episodes (default: one that neither training nor its own evaluations have used)."""
    episode_limit: int | None = None
    """Steps after which an episode is cut; the run's own if not given."""
    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True)
class EnvironmentsArguments:
    """List environments whose name contains a word, and what steps them."""

    pattern: tyro.conf.Positional[str] = ""
    """Part of a name, in any case; all if not given."""
    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True)
class VerifyArguments:
    """Check that resuming this run is exact, bit for bit, and say what is not.

    Trains a few iterations with the run's settings in temporary folders: through, stopped half-way, and killed. The
    run itself is only read. The exit code is 1 where it does not hold.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a run of `proximo train` or `proximo rlhf ppo`."""
    iterations: int | None = None
    """Before the stop, and as many after it; 2 for an environment, 1 for a language model if not given."""
    json: bool = False
    """Print one JSON object instead of text."""


@dataclass(frozen=True)
class ReplayArguments:
    """Do one of a run's last updates again: is it the same, what was not finite first, and what if a setting changes?

    Names the samples whose log-prob changed most and those with the largest advantage. The run is only read.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a run of `proximo train` or `proximo rlhf ppo`."""
    iteration: int | None = None
    """Which update, counted from 0; the newest that is kept if not given."""
    set: str | None = None
    """KEY=VALUE: the same update with one setting changed, beside it (target_kl=0.03, learning_rate=1e-4, clip=0.1)."""
    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True)
class PresetsArguments:
    """List the presets: their tasks, their numbers and where these come from."""

    environment: tyro.conf.Positional[str] = ""
    """Only those for this task."""
    json: bool = False
    """Print one JSON object instead of a table."""


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
    print_results(_three_numbers(results), title)
    print(f"everything is in {run.path}: checkpoints, metrics.jsonl, TensorBoard events, config.toml")
    print(f"next: proximo evaluate {run.path}")


def _three_numbers(results: Any) -> dict[str, str]:
    """The three numbers that stand everywhere a result is printed, and what they are."""
    recent = results.get("last_100_training_return")
    unfinished, limit = results.get("unfinished_episodes"), results.get("episode_limit", 30_000)

    def task(name: str) -> str:
        value = results.get(f"{name}_task")
        return "" if value is None else f"; the task's own, below its wrappers: {value:,.1f}"

    return {
        "last-100 training return": "no episode ended"
        if recent is None
        else f"{recent:,.1f}{task('last_100_training_return')}",
        "final deterministic": f"{results['final_deterministic']:,.1f} ± {results['final_deterministic_std']:,.1f}"
        f" ({results['episodes']} episodes; sampled: {results['final_sampled']:,.1f})"
        f"{task('final_deterministic')}"
        f"{f'; {unfinished} were cut after {limit:,} steps, for they do not end' if unfinished else ''}",
        **_sampled(results),
        "best checkpoint": f"{results['best_checkpoint']:,.1f} ± {results['best_checkpoint_std']:,.1f}"
        f" (deterministic; chosen by {results.get('best_chosen_by', 'training return')}){task('best_checkpoint')}",
        "proximo.load gives": f"the final policy, which acts deterministically{_better_sampled(results)}",
    }


def _sampled(results: Any) -> dict[str, str]:
    """The number of the last policy when its actions are drawn; runs from before it had a spread have it elsewhere."""
    if "final_sampled_std" not in results:
        return {}
    return {"final sampled": f"{results['final_sampled']:,.1f} ± {results['final_sampled_std']:,.1f}"}


def _better_sampled(results: Any) -> str:
    """What to do where the mode of the actions is worse than a sample, by more than chance explains."""
    spreads = [results.get(f"{name}_std", 0.0) for name in ("final_deterministic", "final_sampled")]
    error = (sum(x * x for x in spreads) / max(1, results["episodes"])) ** 0.5
    if results["final_sampled"] - results["final_deterministic"] <= 2 * error:
        return ""
    return "; sampled actions are better here: act(observation, deterministic=False)"


def evaluate(arguments: list[str]) -> int:
    """The verb of `EvaluateArguments`."""
    asked = parse(EvaluateArguments, json_flag(arguments), "evaluate", foreign=ASKING)
    from proximo import inspection

    results = inspection.evaluate(asked.run, asked.episodes, seed=asked.seed, episode_limit=asked.episode_limit)
    if asked.json:
        print(json.dumps(results))
        return 0
    from proximo.runs.console.progress import print_results

    which = "that training never saw" if asked.seed is None else "as asked for"
    episodes = f"{asked.episodes} episodes {which} (seed {results['seed']})"
    print_results(_three_numbers(results), f"{results['environment']}, {asked.run}: {episodes}")
    return 0


def environments(arguments: list[str]) -> int:
    """The verb of `EnvironmentsArguments`."""
    asked = parse(EnvironmentsArguments, json_flag(arguments), "environments")
    from proximo.control.environments import list_environments

    found = list_environments(asked.pattern)
    if not found:
        raise UserError(f"no environment's name contains {asked.pattern!r}; `proximo environments` lists all")
    if asked.json:
        print(json.dumps({"environments": [{"environment": name, "backend": backend} for name, backend in found]}))
        return 0
    from proximo.runs.console.progress import print_table

    print_table(found, ["environment", "stepped by"])
    return 0


def presets(arguments: list[str]) -> int:
    """The verb of `PresetsArguments`."""
    asked = parse(PresetsArguments, json_flag(arguments), "presets")
    from proximo.control import presets as shipped

    found = [p for p in shipped.presets() if not asked.environment or p.matches(asked.environment)]
    if asked.json:
        print(json.dumps({"presets": [{**vars(p), "environments": list(p.environments)} for p in found]}))
        return 0
    from proximo.runs.console.progress import print_table

    if asked.environment and all(p.family == "general" for p in found):
        print(
            f"no preset is for {asked.environment!r} alone; tuned gives every environment that has none these numbers:"
        )
    print_table(
        [(p.name, p.family, " ".join(p.environments), p.source) for p in found], ["preset", "family", "for", "source"]
    )
    return 0


def doctor(arguments: list[str]) -> int:
    """The verb of `DoctorArguments`."""
    asked = parse(DoctorArguments, json_flag(arguments), "doctor", foreign=ASKING)
    return examine(asked.what, asked.seed, asked.backend, as_json=asked.json)


def verify_resume(arguments: list[str]) -> int:
    """The verb of `VerifyArguments`."""
    asked = parse(VerifyArguments, json_flag(arguments), "verify-resume")
    from proximo.cli.verify import verify

    return verify(asked.run, asked.iterations, as_json=asked.json)


def replay(arguments: list[str]) -> int:
    """The verb of `ReplayArguments`."""
    asked = parse(ReplayArguments, json_flag(arguments), "replay")
    from proximo.cli.replay import show

    return show(asked.run, asked.iteration, asked.set, as_json=asked.json)


def rlhf(arguments: list[str]) -> int:
    """Train a language model from human judgement: sft|reward|judge|preflight|ppo|all|evaluate|chat|presets."""
    from proximo.cli.language import main as stages

    return stages(arguments)


_VERBS: dict[str, tuple[Callable[[list[str]], int], Any]] = {  # and what describes it
    "train": (train, train),
    "evaluate": (evaluate, EvaluateArguments),
    "environments": (environments, EnvironmentsArguments),
    "presets": (presets, PresetsArguments),
    "doctor": (doctor, DoctorArguments),
    "verify-resume": (verify_resume, VerifyArguments),
    "replay": (replay, ReplayArguments),
    "rlhf": (rlhf, rlhf),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb.

    Returns:
        The exit code: 0, 1 where the answer is bad (`doctor`, `verify-resume`), 2 when the user has something to mend,
        or 128 + a signal's number.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        for name, (_, described) in _VERBS.items():
            print(f"  {name:<15}{described.__doc__.splitlines()[0]}")
        print("\n`proximo VERB --help` tells more.")
        return 0 if given else 2
    if given[0] in ("-V", "--version"):
        from proximo import __version__

        print(f"proximo {__version__}")
        return 0
    try:
        if given[0] not in _VERBS:
            from proximo.errors import nearest

            raise UserError(
                f"there is no verb {given[0]!r}: did you mean {nearest(given[0], _VERBS) or ', '.join(_VERBS)}?"
            )
        code = _VERBS[given[0]][0](given[1:])
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"proximo: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as in `proximo environments | head`; what is left to print must not fail at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # SIGPIPE
    except KeyboardInterrupt as error:
        print("; ".join(["proximo: interrupted", *getattr(error, "__notes__", ())]), file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
