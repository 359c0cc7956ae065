"""PPO as an iterator of its metrics: for loops of one's own, and for `proximo.language.train`."""

import tomllib
from collections.abc import Generator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from proximo.algorithms.given import own_algorithm, with_algorithm
from proximo.core.schedules import Schedule, unfollowed
from proximo.core.settings import UpdateSettings
from proximo.errors import UserError, require_word
from proximo.language.begun import settled
from proximo.language.compute.malloc import FreedMemory
from proximo.language.compute.threads import using_threads
from proximo.language.given.files import Given
from proximo.language.given.rewards import Own, folder_of, named, named_judge
from proximo.language.lineage import check_made_from, note_made_from
from proximo.language.meter.meter import METER, PASSED, Meter, make_meter
from proximo.language.models.folders import check_savable, generates
from proximo.language.models.loading import choose_device
from proximo.language.ppo import preflight as flight
from proximo.language.ppo.across import decided
from proximo.language.ppo.loading import make_training
from proximo.language.ppo.responder import Responder
from proximo.language.ppo.result import LanguageRun, cut_by_clock, ending, finish
from proximo.language.ppo.sample_log import cut_texts, keep_texts
from proximo.language.ppo.tokens.log import TokenLog, cut_tokens
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.configured import code_of_rewards
from proximo.language.rewards.terms import RewardTerm
from proximo.language.stages import asked_for, configure, folder_of_run, located, resolved, without_label
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.console.progress import HEALTH, Column, Mode, Progress, checked_mode
from proximo.runs.session.alone import alone
from proximo.runs.session.callbacks import Callbacks
from proximo.runs.session.callbacks import Given as GivenCallback
from proximo.runs.session.opening import Call, Opening, free_folder
from proximo.runs.session.ranks import Followed, NoMetrics, NoProgress, open_together, others_went_on
from proximo.runs.session.recorder import Recorder
from proximo.runs.session.session import Session, resume
from proximo.runs.session.signals import StopRequest
from proximo.runs.session.trainer import IteratedTrainer, say_finished_before
from proximo.runs.storage.code_identity import identity
from proximo.runs.storage.folder import RunFolder
from proximo.runs.storage.metrics import MetricsWriter, read_metrics
from proximo.runs.storage.random_state import OwnStreams
from proximo.runs.system import resident_memory
from proximo.scale.meeting import current_mesh
from proximo.scale.mesh import ALONE

Preflight = Literal["stop", "warn", "off"]
"""A failed check before a run's first step stops it, or is no more than said; off checks nothing."""

_ROWS = {"held_out": ("prompt",), "held_out_pairs": ("prompt", "chosen", "rejected")}
"""Settings that rows may be given for, and what each row must have."""

COLUMNS = (
    Column("score", "score", "score", ".3f"),
    Column("judge", "judge", "judge", ".2f"),
    Column("judge_se", "its standard error", "", ".2f"),
    Column("judge_distance", "√KL of the judged responses", "√KL", ".2f"),
    Column("judge_peak", "√KL of the judge's peak", "peak", ".2f"),
    Column("judge_peak_low", "at least", "", ".2f"),
    Column("judge_peak_high", "at most", "", ".2f"),
    Column("judge_alpha", "α", "", ".2f"),
    Column("judge_beta", "β of the judge's curve", "", ".2f"),
    Column("kl", "KL to reference", "KL", ".2f", " nats"),
    Column("kl_coefficient", "KL coefficient", "", ".4f"),
    Column("response_length", "response length", "length", ".1f"),
    Column("finished", "finished", "finished", ".0%"),
    Column("approx_kl", "KL of the update", "", ".4f"),
    Column("final_approx_kl", "KL after the last step", "", ".4f"),
    Column("clip_fraction", "clip fraction", "clip", ".2f"),
    Column("explained_variance", "explained variance", "EV", ".2f"),
    Column("entropy", "entropy", "", ".3f"),
    Column("distinct_2", "distinct-2", "distinct-2", ".2f"),
    Column("duplicates", "duplicates", "", ".1%"),
    Column("learning_rate", "learning rate", "", ".2e"),
    HEALTH,
)


