"""The supervised stages as functions: what a notebook or a script calls."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from proximo.language.given.files import Given
from proximo.language.stages import asked_for, configure, folder_of_run, located
from proximo.language.supervised import judge, reward, sft
from proximo.runs.console.progress import Mode, checked_mode
from proximo.runs.session.opening import Call
from proximo.runs.session.trainer import say_finished_before
from proximo.runs.storage.folder import RunFolder
from proximo.scale.launched import require_one_process

_PAIRS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class StageRun:
    """What a supervised stage came to."""

    path: Path
    """The folder of the run: `transformers` loads the trained model from it, once the run has ended."""
    results: dict[str, Any]
    """`steps`, `seconds`, what was measured on held-out rows, and how many rows were left out."""
    stopped: str | None = None
    """What ended it early, a signal's name or `stop-at`; the same call resumes."""
    finished_before: bool = False
    """Whether an earlier call finished it, and this one has only read what it came to."""

    @property
    def folder(self) -> Path:
        """`path`."""
        return self.path

    def __hash__(self) -> int:
        """As its folder: it may be a key of `rewards`."""
        return hash(self.path)

    def __fspath__(self) -> str:
        """Its folder, wherever a run is asked for."""
        return str(self.path)


def train_sft(
    model: Any,
    *,
    data: Any,
    validation: Any = None,
    tokenizer: Any = None,
    run: str | PathLike[str] | None = None,
    preset: str | Path = "",
    progress: Mode = "auto",
    stop_at: int | None = None,
    fresh: bool = False,
    allow_change: bool = False,
    **settings: Any,
) -> StageRun:
    """Fine-tune a causal language model on responses: cross-entropy, on their tokens only.

    Args:
        model: folder, hub name, `builtin:smollm2`, or a model of `transformers`; such an object is copied to a folder
            beside the run's and stays as it is.
        data: rows with a `prompt` and a `response`: a file, a list of dictionaries or a `datasets.Dataset`.
        validation: the same, held out; None measures no validation loss.
        tokenizer: of a model that is given as an object; a folder has its own.
        run: folder of the run, which receives the trained model; None takes `runs/sft-MODEL-SEED`.
        preset: name or path of a TOML file whose table `[sft]` gives the other settings.
        progress: live, plain, quiet, or auto.
        stop_at: end early, with a checkpoint, once this many gradient steps are done.
        fresh: delete the run that is in the folder and start over.
        allow_change: resume with settings that differ from the folder's.
        settings: fields of `proximo.language.config.SFTConfig` (`epochs=2`, `learning_rate=1e-4`).

    Returns:
        The run: its folder and its results. Losses are in nats per response token.

    Raises:
        UserError: something you can mend; the message says what, where and how.
    """
    stage = _Stage("sft", sft.train_sft, "data", ("prompt", "response"), run, Call(stop_at, fresh, allow_change))
    return stage.train(model, tokenizer, data, validation, preset, progress, settings)


def train_reward(
    model: Any,
    *,
    pairs: Any,
    validation: Any = None,
    tokenizer: Any = None,
    run: str | PathLike[str] | None = None,
    preset: str | Path = "",
    progress: Mode = "auto",
    stop_at: int | None = None,
    fresh: bool = False,
    allow_change: bool = False,
    **settings: Any,
) -> StageRun:
    """Train a reward model on preference pairs (Bradley & Terry 1952).

    Args:
        model: as for `train_sft`; best what fine-tuning made.
        pairs: rows with `prompt`, `chosen` and `rejected`, perhaps `label` (share of people who preferred chosen),
            `margin`, `source` and `difference`: a file, a list of dictionaries or a `datasets.Dataset`.
        validation: the same, held out; None measures nothing.
        tokenizer: as for `train_sft`, like all that follow.
        run: None takes `runs/reward-MODEL-SEED`.
        preset: its table is `[reward]`.
        progress: as there.
        stop_at: as there.
        fresh: as there.
        allow_change: as there.
        settings: fields of `proximo.language.config.RewardConfig` (`layers=12`, `policy="runs/x/sft"`);
            `standardise_on` takes rows too.

    Returns:
        The run: its folder and its results. The scores of the saved model have mean 0 and variance 1 on samples of the
        `policy`, and `mean` and `std` are those of its raw scores.

    Raises:
        UserError: something you can mend; the message says what, where and how.
    """
    stage = _Stage("reward", reward.train_reward, "pairs", _PAIRS, run, Call(stop_at, fresh, allow_change))
    return stage.train(model, tokenizer, pairs, validation, preset, progress, settings)


