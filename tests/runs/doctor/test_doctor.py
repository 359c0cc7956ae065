"""The doctor's rules on records made by hand: which finding, since when, and what it would change."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import CONTROL, LANGUAGE, control, language, row, seen, spoken

import proximo
from proximo.control.config import TrainConfig
from proximo.errors import UserError
from proximo.language.ppo_config import PPOConfig
from proximo.runs.config.toml import to_toml
from proximo.runs.doctor import format_report
from proximo.runs.doctor.record import Record, start_and_end
from proximo.runs.doctor.report import SHOWN, diagnose
from proximo.runs.doctor.story import went_well


def judged(i, mean):
    """An iteration whose judge says `mean`, with an error of 0.1; the score rises."""
    return {"score": 0.1 * i, "judge": mean, "judge_se": 0.1, "judge_distance": 0.1 * i}


def test_sound_runs_have_no_finding():
    assert seen(control()) == seen(language()) == []


@pytest.mark.parametrize(
    ("expected", "record"),
    [
        (("P020", "red"), control(lambda i: {"approx_kl": 20.0 if i == 3 else 0.01})),
        (("P020", "red"), control(lambda i: {"approx_kl": 0.3})),
        (("P020", "amber"), control(lambda i: {"approx_kl": 0.5 if i == 3 else 0.01})),
        (("P020", "red"), control(lambda i: {"gradient_steps": 1, "stopped_by_kl": 1})),
        (("P021", "red"), control(lambda i: {"approx_kl": 0.08}, update={"clip": "none"})),
        (("P022", "red"), control(lambda i: {"approx_kl": 1e-8, "clip_fraction": 0.0})),
        (("P024", "red"), control(lambda i: {"clip_fraction": 0.4}, update={"epochs": 80})),
        (("P025", "red"), control(lambda i: {"entropy": 1.0 if i < 9 else 0.0}, update={"entropy_coefficient": -0.1})),
        (("P025", "red"), control(lambda i: {"std": 0.01})),
        (("P025", "amber"), control(lambda i: {"entropy": 1.0 if i < 9 else 0.0})),
        (
            ("P026", "red"),
            control(lambda i: {"std": 1.0 + i, "clipped_actions": 0.7}, update={"entropy_coefficient": 0.5}),
        ),
        (("P030", "amber"), control(lambda i: {"explained_variance": -0.2})),
        (("P032", "red"), control(update={"value_coefficient": 0.0})),
        (("P033", "red"), control(gamma=0.5)),
        (("P041", "red"), control(lambda i: {"reward_mean": 0.0, "reward_std": 0.0})),
        (("P041", "amber"), control(lambda i: {"return": -200.0})),
        (
            ("P042", "amber"),
            control(lambda i: {"return": i - 60.0, "episode_length": 60.0 - i, "reward_mean": -1.0, "truncations": 0}),
        ),
        (
            ("P042", "red"),  # the task pays 1 for a step, a wrapper makes it cost 1
            control(lambda i: {"return": 60.0 - i, "episode_length": 60.0 - i, "reward_mean": -1.0, "truncations": 0}),
        ),
        (
            ("P042", "red"),  # the same, with both returns
            control(
                lambda i: {
                    "return": i - 60.0,
                    "task_return": 60.0 - i,
                    "episode_length": 60.0 - i,
                    "reward_mean": -1.0,
                    "truncations": 0,
                }
            ),
        ),
        (("P043", "red"), control(lambda i: {"return": 10.0 + i if i < 30 else 5.0})),
        (("P044", "red"), control(lambda i: {"episodes": 0}, environments=4)),
        (("P050", "red"), language(lambda i: {"score": 0.1 * i, "distinct_2": 0.8 - 0.015 * i})),
        (("P050", "red"), language(lambda i: {"score": 0.1 * i}, evaluation={"rise_sd": -0.5, "rise_se": 0.1})),
        (("P061", "red"), language(lambda i: judged(i, 0.05 * i if i < 20 else 1.9 - 0.05 * i))),
        (("P061", "amber"), language(lambda i: judged(i, 0.05 * i if i < 20 else 1.3 - 0.018 * i))),
        (("P052", "red"), language(lambda i: {"finished": 0.0})),
        (("P052", "amber"), language(lambda i: {"finished": 0.9 - 0.9 * i / 39})),
        (("P053", "amber"), language(lambda i: {"response_length": 10.0 + i})),
        (("P053", "red"), language(lambda i: {"response_length": 10.0 + i, "score_length_correlation": 0.95})),
        (("P054", "amber"), language(lambda i: {"duplicates": 0.01 * i, "score": 0.0})),
        (("P014", "red"), control(lambda i: {"truncations_missed": int(i == 30)})),
        (("P014", "red"), control(lambda i: {"truncations_faked": 1})),
        (
            ("P014", "red"),
            control(lambda i: dict.fromkeys(("truncations_compared", "truncations_faked"), int(i % 5 == 0))),
        ),
        (("P016", "red"), language(lambda i: {"sampler_gap": 0.4 if i == 30 else None})),
        (("P045", "amber"), control(lambda i: {"memory_mb": 500.0 + 2 * i}, count=10_000)),
    ],
)
def test_each_rule_names_what_it_is_for(expected, record):
    assert seen(record)[0] == expected


@pytest.mark.parametrize(
    "record",
    [
        control(lambda i: {"approx_kl": 0.01 if i < 20 else 1e-9, "clip_fraction": 0.0}),  # a schedule that ends at 0
        control(lambda i: {"entropy": 1.0 - 0.9 * i / 39}),  # a policy that becomes sure
        control(lambda i: {"std": 1.0 - 0.8 * i / 39}),
        control(
            lambda i: {"return": -500.0 + 10 * i, "episode_length": 500.0 - 10 * i, "reward_mean": -1.0}
        ),  # Acrobot
        control(lambda i: {"return": 10.0 + i % 3}),  # noise
        language(lambda i: judged(i, min(1.0, 0.05 * i) - 0.1 * (i % 2))),  # the judge is content
        language(lambda i: judged(i, 0.05 * i if i < 20 else 1.9 - 0.05 * i) if i < 4 else {}),  # asked four times
        control(lambda i: {"return": -200.0 if i < 30 else -150.0}),
        control(lambda i: {"explained_variance": -5.0, "return_std": 0.01}),  # all returns alike
        control(update={"clip": "none", "epochs": 1}),  # A2C
        control(gamma=0.95),
        control(lambda i: {"episodes": 0}, count=10),
        control(lambda i: {"truncations_faked": int(i < 4)}),  # four coincidences in a row
        control(lambda i: {"memory_mb": 500.0 if i < 20 else 900.0}),
        control(lambda i: {"memory_mb": 500.0 + 50 * min(i, 4)}),  # a warm-up
        language(lambda i: {"score": 0.1 * i}, evaluation={"rise_sd": 0.4, "rise_se": 0.1}),
        language(lambda i: {"response_length": 20.0 + 0.2 * i}),
    ],
)
def test_what_only_looks_like_it_is_left_alone(record):
    assert seen(record) == []


def test_the_cause_comes_before_what_follows_from_it():
    """Giant returns, and with them clipped gradients and a policy that hardly moves."""
    broken = control(
        lambda i: {
            "return_rms": 1e5,
            "grad_norm": 1e5,
            "grad_clip_fraction": 1.0,
            "approx_kl": 1e-9,
            "clip_fraction": 0,
        }
    )
    assert [code for code, _ in seen(broken)] == ["P031", "P022", "P023"]


def test_a_cliff_says_when_and_what_it_cost():
    first, *_ = diagnose(
        control(lambda i: {"approx_kl": 9.0 if i == 30 else 0.01, "return": 10.0 + i if i <= 30 else 4.0})
    )
    assert first.iteration == 30
    for part in ("iteration 30", "KL 9 nats", "return 40", "at worst 4 afterwards"):
        assert part in first.finding.evidence


def test_the_step_that_is_proposed_would_have_a_sound_kl():
    """KL grows with the square of the step: 100 times too far asks for a tenth of it."""
    first, *_ = diagnose(control(lambda i: {"approx_kl": 1.0}))
    rate = first.changes[0]
    assert (rate.option, rate.now, rate.proposed) == ("learning-rate", "0.001 -> 0", "'0.0001 -> 0'")
    assert str(rate) == "--learning-rate '0.001 -> 0' -> '0.0001 -> 0'"


def test_one_value_is_proposed_for_a_setting():
    """A cliff, and a return that fell off it: two findings that would change the learning rate."""
    fallen = control(lambda i: {"approx_kl": 9.0 if i == 20 else 0.01, "return": 10.0 + i if i <= 20 else 0.0})
    assert [code for code, _ in seen(fallen)] == ["P020", "P043"]
    options = [change.option for d in diagnose(fallen) for change in d.changes]
    assert sorted(options) == ["learning-rate", "update.target-kl"]


def test_an_invariant_that_ended_a_run_comes_first():
    error = {"step": 1, "error": "ratio-not-one: at the first minibatch the ratio is off by 0.1"}
    whole = control(lambda i: {"approx_kl": 9.0})
    for rows in (whole.rows, ()):
        first, *_ = diagnose(Record(whole.config, whole.kind, rows, error))
        assert (first.finding.code.number, first.iteration) == ("P012", len(rows))


def test_an_error_that_the_run_went_on_from_is_forgotten(tmp_path):
    rows, error = control().rows, {"step": 5, "time": 1.0, "error": "ratio-not-one: off by 1"}
    went_on = Record(CONTROL, control().kind, (*rows[:5], error, *rows[5:]))
    assert proximo.diagnose(folder(tmp_path / "on", went_on)).health == "green"
    assert proximo.diagnose(folder(tmp_path / "ended", Record(CONTROL, control().kind, (*rows, error)))).health == "red"


def test_start_and_end_are_medians_of_a_tenth():
    assert start_and_end(np.arange(30.0)) == (1.0, 28.0)
    assert start_and_end(np.array([3.0])) == (3.0, 3.0)
    assert np.isnan(start_and_end(np.zeros(0))).all()


def test_every_option_that_is_proposed_exists():
    fields = {to_toml(config) for config in (TrainConfig(), PPOConfig())}
    known = "\n".join(fields)
    broken = [
        control(lambda i: {"approx_kl": 9.0, "clip_fraction": 0.9}, update={"clip": "none", "epochs": 99}),
        control(lambda i: {"entropy": 0.0 if i else 1.0}, gamma=0.1, update={"value_coefficient": 0.0}),
        control(lambda i: {"std": 0.001, "return_rms": 1e6, "observation_rms": 1e6}),
        language(
            lambda i: {"score": i, "distinct_2": 1 / (i + 1), "finished": 0.0, "duplicates": i / 40, "kl": 99.0 * i}
        ),
        language(lambda i: {"response_length": 9.0 + i, "sampler_gap": 1.0}),
    ]
    options = {c.option for record in broken for d in diagnose(record) for c in d.changes if c.proposed}
    assert len(options) > 8
    for option in options:
        assert f"{option.rpartition('.')[2].replace('-', '_')} = " in known, option


def folder(path, record):
    path.mkdir()
    lines = [*record.rows, *([record.error] if record.error else [])]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "config.toml").write_text(to_toml(TrainConfig()))
    return path


def test_the_report_fits_a_screen_and_json_has_all(tmp_path):
    broken = control(
        lambda i: {
            "approx_kl": 9.0,
            "reset_row_weight": 1.0,
            "normalizers_moved": 1.0,
            "normalizers_still": 1,
            "truncations_missed": 1,
            "observation_rms": 1e6,
            "return_rms": 1e6,
            "explained_variance": -1.0,
        }
    )
    report = proximo.diagnose(folder(tmp_path / "run", broken))
    text = format_report(report)
    assert text.startswith(f"red  {tmp_path / 'run'}: 40 iterations, 40,000 steps (40 red)")
    assert len(text.splitlines()) <= 45
    plain = json.loads(json.dumps(report.plain()))
    assert plain["health"] == "red"
    assert len(plain["findings"]) > SHOWN
    assert f"and {len(plain['findings']) - SHOWN} more" in text


def test_what_went_well_is_said():
    assert went_well(control()) == [
        "return 10 -> 49 (best 49)",
        "the critic explains 80% of the returns' variance",
        "updates of a sound size (KL 0.01 nats)",
        "the policy that learnt was the one that acted (ratio 1 within 1e-06)",
    ]


def test_a_judge_that_agrees_is_named():
    said = "a held-out judge prefers it by 0.40 standard deviations (standard error 0.10)"
    assert said in went_well(language(evaluation={"rise_sd": 0.4, "rise_se": 0.1}))
    assert not any("judge" in line for line in went_well(language(evaluation={"rise_sd": 0.1, "rise_se": 0.1})))


SOUND = "kind = 'control'\n[update]"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no run (no config.toml): check the path"),
        ({"config.toml": "steps = 3"}, "is no PPO run (its config.toml says no kind): give one of"),
        ({"config.toml": "kind = 'sft'"}, "is no PPO run (its config.toml says kind = 'sft')"),
        ({"config.toml": SOUND}, "has no metrics.jsonl, so there is nothing to go by: run it first"),
        ({"config.toml": SOUND, "metrics.jsonl": ""}, "has no iteration yet: wait for the first"),
        ({"config.toml": "a =", "metrics.jsonl": '{"step": 1, "time": 0}\n'}, "is not valid TOML"),
        (
            {"config.toml": SOUND, "metrics.jsonl": '{"step": 1, "time": 0}\n', "evaluation.json": "{"},
            "evaluation.json can not be read",
        ),
    ],
)
def test_a_folder_without_a_run_is_refused_in_a_sentence(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        proximo.diagnose(tmp_path)
    assert message in str(error.value)


def test_a_noisy_score_is_no_fall():
    """Means of 64 responses scatter by an eighth of their spread; the highest of many is luck."""
    scores = np.random.default_rng(0).normal(0.0, 1 / 8, 400)
    still = {"kl": 0.0, "kl_k3": 0.0}
    assert seen(language(lambda i: {"score": float(scores[i]), **still}, count=400)) == []
    fallen = language(lambda i: {"score": float(scores[i]) + (1.0 if 50 < i < 200 else 0.0), **still}, count=400)
    assert seen(fallen) == [("P043", "red")]


NUMBERS = st.one_of(
    st.none(), st.booleans(), st.text(max_size=3), st.lists(st.none(), max_size=1), st.integers(-3, 3), st.floats()
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_files_of_any_content_give_a_report_or_a_sentence(data):
    """Whatever values the rows and settings have: a diagnosis, never a traceback."""
    speaks = data.draw(st.booleans())
    sound = spoken(0) if speaks else {**row(0), **{"memory_mb": 1.0, "std": 0.5, "clipped_actions": 0.1}}
    names = st.sampled_from(sorted({*sound, "sampler_gap", "observation_rms", "health", "normalizers_moved"}))
    rows = []
    for i in range(data.draw(st.integers(1, 8))):
        changed = data.draw(st.dictionaries(names, NUMBERS, max_size=6))
        rows.append({**(spoken(i) if speaks else row(i)), **changed})
    config = {**(LANGUAGE if speaks else CONTROL)}
    config |= data.draw(st.dictionaries(st.sampled_from(sorted(config)), NUMBERS, max_size=3))
    record = Record(
        config, (language if speaks else control)().kind, tuple(rows), evaluation={"rise_sd": data.draw(NUMBERS)}
    )
    for found in diagnose(record):
        json.dumps(found.plain())
    went_well(record)
