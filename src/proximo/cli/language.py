"""`proximo rlhf STAGE`: supervised fine-tuning, reward model, PPO, and all of them."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

from proximo.cli import language_asking as asking
from proximo.cli.call import Algorithm, AllOptions, PPOOptions, RunOptions, exit_code, lacking, require_values, trackers
from proximo.cli.forms import SAYS_ITS_DEFAULT, Flag, Layout, changes, form
from proximo.cli.options import parse, peek, refusals
from proximo.errors import UserError, nearest
from proximo.foreign_options import LANGUAGE
from proximo.language.compute.malloc import keep_freed_memory
from proximo.scale.launched import require_one_process

_NAMES = {"reward": "reward model", "judge": "judge"}
"""Stages that a result is judged by."""

_HELP = """A language model trained from human judgement: fine-tuning -> reward model -> PPO with a KL penalty.

  proximo rlhf all --preset movie-sentiment --run runs/movies
  proximo rlhf evaluate runs/movies
  proximo rlhf chat runs/movies

  sft        likelihood of good responses; writes RUN/sft
  reward     a reward model from pairs that people judged; writes RUN/reward
  judge      an encoder that measures, taught by ratings the reward model never saw; writes RUN/judge
  preflight  checks before PPO's first step, each with its remedy; ppo begins with them
  ppo        the policy against the reward, held near its start by the KL; writes RUN/ppo
  all        the stages of a preset, one after the other; finished stages are skipped
  evaluate   held-out prompts before and after: the judge's verdict, KL, diversity
  chat       answers before and after, with the reward
  presets    the presets, and where their numbers come from; with a name, that one's TOML, to start your own from:
             proximo rlhf presets movie-sentiment > my.toml; proximo rlhf all --preset my.toml --run runs/mine

