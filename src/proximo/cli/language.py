"""`proximo rlhf STAGE`: supervised fine-tuning, reward model, PPO, all of them, and before and after side by side."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from proximo.cli import language_asking as asking
from proximo.cli.foreign_options import LANGUAGE
from proximo.cli.options import CALL_HELP, consent, exit_code, flag, option, parse, take_call, take_table
from proximo.errors import UserError, nearest
from proximo.language.compute.malloc import keep_freed_memory
from proximo.runs.session.opening import Call

_NAMES = {"reward": "reward model", "judge": "judge"}
"""Stages that a result is judged by."""

_OVERRIDE_HELP = """
  --override-preflight  begin although a check before the first step failed
"""

_ALL_HELP = """usage: proximo rlhf all --preset NAME --run FOLDER [options]

The stages of a preset, one after the other: sft, reward, judge (if the preset has one) and ppo. A stage that is done
already is not done again. Settings of a stage are those of the preset: copy it to change them.

  --preset NAME          a shipped preset (`proximo rlhf presets`), or the path of a TOML file
  --run FOLDER           folder of all stages
  --seed N               seed of every stage
  --fresh                start over, after a yes at the terminal or with --yes
  --yes                  delete what --fresh deletes without asking
  --allow-change         resume with settings that differ
  --override-preflight   begin PPO although a check before its first step failed
  --quiet                show no progress
  --json                 print one JSON object
"""

_HELP = """A language model trained from human judgement: fine-tuning -> reward model -> PPO with a KL penalty.

  proximo rlhf all --preset movie-sentiment --run runs/movies
  proximo rlhf evaluate runs/movies
  proximo rlhf chat runs/movies

  sft        likelihood of good responses; writes RUN/sft
  reward     a reward model from pairs that people judged; writes RUN/reward
  judge      who measures: an encoder taught by ratings that the reward model never saw; writes RUN/judge
  preflight  before PPO's first step: what is often wrong in silence, with its remedy; ppo begins with it
  ppo        the policy against the reward, held near its start by the KL; writes RUN/ppo
  all        the stages of a preset, one after the other; what is done already is not done again
  evaluate   before against after on held-out prompts: the judge's verdict, KL, diversity
  chat       prompts answered before and after, with the reward
  presets    the presets, and where their numbers come from; with a name, that one's TOML, to start your own from:
             proximo rlhf presets movie-sentiment > my.toml; proximo rlhf all --preset my.toml --run runs/mine

`proximo rlhf STAGE --help` lists its settings.
"""


def main(arguments: list[str]) -> int:
    """Run a stage; the exit code is 0, or 128 + a signal's number."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0 if arguments else 2
    stage, rest = arguments[0], list(arguments[1:])
    if stage not in _STAGES:
        raise UserError(f"there is no stage {stage!r}: did you mean {nearest(stage, _STAGES) or ', '.join(_STAGES)}?")
    _require_libraries()
    keep_freed_memory()
    return _STAGES[stage](rest)


def _require_libraries() -> None:
    """The extra that the language half needs, before anything is started."""
    from importlib.util import find_spec

    missing = [name for name in ("transformers", "peft", "gguf") if find_spec(name) is None]
    if missing:
        raise UserError(f"language models need {', '.join(missing)}: pip install 'proximo[language]'")


def _all(arguments: list[str]) -> int:
    from proximo.language.rewards.chance import BETTER, no_better_than_chance
    from proximo.language.stages import CONFIGS, check_files, find_preset, presets

    if {"-h", "--help"} & set(arguments):
        print(_ALL_HELP, end="")
        return 0
    preset, run = option(arguments, "--preset", ""), option(arguments, "--run", "")
    if not preset or not run:
        raise UserError(
            "all stages need a preset and a folder: give --run FOLDER, and --preset with a shipped preset "
            f"({', '.join(p.name for p in presets())}) or the path of a TOML file of your own (docs/rlhf.md has one to "
            "copy; `proximo rlhf presets NAME` prints one)"
        )
    quiet = ["--quiet"] if flag(arguments, "--quiet") else []
    as_json = flag(arguments, "--json")
    seed = option(arguments, "--seed", "")
    override = ["--override-preflight"] if flag(arguments, "--override-preflight") else []
    begin = [name for name in ("--fresh", "--yes", "--allow-change") if flag(arguments, name)]
    if rest := _without(arguments, "--preset", "--run", "--seed"):
        raise UserError(
            f"all takes --preset, --run, --seed, --fresh and --allow-change, not {rest[0]} (`proximo rlhf all --help` "
            "has the rest): give settings to the stages one by one"
        )
    quiet += ["--seed", seed] if seed else []
    check_files(preset, "" if "--fresh" in begin else run)
    measured = "judge" in find_preset(preset).stages
    done: dict[str, dict[str, Any]] = {}
    code = 0
    for name in CONFIGS:
        if name == "judge" and not measured:
            continue
        more = override if name == "ppo" else []
        folder, results = _train(name, ["--preset", preset, "--run", run, *quiet, *begin, *more])
        done[name] = {"folder": str(folder), **results}
        weak = "" if override or name not in _NAMES else no_better_than_chance(results)
        code = exit_code(results.get("stopped")) if as_json else _told(name, folder, results, as_json)
        if code:
            break
        if weak:
            raise UserError(
                f"the {_NAMES[name]} in {folder} ends all that follows: {weak}; {BETTER}, then give the same command "
                "with --fresh; --override-preflight goes on all the same"
            )
    if as_json:
        print(json.dumps({"stages": done}))
    elif not code:
        print(f"next: proximo rlhf {'evaluate' if measured else 'chat'} {run}")
    return code