class Trainer(IteratedTrainer[LanguageRun]):
    """PPO on a language model, iterated: `for metrics in Trainer("runs/x/sft", prompts=..., rewards=[brief]): ...`.

    Each iteration gives its metrics by name, with `step`, the responses so far. Left by `break`, or stopped by Ctrl-C,
    the run is saved, and iterating again resumes it. After the last iteration `run` has the results.

    Args:
        model: see `proximo.language.train`, as for all others.
        prompts: as there.
        rewards: as there.
        algorithm: as there.
        tokenizer: as there.
        run: as there.
        preset: as there.
        callbacks: as there.
        progress: as there.
        preflight: as there.
        stop_at: as there.
        fresh: as there.
        allow_change: as there.
        settings: as there.

    Raises:
        UserError: a setting can not mean anything, or what is given can not be used.
    """

    def __init__(
        self,
        model: Any,
        *,
        prompts: Any,
        rewards: Any,
        algorithm: str | UpdateSettings | type[UpdateSettings] | None = None,
        tokenizer: Any = None,
        run: str | PathLike[str] | None = None,
        preset: str | Path = "",
        callbacks: Sequence[GivenCallback] = (),
        progress: Mode = "auto",
        preflight: Preflight = "stop",
        stop_at: int | None = None,
        fresh: bool = False,
        allow_change: bool = False,
        **settings: Any,
    ) -> None:
        progress = checked_mode(progress)
        require_word("preflight", preflight, get_args(Preflight))
        call = Call(stop_at, fresh, allow_change)
        folder = folder_of_run(run)
        given = Given(Path(folder or "runs/new"))
        weights, own = named(rewards)
        if callable(judge := settings.get("judge")):
            name, own = named_judge(judge, own)
            settings = {**settings, "judge": name}
        values: dict[str, Any] = {"policy": given.model("policy", model, tokenizer), "rewards": weights}
        values |= {"prompts": given.rows("prompts", prompts, ("prompt",)), "run": folder}
        rows = {name: given.rows(name, settings[name], fields) for name, fields in _ROWS.items() if name in settings}
        settings = with_algorithm({"modules": folder_of(own), **settings, **rows}, algorithm)
        config = asked_for(configure("ppo", str(preset), ""), "train", settings, values)
        self._plan(config, progress, call, preflight, Callbacks(callbacks), given=given, own=own)

    @classmethod
    def of(
        cls,
        config: PPOConfig,
        mode: Mode = "auto",
        rewards: Sequence[RewardTerm] | None = None,
        call: Call | None = None,
        preflight: Preflight = "stop",
        callbacks: Sequence[GivenCallback] = (),
    ) -> "Trainer":
        """A trainer of settings that are complete.

        Args:
            config: complete.
            mode: how progress is shown.
            rewards: terms made in Python; those of `config.rewards` if None. A finished run of others is passed over.
            call: how this call begins and ends.
            preflight: see `Preflight`.
            callbacks: called while the run trains.
        """
        trainer = cls.__new__(cls)
        trainer._plan(config, mode, call or Call(), preflight, Callbacks(callbacks), rewards=rewards)
        return trainer

    def _plan(
        self,
        config: PPOConfig,
        mode: Mode,
        call: Call,
        preflight: Preflight,
        callbacks: Callbacks,
        *,
        rewards: Sequence[RewardTerm] | None = None,
        given: Given | None = None,
        own: Own | None = None,
    ) -> None:
        self.config, self._mode, self._call, self._preflight, self._callbacks = config, mode, call, preflight, callbacks
        self._rewards, self._given, self._own = rewards, given, own
        self._training: PPOTraining | None = None
        self._mesh = ALONE

    config: PPOConfig
    """All settings."""

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.config.run or f"runs/ppo-{Path(self.config.policy).name}-{self.config.seed}")

    @property
    def policy(self) -> Responder:
        """The policy as it is now: `trainer.policy.respond(["w1 w2"])`.

        Raises:
            UserError: there is none before the first iteration.
        """
        if self._training is None:
            raise UserError("there is no policy before the first iteration: iterate first")
        return Responder(self._training)

    @torch.inference_mode(False)  # each time that it goes on: what is trained is no inference tensor
    def _rows(self) -> Generator[dict[str, Any], None, None]:
        self.run = None
        self._mesh = mesh = current_mesh()
        messages: list[str] = []

        def opened() -> Opening:
            found, told = self._opened()
            messages.extend(told)
            return found

        opening = open_together(mesh, self.config, opened)
        if isinstance(opening, Followed):
            self.config = from_mapping(PPOConfig, tomllib.loads(opening.config), where="the settings of rank 0")
        config, folder = self.config, opening.folder
        if finished := opening.results:
            self.run = LanguageRun(folder.path, finished, finished_before=True)
            if self._given is not None and mesh.first:
                say_finished_before(folder.path, self._mode)
            return
        with alone(f"PPO in {folder.path}"), using_threads(config.threads), ExitStack() as stack:
            streams = stack.enter_context(OwnStreams(config.seed, mesh.rank))
            with mesh.led():
                if self._given is not None and mesh.first:
                    stack.enter_context(self._given.stored(folder))
            with mesh.led():
                training, meter, message = self._make(opening)
            with mesh.led():
                message += self._preflown(training, opening)
            with mesh.together():
                stack.enter_context(opening.open())
                self.config = config = replace(config, run=str(folder.path))  # a reward may have changed folders
                self._call = replace(self._call, fresh=False)  # or iterating again would delete this run
                if mesh.first:
                    note_made_from(folder, config)
                metrics = stack.enter_context(MetricsWriter(folder.path) if mesh.first else NoMetrics())
            messages += self._go_on(training, opening, metrics)
            if meter is not None:
                meter.recall(read_metrics(metrics.path))
            title = f"PPO · {config.policy} · {config.sharing.mode} · seed {config.seed}"
            shown: dict[str, Any] = {"folder": folder.path, "start": training.done, "columns": COLUMNS}
            mode: Mode = self._mode if mesh.first else "quiet"
            if not mesh.alone:
                title += f" · {mesh.size} ranks"
            kind = Progress if mesh.first else NoProgress
            progress = stack.enter_context(kind(title, config.responses, "responses", mode, **shown))
            for text in filter(None, [*messages, *message, opening.settle(f"{training.done:,} responses")]):
                progress.message(text)
            with StopRequest() as stop:
                recorder = Recorder(metrics, progress)
                session = Session(
                    training, folder, recorder, stop, self._call.stop_at, self._callbacks, self, mesh, streams
                )
                self._training, self._session = training, session
                stack.callback(setattr, self, "_session", None)
                stack.callback(self._callbacks.close)
                with mesh.led(), session.calling():
                    if mesh.first:
                        self._callbacks.start(self)
                stopped = yield from self._iterate(training, session, meter)
            if stopped:
                self.run = _stopped(training, session, stopped)
                return
            if cut := cut_by_clock(training):
                progress.warning(f"WARNING: {cut}")
            with training.roles.saving():
                self.run = LanguageRun(folder.path, mesh.of_the_first(lambda: finish(training, folder, meter)))
            with mesh.led(), session.calling():
                if mesh.first:
                    self._callbacks.finish(self, self.run.results)

    def _opened(self) -> tuple[Opening, list[str]]:
        """The folder, compared with what is asked for; and sentences on what is to be known of it."""
        call, folder, passed_over = self._call, RunFolder(self.folder), ""
        code = identity(own_algorithm(self.config.update))
        code |= code_of_rewards(_with_modules(self.config, folder, call), self._rewards, self._own)
        if self._rewards is not None and not call.fresh:
            folder, passed_over = free_folder(folder, code)
        if self._given is not None:
            self._given.check(folder, call)
        config = replace(located(_with_modules(self.config, folder, call)), run=str(folder.path))
        _check_judge(config)
        if not folder.exists:
            _check_unread(config)
        self.config, remark = settled(config, folder, call, choose_device(config.device))
        opening = Opening(folder, self.config, "policy", call, resolved=resolved)
        opening.check_code(code)
        check_made_from(opening)
        rate = Schedule.parse(self.config.learning_rate, "learning_rate")
        return opening, [passed_over, remark, unfollowed(rate, self.config.update.adaptive_kl)]

    def _make(self, opening: Opening | Followed) -> tuple[PPOTraining, Meter | None, list[str]]:
        """The training, before its folder: one that fails leaves nothing behind; its meter; what is to be known."""
        training, message = make_training(self.config, self._rewards, self._own, self._mesh)
        self._mesh.require_own(training.device)
        if not self._mesh.first:
            return training, None, []
        meter, judging = make_meter(training, opening.folder, self._own, strict=self._preflight == "stop")
        if meter is not None:
            self._callbacks.put_first(METER, meter)
        generates(training.roles.model, training.parameters.stop, self.config.temperature)
        check_savable(training.roles.model, training.tokenizer)
        return training, meter, [message, judging]

    def _preflown(self, training: PPOTraining, opening: Opening | Followed) -> list[str]:
        """What the preflight of a new run says, on all ranks where no rank has the whole policy."""
        asked = self._mesh.first or training.spread
        if opening.resumed or self._preflight == "off" or not asked:
            return []
        return _checked(training, stop=self._preflight == "stop")

    def _go_on(self, training: PPOTraining, opening: Opening | Followed, metrics: MetricsWriter) -> list[str]:
        """Go on where the last checkpoint is; what is to be known of it."""
        remarks: list[str] = []
        training.other_rows = self._call.allow_change
        if opening.resumed:
            resume(training, opening.folder, metrics, self._callbacks, self._mesh)
            if training.reshared:
                said = others_went_on(self._mesh.size)
                opening.note(f"resume not exact at {training.done:,} responses: {said}")
                remarks.append(f"{said}: each draws anew, so this is no longer the same run")
            with self._mesh.together():
                if self._mesh.first:
                    cut_texts(opening.folder, training.done)
                    cut_tokens(opening.folder, training.progress.iterations)
        if not training.spread:
            self._mesh.broadcast(training.optimizer.flat)  # another processor may have drawn other last bits
        if opening.changes:
            training.ended = None  # with other settings it may go on
        return remarks

    def _iterate(
        self, training: PPOTraining, session: Session, meter: Meter | None
    ) -> Generator[dict[str, Any], None, str | None]:
        """Iterate to the end; what asked to stop before, or None."""
        mesh, freed = self._mesh, FreedMemory()
        with mesh.together():
            tokens = TokenLog(session.folder, self.config.record_mb if mesh.first else 0.0)
        while training.ended is None:
            before = training.done
            session.agree()
            if session.stopped or (values := session.iterate()) is None:
                session.save()
                return session.stopped
            freed.tidy()
            row, ended = session.record({**values, "memory_mb": resident_memory()}, training.own_statistics)
            with mesh.together():
                if mesh.first:
                    keep_texts(training, session.folder, training.done)
                for text in tokens.keep(training):
                    session.recorder.progress.message(text)
            for sample in training.texts(1):
                session.recorder.progress.sample(**sample)
            seconds = session.recorder.metrics.seconds - (0.0 if meter is None else meter.spent)
            training.ended = decided(ending(training, values["kl"], seconds), mesh)
            if meter is not None:
                for text in meter.told():
                    session.recorder.progress.message(text)
            if ended and training.ended is None:
                at_peak = meter is not None and meter.passed and self.config.stop_at_peak
                training.ended = decided(PASSED if at_peak else f"callback {ended} ended it", mesh)
            if session.due(before) or training.ended is not None:
                session.save()
            yield from session.given(row)
        return None


