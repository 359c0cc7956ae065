"""What a stage computes in, when it ends, and whether what it made may decide anything."""

import json
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from proximo.cli.main import main
from proximo.errors import UserError
from proximo.language.comparison import compare
from proximo.language.compute import precision
from proximo.language.compute.precision import chosen_type
from proximo.language.config import SFTConfig
from proximo.language.data.dataset import Pair
from proximo.language.rewards.chance import no_better_than_chance, standard_error
from proximo.language.rewards.judge import ABOUT
from proximo.language.rewards.preferences import preference_report
from proximo.language.stages import presets
from proximo.language.supervised.sft import train_sft
from proximo.runs.config.toml import read_toml
from proximo.runs.session.opening import Call

CPU = torch.device("cpu")


def rlhf(capsys, *arguments):
    code = main(["rlhf", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    ("capability", "flags", "allowed", "expected"),
    [
        ("AVX512", {"avx512_bf16"}, "ALL", "bfloat16"),
        ("AVX512", {"amx_bf16"}, "DEFAULT", "bfloat16"),
        ("AVX512", {"avx512f"}, "ALL", "float32"),  # of 2017: AVX-512 without bfloat16
        ("AVX2", {"avx512_bf16", "amx_bf16"}, "ALL", "float32"),  # torch is held to AVX2
        ("AVX512", {"avx512_bf16", "amx_bf16"}, "AVX2", "float32"),  # oneDNN is
        ("AVX512", {"amx_bf16"}, "AVX512_CORE_BF16", "float32"),
        ("AVX512", {"avx512_bf16"}, "AVX512_CORE_BF16", "bfloat16"),
        ("DEFAULT", set(), "ALL", "float32"),
    ],
)
def test_auto_takes_the_type_that_the_processor_multiplies_in(monkeypatch, capability, flags, allowed, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(precision, "processor_flags", lambda: frozenset(flags))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert chosen_type("auto", CPU) == expected
    assert [chosen_type(name, CPU) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]


def test_a_process_held_to_avx2_chooses_float32():
    """As on most laptops; torch and oneDNN read these names themselves."""
    code = (
        "import torch; from proximo.language.compute.precision import chosen_type as t\n"
        "print(t('auto', torch.device('cpu')))"
    )
    held = os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert subprocess.check_output([sys.executable, "-c", code], env=held, text=True).strip() == "float32"


def test_a_run_keeps_the_type_that_it_was_begun_with(files, tiny_folder, monkeypatch, capsys):
    config = SFTConfig(str(tiny_folder), str(files / "sft.jsonl"), output=str(files / "out"), compute="auto", batch=8)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: False)
    train_sft(config, call=Call(stop_at=1))
    assert "matrix products in float32" in capsys.readouterr().err
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    assert train_sft(config)["steps"] == 3
    assert read_toml(files / "out" / "config.toml")["compute"] == "float32"


def test_every_shipped_preset_ends_by_work_and_lets_the_processor_choose_its_type():
    for preset in presets():
        for stage, table in preset.stages.items():
            assert table.get("compute", "float32") in ("auto", "float32"), (preset.name, stage)
            if "minutes" in table:
                assert "steps" in table or "responses" in table, (preset.name, stage)


def test_steps_end_a_stage_with_its_learning_rate_at_the_end(files, tiny_folder):
    config = SFTConfig(str(tiny_folder), str(files / "sft.jsonl"), output=str(files / "out"), batch=4, steps=4)
    assert train_sft(config)["steps"] == 4
    rows = [json.loads(line) for line in (files / "out" / "metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    assert len(rates) == 4
    assert rates[-1] < 0.1 * max(rates)  # cosine, at 3.5 of 4 steps
    more = SFTConfig(str(tiny_folder), str(files / "sft.jsonl"), output=str(files / "more"), batch=4, steps=400)
    assert train_sft(more)["steps"] == 6, "all of one epoch: steps is a cap"


def test_what_the_clock_cuts_is_said_by_the_stage_and_by_the_evaluation(capsys, preset, tmp_path):
    text = (
        preset.read_text()
        .replace("[reward]", "minutes = 1e-9\n[reward]")
        .replace("[ppo.update]", "minutes = 1e-9\n[ppo.update]")
    )
    preset.write_text(text)
    code, out, err = rlhf(capsys, "all", "--preset", preset, "--run", tmp_path / "run")
    assert code == 0, err
    for shown in (out, err):  # among the lines of progress, and beside the result
        assert re.search(r"WARNING: the clock cut this stage: 1e-09 minutes were over after \d of 3 steps", shown)
        assert "WARNING: the clock cut this stage: 1e-09 minutes were over after 8 of 24 responses" in shown
    code, out, _ = rlhf(capsys, "evaluate", tmp_path / "run", "--count", "4")
    assert code == 0
    notes = [line for line in out.splitlines() if line.startswith("note:")]
    assert sum("the clock cut this stage" in note for note in notes) == 2, notes


def coin(texts, pairs, seed):
    """Pairs that share texts, people's choice of each by the texts' worth, and scores that say nothing of it."""
    stream = np.random.default_rng(seed)
    scores, worth = stream.standard_normal(texts), stream.standard_normal(texts)
    sides = [sorted(stream.choice(texts, 2, replace=False), key=lambda i: -worth[i]) for _ in range(pairs)]
    sides = np.array(sides)
    return [Pair([a], [b], 1.0) for a, b in sides], scores[sides[:, 0]], scores[sides[:, 1]]


def test_a_coin_is_told_on_pairs_that_share_texts():
    """200 texts in 1,000 pairs: the accuracies of coins spread more than those of 1,000 tosses do."""
    reports = []
    for seed in range(100):
        pairs, chosen, rejected = coin(200, 1000, seed)
        reports.append(preference_report(pairs, torch.tensor(chosen), torch.tensor(rejected)))
    spread = float(np.std([r["accuracy"] for r in reports]))
    assert 0.5 / 1000**0.5 < spread < reports[0]["accuracy_se"] == standard_error(1000, 200)
    told = [bool(no_better_than_chance(r)) for r in reports]
    assert np.mean(told) > 0.9


@pytest.mark.parametrize(
    ("accuracy", "pairs", "texts", "weak"),
    [
        (0.52, 1000, 700, True),
        (0.68, 1000, 700, False),
        (0.52, 40_000, 40_000, False),
        (0.7, 20, 40, False),
        (0.3, 500, 500, True),
    ],
)
def test_which_accuracies_are_a_coins(accuracy, pairs, texts, weak):
    report = {"accuracy": accuracy, "pairs": pairs, "accuracy_se": standard_error(pairs, texts)}
    assert bool(no_better_than_chance(report)) == weak


def test_nothing_is_said_of_what_was_not_measured():
    assert no_better_than_chance({}) == ""


@pytest.fixture
def with_noise(preset, files):
    """The preset with held-out pairs that follow nothing: no model can tell them."""
    stream = random.Random(1)
    rows = []
    for i in range(200):
        a, b = (f"w{stream.randint(4, 63)} w{stream.randint(4, 63)} w{i % 60 + 4}" for _ in range(2))
        rows += [{"prompt": "w5", "chosen": a, "rejected": b}, {"prompt": "w5", "chosen": b, "rejected": a}]
    (files / "noise.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files / "noise.jsonl"


@pytest.mark.parametrize(("stage", "name"), [("reward", "reward model"), ("judge", "judge")])
def test_a_scorer_no_better_than_chance_ends_the_pipeline(capsys, preset, with_noise, tmp_path, stage, name):
    preset.write_text(preset.read_text().replace(f"[{stage}]", f'[{stage}]\nvalidation = "{with_noise}"'))
    code, _, err = rlhf(capsys, "all", "--preset", preset, "--run", tmp_path / "run", "--quiet")
    assert code == 2
    assert f"the {name} in" in err
    pairs = len({tuple(row.values()) for row in map(json.loads, with_noise.open()) if row["chosen"] != row["rejected"]})
    assert f"50.0% of its {pairs} held-out pairs right, no better than chance" in " ".join(err.split())
    assert not (tmp_path / "run" / "ppo").exists()
    again = rlhf(capsys, "all", "--preset", preset, "--run", tmp_path / "run", "--quiet")
    assert again[0] == 2, "what is done already is not passed over"
    code, _, err = rlhf(capsys, "all", "--preset", preset, "--run", tmp_path / "run", "--quiet", "--override-preflight")
    assert code == 0, err


def test_ppo_and_evaluation_refuse_a_scorer_that_is_known_to_be_a_coin(capsys, preset, with_noise, tmp_path):
    preset.write_text(preset.read_text().replace("[reward]", f'[reward]\nvalidation = "{with_noise}"'))
    for stage in ("sft", "reward", "judge"):
        assert rlhf(capsys, stage, "--preset", preset, "--run", tmp_path / "run", "--quiet")[0] == 0
    ppo = ("ppo", "--preset", preset, "--run", tmp_path / "run", "--quiet")
    code, _, err = rlhf(capsys, *ppo)
    assert code == 2
    assert "no better than chance" in err
    assert not (tmp_path / "run" / "ppo").exists()
    assert rlhf(capsys, *ppo, "--override-preflight")[0] == 0
    about = tmp_path / "run" / "judge" / ABOUT
    coins = {"report": {"accuracy": 0.52, "accuracy_se": 0.02, "pairs": 1050}}
    about.write_text(json.dumps(json.loads(about.read_text()) | coins))
    with pytest.raises(UserError, match=r"can not judge: it tells 52\.0% of its 1,050 held-out pairs right"):
        compare(tmp_path / "run", count=4)