`proximo rlhf STAGE --help` lists its settings.
"""


@dataclass(frozen=True)
class Place:
    """Preset and folder of the stages."""

    preset: Annotated[str, SAYS_ITS_DEFAULT] = ""
    """Shipped preset (`proximo rlhf presets`), or the path of a TOML file."""
    run: Annotated[str, SAYS_ITS_DEFAULT] = ""
    """Folder of all stages; each writes RUN/STAGE."""


@dataclass(frozen=True)
class Everything(Place):
    """The stages of a preset, one after the other: sft, reward, judge (if the preset has one) and ppo.

    Finished stages are skipped. Settings of a stage are those of the preset: copy it to change them.
    """

    seed: int | None = None
    """Seed of every stage (default: the preset's)."""


def main(arguments: list[str]) -> int:
    """Run a stage; the exit code is 0, or 128 + a signal's number."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0 if arguments else 2
    stage, rest = arguments[0], list(arguments[1:])
    if stage not in _STAGES:
        raise UserError(f"there is no stage {stage!r}: did you mean {nearest(stage, _STAGES) or ', '.join(_STAGES)}?")
    if stage != "ppo":
        require_one_process(f"`proximo rlhf {stage}`", "give it without torchrun or --ranks; only ppo has ranks")
    _require_libraries()
    keep_freed_memory()
    return _STAGES[stage](rest)


def _require_libraries() -> None:
    """The extra that the language half needs, before anything is started."""
    from importlib.util import find_spec

    missing = [name for name in ("transformers", "peft", "gguf") if find_spec(name) is None]
    if missing:
        raise UserError(f"language models need {', '.join(missing)}: `pip install '.[language]'` in a clone of Proximo")


def _all(arguments: list[str]) -> int:
    from proximo.language.rewards.chance import BETTER, no_better_than_chance
    from proximo.language.stages import CONFIGS, check_files, configure, find_preset
    from proximo.runs.storage.files import room_of

    advice = "`all` takes settings from the preset: change a copy of it, or run the stages one by one"
    shape = form(Everything(), Layout(first=("preset", "run", "seed")), call=AllOptions())
    asked = parse(shape, arguments, "rlhf all", description=Everything.__doc__, advice=advice)
    _require_place(asked)
    require_values(arguments, track=asked.call.track)
    run = str(Path(asked.run).resolve())
    check_files(asked.preset, "" if asked.call.fresh else asked.run)
    measured = "judge" in find_preset(asked.preset).stages
    done: dict[str, dict[str, Any]] = {}
    code = 0
    for name in CONFIGS:
        if name == "judge" and not measured:
            continue
        config = configure(name, asked.preset, run)
        with refusals("rlhf all"):
            config = config if asked.seed is None else replace(config, seed=asked.seed)
        folder, results = _train(name, run, config, asked.call)
        done[name] = {"folder": str(folder), **results}
        weak = "" if asked.call.override_preflight or name not in _NAMES else no_better_than_chance(results)
        code = exit_code(results.get("stopped")) if asked.call.json else _told(name, folder, results, as_json=False)
        if code:
            break
        if weak:
            raise UserError(
                f"the {_NAMES[name]} in {folder} ends all that follows: {weak}; {BETTER}, then give the same command "
                "with --fresh; --override-preflight begins PPO all the same"
            )
    if asked.call.json:
        print(json.dumps({"stages": done}))
    elif not code:
        print(f"everything is in {asked.run} ({room_of(Path(run))}), a folder for each stage")
        print(f"next: proximo rlhf {'evaluate' if measured else 'chat'} {quote(asked.run)}")
    return code


def _require_place(asked: Any) -> None:
    from proximo.language.stages import presets

    if not asked.preset or not asked.run:
        raise UserError(
            "all stages need a preset and a folder: give --run FOLDER, and --preset with a shipped preset "
            f"({', '.join(p.name for p in presets())}) or the path of a TOML file of your own (docs/rlhf.md has one to "
            "copy; `proximo rlhf presets NAME` prints one)"
        )


def _stage(name: str, arguments: list[str]) -> int:
    run, config, call = _settings(name, arguments)
    if not run:
        raise UserError(f"no output folder is named: give --run FOLDER; the stage writes FOLDER/{name}")
    if name == "ppo" and call.several:
        call.open(Path(run) / name)  # its question is asked once
        return int(call.start(Path(run) / name, "rlhf", "ppo", *arguments))
    return _told(name, *_train(name, run, config, call), call.json)


def _train(name: str, run: str, config: Any, call: Any) -> tuple[Path, dict[str, Any]]:
    """A stage's folder and its results."""
    from proximo.language.stages import located

    folder = Path(run) / name
    begun = call.open(folder)
    if name != "ppo":
        return folder, _supervised(name, replace(located(config), output=str(folder)), call.mode, begun)
    from proximo.language.ppo.run import run_ppo

    preflight: Literal["warn", "stop"] = "warn" if call.override_preflight else "stop"
    done = run_ppo(
        replace(located(config), run=str(folder)),
        mode=call.mode,
        call=begun,
        preflight=preflight,
        callbacks=trackers(call.track),
    )
    return done.path, done.results | ({"stopped": done.stopped} if done.stopped else {})


_LAYOUT = Layout(
    first=("model", "data", "validation", "seed", "epochs", "batch", "learning_rate", "device"),
    hidden=("output", "preset"),
)
_PPO_LAYOUT = Layout(
    first=("policy", "rewards", "prompts", "seed", "responses", "batch", "learning_rate", "device"),
    hidden=("run", "preset"),
)


@dataclass(frozen=True)
class PreflightOptions:
    """Of this call only."""

    json: Flag = False
    """Print one JSON object instead of text."""


def _settings(name: str, arguments: list[str], verb: str = "") -> tuple[str, Any, Any]:
    """The run's folder, or "", a stage's settings, and the options of this call."""
    from proximo.language.stages import CONFIGS, configure

    place = peek(Place, arguments)
    run = str(Path(place.run).resolve()) if place.run else ""  # settings name other stages: they hold from every folder
    base = configure(name, place.preset, run)
    ppo = name == "ppo"
    base = peek(Algorithm, arguments).of(base) if ppo else base
    call = PreflightOptions() if verb else PPOOptions() if ppo else RunOptions()
    parts = {"algorithm": Algorithm()} if ppo else {}
    shape = form(base, _PPO_LAYOUT if ppo else _LAYOUT, head=place, **parts, call=call)
    foreign = {**LANGUAGE[name], **(lacking(base.update) if ppo else {})}
    verb = f"rlhf {verb or name}"
    asked = parse(shape, arguments, verb, foreign=foreign, description=CONFIGS[name].__doc__)
    if ppo and not verb.endswith("preflight"):
        require_values(arguments, track=asked.call.track)
    with refusals(verb):
        given = changes(asked, base)
        if ppo:
            given["rewards"] = _weights(given["rewards"]) or base.rewards
        return run, replace(base, **given), asked.call


def _weights(given: Mapping[str, Any]) -> dict[str, float]:
    """The rewards' weights as numbers.

    Raises:
        UserError: a weight is no finite number.
    """
    for name, weight in given.items():
        if isinstance(weight, bool | str) or not math.isfinite(weight):
            raise UserError(f"--rewards {name} {weight}: its weight must be a finite number, as 1.0")
    return {name: float(weight) for name, weight in given.items()}


def _preflight(arguments: list[str]) -> int:
    """The checks alone, with PPO's settings; nothing is written. The exit code is 2 if one failed."""
    from proximo.language.ppo.preflight import failed, preflight, rows
    from proximo.language.ppo.run import make_training
    from proximo.language.stages import located

    _, config, call = _settings("ppo", arguments, verb="preflight")
    training, _ = make_training(located(config))
    begun = time.perf_counter()
    checks = preflight(training)
    seconds = time.perf_counter() - begun
    if call.json:
        print(json.dumps({"passed": not failed(checks), "checks": [vars(check) for check in checks]}))
    else:
        from proximo.runs.console.tables import print_table

        print_table(rows(checks), ["", "check", "seen"])
        print(f"{len(checks)} checks in {seconds:.1f} s")
    return 2 if failed(checks) else 0


def _supervised(name: str, config: Any, mode: Any, call: Any) -> dict[str, Any]:
    """Fine-tuning or reward model; a stage that is finished with these settings is skipped."""
    if name == "sft":
        from proximo.language.supervised.sft import train_sft

        return train_sft(config, console=mode, call=call)
    from proximo.language.demo.movies import human_ceiling
    from proximo.language.stages import is_built_in
    from proximo.language.supervised.judge import train_judge
    from proximo.language.supervised.reward import train_reward

    ceiling = human_ceiling() if is_built_in(config.data) else None
    train = train_reward if name == "reward" else train_judge
    return train(config, console=mode, human_ceiling=ceiling, call=call)


def _told(name: str, folder: Path, results: dict[str, Any], as_json: bool) -> int:
    """Show a stage's results, or where it was stopped; the exit code."""
    stopped = results.get("stopped")
    if stopped and not as_json:
        print(f"stopped by {stopped}; the same command resumes from {folder}")
    else:
        _show(name, folder, results, as_json)
    return exit_code(stopped)


def _show(name: str, folder: Path, results: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"stage": name, "folder": str(folder), **results}))
        return
    from proximo.runs.console.tables import print_results

    plain = {k: v for k, v in results.items() if isinstance(v, int | float | str) and k != "cut_by_clock"}
    nested = {f"{k} {n}": v for k, d in results.items() if isinstance(d, dict) for n, v in d.items()}
    print_results(plain | {k: v for k, v in nested.items() if isinstance(v, int | float)}, f"{name} in {folder}")
    if cut := results.get("cut_by_clock"):
        print(f"WARNING: {cut}")


_STAGES: dict[str, Callable[[list[str]], int]] = {
    "sft": partial(_stage, "sft"),
    "reward": partial(_stage, "reward"),
    "judge": partial(_stage, "judge"),
    "preflight": _preflight,
    "ppo": partial(_stage, "ppo"),
    "all": _all,
    **asking.VERBS,
}
VERBS: Mapping[str, Callable[[list[str]], int]] = {"rlhf": main}
