"""`proximo train`, `environments` and `presets`."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import tyro

from proximo.cli.call import Algorithm, RunOptions, TrainOptions, exit_code, lacking, require_values, trackers
from proximo.cli.forms import SAYS_ITS_DEFAULT, Flag, Layout, changes, form, options_of
from proximo.cli.options import command, parse, peek, refusals
from proximo.cli.results import three_numbers
from proximo.control.config import TrainConfig
from proximo.errors import UserError, nearest
from proximo.foreign_options import CONTROL, answered
from proximo.runs.session.callbacks import Callback


@dataclass(frozen=True)
class _Chosen:
    preset: str = ""
    algorithm: str = ""
    environments: int | None = None
    rollout_length: int | None = None


_ABOUT = (
    "Train a policy; the preset gives the defaults, the options change them. ENVIRONMENT is a task of EnvPool, "
    "Gymnasium or PettingZoo, or `module:function` that makes an environment. All settings are written to "
    "RUN/config.toml."
)
_TAUGHT = (
    "Teach a student what a trained policy would do (DAgger); it may see less, and PPO can go on from it. TEACHER is "
    "the folder of its run. The student acts, and learns what its teacher would have done: --observations.student says "
    "what it sees, --network.memory gru gives it a memory. ENVIRONMENT is the teacher's own if it is not given."
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
            "history",
            "action_repeat",
            "action_delay",
            "observation_keys",
            "mask_key",
            "random_phase",
            "restart_every",
            "environment_timeout",
        ),
        "course": ("start_from", "start_with", "until", "max_minutes"),
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
    shape = form(base, _LAYOUT, algorithm=Algorithm(), call=TrainOptions())
    asked = parse(
        shape, typed, "train", foreign={**CONTROL, **lacking(base.update)}, description=_ABOUT, usage=" ENVIRONMENT"
    )
    _require_one(typed, "minibatches", "update.minibatch-size")
    config = _config(asked, base, "train")
    require_values(typed, seeds=asked.call.seeds, track=asked.call.track)
    if asked.call.seeds:
        if config.seed != base.seed:
            raise UserError(f"--seed {config.seed} and --seeds are two ways to say the same: give one of them")
        return _train_each(config, asked.call)
    if asked.call.parallel != 1:
        raise UserError("--parallel trains several seeds at once: give --seeds too, as --seeds 0 1 2")
    from proximo.control.result import default_run
    from proximo.control.run import run_training

    call = asked.call.open(Path(config.run or default_run(config)))
    if (code := asked.call.start(Path(config.run or default_run(config)), "train", *arguments)) is not None:
        return int(code)
    callbacks = [*trackers(asked.call.track), *_videos(asked.call)]
    return _told(run_training(config, mode=asked.call.mode, call=call, callbacks=callbacks), as_json=asked.call.json)


def distill(arguments: list[str]) -> int:
    """Teach a student what a trained policy would do (DAgger); it may see less, and PPO can go on from it."""
    words = list(takewhile(lambda word: not word.startswith("-"), arguments[:2]))
    if not words and not {"-h", "--help"} & set(arguments):
        raise UserError("which teacher? Name its run first, as in `proximo distill runs/teacher`")
    base = Algorithm("distill").of(TrainConfig())
    if words:
        from proximo.control.distill import student_settings

        base = student_settings(*words)
    first = tuple(name for name in _LAYOUT.first if name != "preset")
    shape = form(base, replace(_LAYOUT, first=first, hidden=("environment", "preset", "teacher")), call=RunOptions())
    foreign = {**CONTROL, **lacking(base.update)}
    usage = " TEACHER [ENVIRONMENT]"
    asked = parse(shape, arguments[len(words) :], "distill", foreign=foreign, description=_TAUGHT, usage=usage)
    from proximo.control.result import default_run

    _require_one(arguments, "minibatches", "update.minibatch-size")
    _require_one(arguments, "observations.student", "observations.actor")
    config = _config(asked, base, "distill")
    from proximo.control.run import run_training

    call = asked.call.open(Path(config.run or default_run(config)))
    return _told(run_training(config, mode=asked.call.mode, call=call), as_json=asked.call.json)


def _require_one(typed: list[str], *options: str) -> None:
    """Refuse two options that say the same."""
    words = {word.partition("=")[0].replace("_", "-").removeprefix("--") for word in typed if word.startswith("--")}
    if words.issuperset(options):
        raise UserError(f"{' and '.join(f'--{name}' for name in options)} say the same here: give one of them")


def _config(asked: Any, base: TrainConfig, verb: str) -> TrainConfig:
    """The settings that the options make of those of a preset, or of a teacher."""
    with refusals(verb):
        given = changes(asked, base)
        options = {key.replace("-", "_"): value for key, value in given["options"].items()}  # in Python they are names
        return replace(base, **given | {"options": {**base.options, **options}})


def _told(run: Any, *, as_json: bool) -> int:
    """Print what a run came to; the exit code."""
    if as_json:
        told = {"run": str(run.path), "stopped": run.stopped, "finished_before": run.finished_before}
        print(json.dumps({**told, **run.results}))
    else:
        _print_run(run)
    return exit_code(run.stopped)


def _train_each(config: TrainConfig, options: TrainOptions) -> int:
    """Train with each of several seeds, and print one table."""
    from proximo.control.many import folders, train_each
    from proximo.runs.console.tables import print_table

    if options.video_every is not None and (options.parallel > 1 or options.launch == "ray"):
        other = "--launch ray" if options.launch == "ray" else "--parallel"
        raise UserError(f"--video-every films in this process, which trains nothing with {other}: leave one away")
    configs = folders(config, options.seeds)
    for each in configs:
        call = options.open(Path(str(each.run)))
    trackers(options.track)  # what is missing is said before the first begins
    how: dict[str, Any] = {"mode": options.mode, "call": call, "track": options.track}
    if options.launch == "ray":
        from proximo.control.many.placed import train_placed

        runs = train_placed(configs, restarts=options.restarts, **how)
    else:
        runs = train_each(configs, parallel=options.parallel, callbacks=_videos(options), **how)
    if options.json:
        told = [{"run": str(run.path), "stopped": run.stopped, **run.results} for run in runs]
        print(json.dumps({"runs": told}))
    else:
        names = ["last_100_training_return", "final_deterministic", "final_sampled", "best_checkpoint"]
        rows = [[run.config.seed, *(run.results.get(name) for name in names), str(run.path)] for run in runs]
        whole = [row for row, run in zip(rows, runs, strict=True) if run.stopped is None]
        if len(whole) > 1:
            rows.append(["mean", *map(_mean, list(zip(*whole, strict=True))[1:-1]), f"of {len(whole)} seeds"])
        print_table(rows, ["seed", *(name.replace("_", " ") for name in names), "run"])
        stopped = [str(run.stopped) for run in runs if run.stopped]
        if stopped or len(runs) < len(configs):
            print(f"stopped{f' by {stopped[0]}' if stopped else ''}; the same command goes on")
    begun_late = len(runs) < len(configs)  # some were stopped before they had begun
    return max((exit_code(run.stopped) for run in runs), default=0) or exit_code("SIGTERM" if begun_late else None)


def _videos(options: TrainOptions) -> list[Callback]:
    if options.video_every is None:
        return []
    from proximo.views.record import VideoEvery

    return [VideoEvery(options.video_every)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _preset_of(environment: str, typed: list[str]) -> TrainConfig:
    from proximo.control.environments import known_name
    from proximo.control.presets import configure, usual_preset

    chosen = peek(_Chosen, typed)
    size = {name: n for name in ("environments", "rollout_length") if (n := getattr(chosen, name)) is not None}
    base = configure(known_name(environment), chosen.preset or usual_preset(chosen.algorithm), size)[0]
    found: TrainConfig = Algorithm(chosen.algorithm).of(base)
    return found


def _which_environment(arguments: list[str]) -> str:
    """The error of a command line that does not open with an environment."""
    if foreign := answered(
        arguments, CONTROL, dict(options_of(form(TrainConfig(), _LAYOUT, algorithm=Algorithm(), call=TrainOptions())))
    ):
        return f"{foreign}; as in `proximo train CartPole-v1`"
    return "which environment? Name it first, as in `proximo train CartPole-v1`; `proximo environments` lists them"


def _print_run(run: Any) -> None:
    from proximo.runs.console.tables import print_results
    from proximo.runs.storage.files import room_of

    results = run.results
    if run.stopped:
        print(f"stopped by {run.stopped} at {results['steps']:,} steps; the same command resumes from {run.path}")
        return
    title = f"{run.config.environment}, {results['steps']:,} steps in {results['seconds']:,.1f} s"
    if run.finished_before:
        title += "; finished before, nothing was done now"
    if ended := results.get("ended_by"):
        title += f"; callback {ended} ended it"
    print_results(three_numbers(results), title)
    place = f"{run.path} ({room_of(run.path)})"
    print(f"everything is in {place}: checkpoints, metrics.jsonl, TensorBoard events, config.toml")
    print(f"next: proximo evaluate {quote(str(run.path))}")


@dataclass(frozen=True)
class Environments:
    """List environments whose name contains a word, with their backends."""

    pattern: tyro.conf.Positional[Annotated[str, SAYS_ITS_DEFAULT]] = ""
    """Part of a name, in any case (default: all)."""
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
        from proximo.runs.console.tables import print_table

        print_table(found, ["environment", "backend"])
        return 0


@dataclass(frozen=True)
class Presets:
    """List the presets: their tasks and where their numbers come from."""

    environment: tyro.conf.Positional[Annotated[str, SAYS_ITS_DEFAULT]] = ""
    """Name of a task, or part of one (default: all presets)."""
    json: Flag = False
    """Print one JSON object instead of a table."""

    def __call__(self) -> int:
        """Print the list."""
        from proximo.control import presets as shipped

        every = shipped.presets()
        found = [p for p in every if p.matches(self.environment)]
        if all(p.family == "general" for p in found):  # no name of a task that a preset is for, but perhaps a part
            found = [p for p in every if _named([p.family, *p.environments], self.environment)] or found
        if self.json:
            print(json.dumps({"presets": [{**vars(p), "environments": list(p.environments)} for p in found]}))
            return 0
        from proximo.runs.console.tables import print_table

        if all(p.family == "general" for p in found):
            print(_no_preset(self.environment, {name for p in every for name in p.environments}))
        rows = [(p.name, p.family, _in_short(p.environments, self.environment), p.source) for p in found]
        print_table(rows, ["preset", "family", "for", "source"])
        return 0


_SHOWN = 3
"""Tasks of a preset that are listed; `--json` has them all."""


def _named(patterns: Sequence[str], part: str) -> list[str]:
    return [pattern for pattern in patterns if part.lower() in pattern.lower()]


def _in_short(patterns: Sequence[str], part: str) -> str:
    """The first tasks of a preset, those that were asked for before the others."""
    asked = [p for p in patterns if fnmatchcase(part, p)] or _named(patterns, part)
    ordered = list(dict.fromkeys([*asked, *patterns]))
    more = len(ordered) - _SHOWN
    return " ".join(ordered[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _no_preset(environment: str, patterns: Iterable[str]) -> str:
    names = {pattern.partition("-v")[0] for pattern in patterns}
    alike = nearest(environment.partition("-v")[0], names, 1)
    hint = f" (did you mean {alike}?)" if alike and alike not in environment else ""
    return f"no preset is for {environment!r} alone{hint}; tuned gives every environment that has none these numbers:"


VERBS: Mapping[str, Callable[[list[str]], int]] = {
    "train": train,
    "distill": distill,
    "environments": command(Environments, "environments"),
    "presets": command(Presets, "presets"),
}
