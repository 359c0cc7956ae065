"""`proximo rlhf chat`, `evaluate` and `presets`: a language run on disk, asked."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from proximo.cli.forms import SAYS_ITS_DEFAULT, Flag
from proximo.cli.options import command
from proximo.errors import UserError
from proximo.foreign_options import ASKING
from proximo.language.config import require_seed


@dataclass(frozen=True)
class Chat:
    """Answer prompts with the model before and after PPO, and show both with their reward."""

    run: tyro.conf.Positional[Path]
    """Folder that `proximo rlhf all` wrote, or its ppo folder."""
    prompt: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], SAYS_ITS_DEFAULT]] = ()
    """Prompt to answer; give the option once for each (default: the run's held-out prompts, or else its own)."""
    count: int = 5
    """Number of the run's prompts."""
    seed: int = 1
    """Sampling seed, the same for both models."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        """Refuse a seed that torch has no room for.

        Raises:
            ValueError: it is one.
        """
        require_seed(self.seed)

    def __call__(self) -> int:
        """Print both answers to each prompt."""
        if self.count < 1:
            raise UserError(f"--count {self.count} must be positive")
        from proximo.language.chat import side_by_side

        rows = side_by_side(self.run, self.prompt, self.count, self.seed)
        if self.json:
            print(json.dumps(rows))
            return 0
        _print_answers(rows["answers"])
        print(f"mean reward {rows['before_score']:+.2f} before, {rows['after_score']:+.2f} after")
        _print_notes(rows["notes"])
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure what PPO did: the same prompts answered before and after, and judged."""

    run: tyro.conf.Positional[Path]
    """Folder that `proximo rlhf all` wrote, or its ppo folder."""
    judge: Annotated[Path | None, SAYS_ITS_DEFAULT] = None
    """Folder of the judge (default: RUN/judge)."""
    prompts: Annotated[str, SAYS_ITS_DEFAULT] = ""
    """File of prompts (default: the run's held-out prompts, or else its own)."""
    count: int = 256
    """Number of prompts."""
    seed: int = 7
    """Sampling seed, the same for both models."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        """Refuse a seed that torch has no room for.

        Raises:
            ValueError: it is one.
        """
        require_seed(self.seed)

    def __call__(self) -> int:
        """Print what `compare` finds."""
        if self.count < 2:
            raise UserError(f"--count {self.count} must be at least 2: a spread is measured over the prompts")
        from proximo.language.comparison import compare
        from proximo.language.stages import built_in_file

        seen = compare(self.run, self.judge, prompts=built_in_file(self.prompts), count=self.count, seed=self.seed)
        if self.json:
            print(json.dumps(seen))
            return 0
        _print_answers(seen["examples"])
        print(
            f"\njudge      {seen['judge_before']:+.2f} -> {seen['judge_after']:+.2f}: {seen['rise_sd']:+.2f} standard "
            f"deviations (standard error {seen['rise_se']:.2f}), better on {seen['better_share']:.0%} of "
            f"{seen['prompts']} prompts"
        )
        print(f"reward     {seen['reward_before']:+.2f} -> {seen['reward_after']:+.2f} (what PPO optimised)")
        print(f"KL         {seen['kl']:.2f} nats per response (standard error {seen['kl_se']:.2f})")
        for name, form in _STATISTICS.items():
            print(f"{name.replace('_', ' '):<16} {seen[f'{name}_before']:{form}} -> {seen[f'{name}_after']:{form}}")
        _print_notes(seen["notes"])
        return 0


_STATISTICS = {
    "distinct_1": ".3f",
    "distinct_2": ".3f",
    "duplicates": ".1%",
    "response_length": ".1f",
    "finished": ".1%",
}


def _print_answers(answers: list[dict[str, Any]]) -> None:
    """Three lines for each prompt: texts, and what a chat template wrote out, have line breaks of their own."""
    for row in answers:
        print(" ".join(row["prompt"].split()))
        for side in ("before", "after"):
            print(f"  {side:6} {row[f'{side}_score']:+6.2f} {' '.join(row[side].split())}")


def _print_notes(notes: list[str]) -> None:
    """Limits of the prompts that bear on the numbers."""
    for note in notes:
        print(f"note: {note}")


@dataclass(frozen=True)
class Presets:
    """List the presets and where their numbers come from, or print the TOML of one, to start your own from."""

    preset: tyro.conf.Positional[Annotated[str, SAYS_ITS_DEFAULT]] = ""
    """Name of a shipped preset or part of it, or the path of a TOML file (default: all presets in short)."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __call__(self) -> int:
        """Print all presets in short, or one preset's TOML."""
        from proximo.language.stages import find_preset, presets

        known = presets()
        part = [preset for preset in known if self.preset.lower() in preset.name.lower()]
        exact = self.preset in [preset.name for preset in known]
        if self.preset and (exact or len(part) < 2):
            one = part[0] if part and not exact else find_preset(self.preset)
            text = one.file.read_text("utf-8").rstrip()
            print(json.dumps(_in_short(one) | {"stages": one.stages}) if self.json else text)
            return 0
        found = part
        if self.json:
            print(json.dumps({"presets": [_in_short(preset) for preset in found]}))
            return 0
        from proximo.runs.console.tables import print_table

        print_table([(p.name, p.about, p.source) for p in found], ["preset", "about", "source"])
        print("`proximo rlhf presets NAME` prints a preset's TOML, to start your own from")
        return 0


def _in_short(preset: Any) -> dict[str, Any]:
    return {"preset": preset.name, "about": preset.about, "source": preset.source}


VERBS: Mapping[str, Callable[[list[str]], int]] = {
    "evaluate": command(Evaluate, "rlhf evaluate", ASKING),
    "chat": command(Chat, "rlhf chat", ASKING),
    "presets": command(Presets, "rlhf presets"),
}