def train_judge(
    encoder: Any,
    *,
    pairs: Any,
    validation: Any = None,
    tokenizer: Any = None,
    run: str | PathLike[str] | None = None,
    preset: str | Path = "",
    progress: Mode = "auto",
    stop_at: int | None = None,
    fresh: bool = False,
    allow_change: bool = False,
    **settings: Any,
) -> StageRun:
    """Train a judge: an encoder taught by judgements that the reward model never saw, which only measures.

    Args:
        encoder: as `model` for `train_reward`, but an encoder of `transformers` or `builtin:minilm`.
        pairs: as for `train_reward`, like all that follow.
        validation: as there.
        tokenizer: as there.
        run: None takes `runs/judge-MODEL-SEED`.
        preset: its table is `[judge]`.
        progress: as there.
        stop_at: as there.
        fresh: as there.
        allow_change: as there.
        settings: as there; `layers` and `freeze` do not apply.

    Returns:
        The run: its folder and its results.

    Raises:
        UserError: something you can mend; the message says what, where and how.
    """
    stage = _Stage("judge", judge.train_judge, "pairs", _PAIRS, run, Call(stop_at, fresh, allow_change))
    return stage.train(encoder, tokenizer, pairs, validation, preset, progress, settings)


@dataclass(frozen=True)
class _Stage:
    """One of the stages, as it is asked for."""

    name: str
    function: Callable[..., dict[str, Any]]
    rows: str
    """The argument that its rows are given as."""
    fields: Sequence[str]
    """That each of them must have."""
    run: str | PathLike[str] | None
    call: Call

    def train(
        self,
        model: Any,
        tokenizer: Any,
        data: Any,
        validation: Any,
        preset: str | Path,
        progress: Mode,
        settings: Mapping[str, Any],
    ) -> StageRun:
        """Train it as it is asked for."""
        progress = checked_mode(progress)
        run = folder_of_run(self.run)
        require_one_process(f"train_{self.name}", "call it before, without torchrun; only PPO and its kin have ranks")
        given = Given(Path(run or "runs/new"))
        named = {
            "model": given.model("model", model, tokenizer),
            "data": given.rows("data", data, self.fields, self.rows),
        }
        named["output"] = run
        if validation is not None:
            named["validation"] = given.rows("validation", validation, self.fields)
        settings = dict(settings)
        if "standardise_on" in settings:
            settings["standardise_on"] = given.rows("standardise_on", settings["standardise_on"], ("prompt",))
        config = asked_for(configure(self.name, str(preset), ""), f"train_{self.name}", settings, named)
        output = config.output or f"runs/{self.name}-{Path(config.model).name}-{config.seed}"
        return self._trained(replace(located(config), output=output), given, progress)

    def _trained(self, config: Any, given: Given, progress: Mode) -> StageRun:
        folder = RunFolder(config.output)
        finished = folder.exists and folder.results.exists() and not self.call.fresh
        given.check(folder, self.call)
        with nullcontext() if finished else given.stored(folder):
            results = self.function(config, console=progress, call=self.call)
        if finished:
            say_finished_before(folder.path, progress)
        stopped = results.pop("stopped", None)
        return StageRun(folder.path, results, stopped, finished)