def _stage(name: str, arguments: list[str]) -> int:
    as_json = flag(arguments, "--json")
    return _told(name, *_train(name, arguments), as_json)


def _train(name: str, arguments: list[str]) -> tuple[Path, dict[str, Any]]:
    """A stage's folder, and what it came to."""
    from proximo.language.stages import located

    quiet, yes = flag(arguments, "--quiet"), flag(arguments, "--yes")
    call = take_call(arguments)
    override = name == "ppo" and flag(arguments, "--override-preflight")
    run, config = _settings(name, arguments, CALL_HELP + (_OVERRIDE_HELP if name == "ppo" else ""))
    if not run:
        raise UserError(f"no output folder is named: give --run FOLDER; the stage writes FOLDER/{name}")
    folder = Path(run) / name
    if call.fresh:
        consent(folder, yes)
    mode = "quiet" if quiet else "auto"
    if name == "ppo":
        return _run_ppo(replace(located(config), run=str(folder)), mode, call, override)
    return folder, _supervised(name, replace(located(config), output=str(folder)), mode, call)


def _settings(name: str, arguments: list[str], more_help: str = "", verb: str = "") -> tuple[str, Any]:
    """The run's folder, or "", and a stage's settings."""
    from proximo.language.stages import CONFIGS, configure

    run, preset = option(arguments, "--run", ""), option(arguments, "--preset", "")
    run = str(Path(run).resolve()) if run else ""  # a stage's settings name the others: they hold from every folder
    rest = _without(arguments, "--run", "--preset")
    verb = f"rlhf {verb or name} [--preset NAME] --run RUN"
    base = configure(name, preset, run)
    if name != "ppo":
        return run, parse(CONFIGS[name], rest, verb, base, more_help, LANGUAGE[name])
    # Free keys, which the parser would narrow down to those that the preset or the run sets.
    rewards = _take_rewards(rest)
    config = parse(CONFIGS[name], rest, verb, replace(base, rewards={}), more_help, LANGUAGE[name])
    return run, replace(config, rewards=rewards or base.rewards)


def _take_rewards(arguments: list[str]) -> dict[str, float]:
    """Take the rewards and their weights out of the arguments; none if none is given.

    Raises:
        UserError: a weight is no finite number.
    """
    given = take_table(arguments, "--rewards")
    for name, weight in given.items():
        if isinstance(weight, bool | str) or not math.isfinite(weight):
            raise UserError(f"--rewards {name} {weight}: its weight must be a finite number, as 1.0")
    return {name: float(weight) for name, weight in given.items()}


def _preflight(arguments: list[str]) -> int:
    """The checks alone, with PPO's settings; nothing is written. The exit code is 2 if one failed."""
    from proximo.language.ppo.preflight import failed, preflight, rows
    from proximo.language.ppo.run import make_training
    from proximo.language.stages import located

    as_json = flag(arguments, "--json")
    _, config = _settings("ppo", arguments, verb="preflight")
    training, _ = make_training(located(config))
    begun = time.perf_counter()
    checks = preflight(training)
    seconds = time.perf_counter() - begun
    if as_json:
        print(json.dumps({"passed": not failed(checks), "checks": [vars(check) for check in checks]}))
    else:
        from proximo.runs.console.progress import print_table

        print_table(rows(checks), ["", "check", "seen"])
        print(f"{len(checks)} checks in {seconds:.1f} s")
    return 2 if failed(checks) else 0


def _supervised(name: str, config: Any, mode: Any, call: Call) -> dict[str, Any]:
    """Fine-tuning or reward model; a stage that is done with these settings is not done again."""
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
    """Show what a stage came to, or where it was stopped; the exit code."""
    stopped = results.get("stopped")
    if stopped and not as_json:
        print(f"stopped by {stopped}; the same command goes on from {folder}")
    else:
        _show(name, folder, results, as_json)
    return exit_code(stopped)


def _run_ppo(config: Any, mode: Any, call: Call, override: bool) -> tuple[Path, dict[str, Any]]:
    from proximo.language.ppo.run import run_ppo

    run = run_ppo(config, mode=mode, call=call, preflight="warn" if override else "stop")
    return run.path, run.results | ({"stopped": run.stopped} if run.stopped else {})


def _show(name: str, folder: Path, results: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"stage": name, "folder": str(folder), **results}))
        return
    from proximo.runs.console.progress import print_results

    plain = {k: v for k, v in results.items() if isinstance(v, int | float | str) and k != "cut_by_clock"}
    nested = {f"{k} {n}": v for k, d in results.items() if isinstance(d, dict) for n, v in d.items()}
    print_results(plain | {k: v for k, v in nested.items() if isinstance(v, int | float)}, f"{name} in {folder}")
    if cut := results.get("cut_by_clock"):
        print(f"WARNING: {cut}")


def _without(arguments: list[str], *names: str) -> list[str]:
    """The arguments without these options and their values."""
    rest, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in names:
            skip = True
        elif not any(argument.startswith(f"{name}=") for name in names):
            rest.append(argument)
    return rest


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
