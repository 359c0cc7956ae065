"""One entry point; verbs only. A verb's module, and torch with it, is imported by the verb alone."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from proximo.errors import UserError, nearest
from proximo.runs.console.streams import guarded_streams

_HELP = """Proximal Policy Optimization, once and right: train, evaluate, and see why.

  proximo train HalfCheetah-v5 --preset tuned --steps 1e6 --seed 0 --run runs/cheetah
  proximo evaluate runs/cheetah --episodes 20
  proximo doctor runs/cheetah
  proximo verify-resume runs/cheetah
  proximo replay runs/cheetah --set target_kl=0.03
  proximo report runs/cheetah
  proximo inspect runs/movies 12 --worst 5
  proximo record runs/cheetah
  proximo export runs/cheetah --to onnx
  proximo explain clip
  proximo environments cheetah
  proximo presets
  proximo lab run cliff --quick

  proximo rlhf all --preset movie-sentiment --run runs/movies
  proximo rlhf chat runs/movies

"""
VERBS: Mapping[str, tuple[str, str]] = {
    "train": ("control", "Train a policy; the preset gives the defaults, the options change them."),
    "distill": (
        "control",
        "Teach a student what a trained policy would do (DAgger); it may see less, and PPO can go on from it.",
    ),
    "evaluate": ("inspect", "Run episodes with a trained policy, on seeds that training never saw."),
    "environments": ("control", "List environments whose name contains a word, with their backends."),
    "presets": ("control", "List the presets: their tasks and where their numbers come from."),
    "doctor": ("inspect", "Diagnose a run, or an environment under random actions, and say what to change first."),
    "verify-resume": ("inspect", "Check that resuming this run is exact, bit for bit, and say what is not."),
    "replay": (
        "inspect",
        "Repeat one of a run's last updates: is it the same, what was not finite first, and what if a setting changes?",
    ),
    "inspect": (
        "views",
        "Show what a run learns from, token by token (language) or step by step over an episode (control).",
    ),
    "record": (
        "artifacts",
        "Film an episode of a control run: its best policy beside its latest, with reward and value below.",
    ),
    "report": ("views", "Draw one or more runs as one HTML page: learning curves, health, time, settings, texts."),
    "watch": ("views", "Show runs in a browser on this machine while they go on, until Ctrl-C."),
    "compare": (
        "views",
        "Compare two settings by their runs, A -- B: which is better, by how much, and are the seeds enough to tell?",
    ),
    "export": ("artifacts", "Write a run's policy for a program without Proximo, compared with the policy first."),
    "tune": (
        "tune",
        "Search for settings that learn a task better (Optuna); hopeless trials end early, the best becomes a preset.",
    ),
    "explain": (
        "views",
        "Say what a setting, metric or finding is: formula, paper's value, presets, and what goes wrong with it.",
    ),
    "lab": ("lab", "Experiments that show what each mechanism does, measured on this very code."),
    "rlhf": (
        "language",
        "Train a language model from human judgement: sft|reward|judge|preflight|ppo|all|evaluate|chat|presets.",
    ),
}
"""Module and summary of each verb. The summary is the first line of its own help: a test compares them."""

_STAGES = ("sft", "reward", "judge", "ppo", "all")
_OF_MANY = ("train", "rlhf")
"""Verbs that a launcher may start as several ranks."""
_GOING_ON = ("train", "distill", "tune", "lab run", "lab ablate", *(f"rlhf {stage}" for stage in _STAGES))
"""Commands that train: they go on when nobody reads what they print, since what they are run for is in their folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb.

    A reader of standard output that stops reading (`| head`) ends a command that only prints, without a word; one that
    trains goes on.

    Returns:
        The exit code: 0, 1 where the answer is bad (`doctor`, `verify-resume`), 2 when the user has something to mend,
        or 128 + a signal's number (141: nobody reads what is printed).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--"]:  # torchrun takes --run for its own --run-path, unless -- stands before the verb
        del given[0]
    trains = _goes_on(given)
    with guarded_streams(goes_on=trains) as out:
        try:
            code = _run(given)
            sys.stdout.flush()
        except OSError as error:
            if error is not out.lost:
                raise
            if out.left:
                return 128 + 13  # SIGPIPE
            code = 0
        if out.lost is None or out.left or code:
            return code
        advice = "mend that first" + ("; what was trained is in its folder" if trains else "")
        print(f"proximo: standard output can not be written: {out.lost.strerror}; {advice}", file=sys.stderr)
        return 2


def _goes_on(given: Sequence[str]) -> bool:
    asks_for_help = {"-h", "--help"} & set(given)
    return not asks_for_help and any(" ".join(given[:words]) in _GOING_ON for words in (1, 2))


def _run(given: list[str]) -> int:
    """Run a verb; the exit code.

    Raises:
        OSError: standard output can not be written any more.
    """
    if not given or given[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        for name, (_, summary) in VERBS.items():
            print(f"  {name:<15}{summary}")
        print("\n`proximo VERB --help` tells more.", flush=True)
        return 0 if given else 2
    if given[0] in ("-V", "--version"):
        from proximo import __version__

        print(f"proximo {__version__}", flush=True)
        return 0
    from proximo.scale.launched import ANSWER, end_with_launcher, ended, within

    end_with_launcher()
    if given[0] not in _OF_MANY:  # a callback of a rank has started this, and it is no rank
        os.environ.pop(ANSWER, None)
    try:
        if given[0] not in VERBS:
            raise UserError(
                f"there is no verb {given[0]!r}: did you mean {nearest(given[0], VERBS) or ', '.join(VERBS)}?"
            )
        if within() and given[0] not in _OF_MANY:
            raise UserError(
                f"`proximo {given[0]}` is for one process, and a launcher has started it {os.environ['WORLD_SIZE']} "
                "times: give it without torchrun; where a rank itself starts it, leave RANK out of its environment"
            )
        if within() and os.environ["RANK"] != "0":
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process: results are printed once)
        module = import_module(f"proximo.cli.{VERBS[given[0]][0]}")
        code = int(module.VERBS[given[0]](given[1:]))
        sys.stdout.flush()
        return ended(code)
    except UserError as error:
        return ended(
            error.exit_code, str(error) or f"{given[0]} failed, and nothing said why: tell us how this came about"
        )
    except SystemExit as ending:  # the help's, with 0; else of code that is not ours, as a simulator's
        if not ending.code:
            sys.stdout.flush()
            raise
        why = f"code that `proximo {given[0]}` called has ended the program (SystemExit: {ending.code})"
        return ended(2, f"{why}: look for what it printed, and mend or leave out that code")
    except KeyboardInterrupt as error:
        print("; ".join(["proximo: interrupted", *getattr(error, "__notes__", ())]), file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