def _check_judge(config: PPOConfig) -> None:
    """Refuse a judge that is optimised, and a stop at the peak that nobody could see.

    Raises:
        UserError: it is one.
    """
    same = resolved(config)
    if same.judge and without_label(same.judge)[0] in {without_label(name)[0] for name in same.rewards}:
        raise UserError(f"judge = {config.judge} is one of the rewards: what is optimised can not judge")
    if config.stop_at_peak and not config.judge:
        raise UserError("stop_at_peak needs a judge who sees the peak: set judge")


def _check_unread(config: PPOConfig) -> None:
    """Refuse settings that the algorithm does not read, of a new run.

    Raises:
        UserError: there is one.
    """
    try:
        config.update.check_unread(config)
    except ValueError as error:
        raise UserError(str(error)) from error


def _stopped(training: PPOTraining, session: Session, stopped: str) -> LanguageRun:
    path = session.folder.path
    kept = "as it was at its last checkpoint, if there is one," if session.lost else "saved"
    session.recorder.progress.message(f"{stopped}: {kept} in {path}; the same command resumes")
    return LanguageRun(path, {"responses": training.done}, stopped)


def _with_modules(config: PPOConfig, folder: RunFolder, call: Call) -> PPOConfig:
    """The settings with the folder of modules that a run goes on with, wherever its command is given again."""
    if config.modules or call.fresh or not folder.exists:
        return config
    return replace(config, modules=str(read_toml(folder.config).get("modules", "")))


def _checked(training: PPOTraining, *, stop: bool) -> list[str]:
    """The preflight's sentences: one on all checks, one for each that did not pass.

    Raises:
        UserError: a check failed, and `stop`.
    """
    with training.mesh.apart() if training.spread else nullcontext():
        checks = flight.preflight(training)
    wrong = flight.failed(checks)
    if wrong and stop:
        told = "; ".join(f"{check.name}: {check.seen} ({check.remedy})" for check in wrong)
        raise UserError(
            f"preflight failed, nothing was written: {told}; go on all the same with --override-preflight "
            "(from Python: preflight='warn')"
        )
    verdicts = [check.verdict for check in checks]
    summary = f"preflight: {verdicts.count('pass')} of {len(checks)} checks passed"
    return [summary, *(f"{c.verdict} {c.name}: {c.seen}; {c.remedy}" for c in checks if c.verdict in ("warn", "fail"))]
