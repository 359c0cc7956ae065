"""Every setting, metric and finding is explained, by the texts that stand where it is defined."""

import ast
import inspect
import json
import re
import tomllib
from dataclasses import fields, is_dataclass
from importlib import resources

import pytest
from control_runs import running
from language_runs import MODES
from language_runs import training as language_training

import proximo
from proximo import algorithms
from proximo.algorithms import GRPO, TRPO, PPOPenalty
from proximo.cli import main as cli
from proximo.control.config import TrainConfig
from proximo.control.doctor_rules import episodes, fruitless
from proximo.errors import UserError
from proximo.language import doctor_rules
from proximo.language.stages import CONFIGS
from proximo.runs.doctor import critic, learning, step
from proximo.runs.doctor import resources as doctor_resources
from proximo.runs.health import returns, rules
from proximo.runs.health.codes import CODES
from proximo.runs.health.reads import READS
from proximo.views.explain.formulas import FORMULAS
from proximo.views.metrics_others import FAMILIES, OTHERS, text_of_metric
from proximo.views.metrics_texts import TEXTS


def names_in(config, before=""):
    """Dotted names of everything that a configuration holds."""
    for entry in fields(config):
        yield f"{before}{entry.name}"
        if is_dataclass(value := getattr(config, entry.name)):
            yield from names_in(value, f"{before}{entry.name}.")


def all_settings():
    found = {name for config in (TrainConfig, *CONFIGS.values()) for name in names_in(config())}
    classes = (getattr(algorithms, name) for name in algorithms.__all__)
    return found | {name for cls in classes if hasattr(cls, "lacks") for name in names_in(cls(), "update.")}


def test_every_setting_of_every_run_and_algorithm_has_its_text_type_and_default():
    names = all_settings()
    assert len(names) > 130
    for name in names:
        (setting,) = (s for s in proximo.explain(name).settings if s.name == name)
        assert all(place.text and place.kind for place in setting.places), name
        shown = str(proximo.explain(name))
        assert "default" in shown or "settings" in shown


@pytest.fixture(scope="module")
def rows(runs):
    """What runs of both worlds have really recorded, by several algorithms."""
    recorded = list(proximo.metrics(runs[0]))
    for algorithm in (TRPO(minibatch_size=32), PPOPenalty(epochs=1, minibatch_size=64)):
        with running("CartPole-v1", normalizers={"observations": True}) as training:
            training.algorithm = algorithm
            recorded.append(training.iterate())
    updates = ({}, {"update": GRPO(epochs=1, minibatch_size=4, group=2)})
    return [*recorded, *(language_training(MODES[0], **update).iterate() for update in updates)]


def test_every_metric_that_a_run_records_is_explained(rows):
    names = {name for row in rows for name in row}
    assert {"health", "truncations_faked", "step_share", "kl_penalty", "equal_groups", "sampler_gap"} <= names
    for name in names:
        found = proximo.explain(name)
        assert found.metric is not None, name
        assert found.metric.sentence in " ".join(str(found).split())


def test_metrics_are_defined_once_and_in_one_sentence():
    assert not set(TEXTS) & set(OTHERS)
    for text in (*OTHERS.values(), *FAMILIES.values()):
        assert text.sentence.endswith(".")
        assert text.sentence.count(". ") == 0


def leaves(table, before=""):
    for key, value in table.items():
        if isinstance(value, dict) and key not in ("options", "rewards", "encoders"):
            yield from leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", tuple(value) if isinstance(value, list) else value


def shipped():
    """Each number of each shipped preset, as the files have it: verb, setting, value, whether it is the paper's."""
    for file in (resources.files("proximo.control") / "presets").iterdir():
        for name, table in tomllib.loads(file.read_text("utf-8")).items():
            for part in [table, *table.get("tasks", {}).values()] if isinstance(table, dict) else ():
                for key, value in leaves({k: v for k, v in part.items() if k not in ("tasks", "source")}):
                    yield "train", key, value, name == "paper"
    verbs = {"sft": "rlhf sft", "reward": "rlhf reward, judge", "judge": "rlhf reward, judge", "ppo": "rlhf ppo"}
    for file in (resources.files("proximo.language") / "presets").iterdir():
        for stage, table in tomllib.loads(file.read_text("utf-8")).items():
            if isinstance(table, dict):
                yield from ((verbs[stage], key, value, False) for key, value in leaves(table))


def test_what_presets_set_is_told_as_their_files_have_it():
    given = list(shipped())
    assert len(given) > 200
    for verb, name, value, paper in given:
        (setting,) = (s for s in proximo.explain(name).settings if s.name == name)
        defaults = [place.default for place in setting.places if place.verb in (verb, "--algorithm ppo-penalty")]
        told = [use.value for use in (setting.paper if paper else setting.changed) if use.verb == verb]
        assert (None if value == "none" else value) in (told if paper else [*told, *defaults]), name


def test_the_papers_clip_is_that_of_its_tables():
    told = {use.preset: use.value for use in proximo.explain("update.clip").settings[0].paper}
    assert told["mujoco paper"] == 0.2  # Schulman et al. 2017, table 3
    assert told["atari paper"] == "0.1 -> 0"  # table 5: 0.1 x alpha, which falls to 0
    assert "eq. 7" in str(proximo.explain("update.clip"))


def test_formulas_are_of_settings_and_name_them():
    names = all_settings()
    for name, formula in FORMULAS.items():
        assert name in names
        last = name.rpartition(".")[2]
        assert last in formula.text or last in ("normalize_advantages",)
        assert any(year in formula.source for year in map(str, range(1950, 2027))), name


RULES = (rules, returns, step, critic, doctor_resources, learning, episodes, fruitless, doctor_rules)


def functions():
    """Of all rules: the codes that each names, the words in it, and the functions and classes that it calls."""
    for module in RULES:
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                every = list(ast.walk(node))
                words = {x.value for x in every if isinstance(x, ast.Constant) and isinstance(x.value, str)}
                words |= {start + end for start in words for end in words if start in ("truncations", "ended_task_")}
                if any(isinstance(x, ast.Attribute) and x.attr == "result" for x in every):
                    words |= {"return", "score"}
                called = {x.id for x in every if isinstance(x, ast.Name)}
                yield node.name, {x for x in words if x in CODES}, words, called


def test_a_finding_is_said_to_read_what_its_rule_reads():
    table = {}
    for name, codes, words, called in functions():
        before = table.get(name, (set(), set(), set()))  # two files may each have a function of that name
        table[name] = (before[0] | codes, before[1] | words, before[2] | called)

    def reached(name, seen):
        if name in seen or name not in table:
            return set()
        return table[name][1].union(*(reached(other, seen | {name}) for other in table[name][2]))

    for code, metrics in READS.items():
        words = set().union(*(reached(name, set()) for name, (codes, *_) in table.items() if code in codes))
        assert set(metrics) <= words, code
    for name, codes, words, _ in functions():
        if codes:
            told = {metric for code in codes for metric in READS.get(code, ())}
            assert {x for x in words if text_of_metric(x)} <= told, name


def test_every_option_that_a_page_advises_is_a_setting_and_names_the_finding():
    names = all_settings()
    for code in CODES.values():
        advised = re.findall(r"`--([a-z.-]+)", code.page.read_text("utf-8").partition("What to change first")[2])
        for option in advised:
            name = option.replace("-", "_").replace(".no_", ".")
            assert name in names, (code.label, option)
            assert code.label in str(proximo.explain(name)).replace("\n", " ")


def test_a_name_is_found_however_it_is_written_and_shows_all_that_it_is():
    page = CODES["P020"].text
    for name in ("P020", "p020", "step-too-large", "P020-step-too-large"):
        assert str(proximo.explain(name)) == page.rstrip()
    for name in ("target_kl", "update.target_kl", "--update.target-kl"):
        assert [s.name for s in proximo.explain(name).settings] == ["update.target_kl"]
    assert [s.name for s in proximo.explain("clip").settings] == ["update.clip", "normalizers.clip"]
    both = proximo.explain("learning_rate")
    assert both.settings
    assert both.metric is TEXTS["learning_rate"]
    assert {code.number for code in proximo.explain("reward-noise").findings} == {"P049", "E014"}


def test_an_unknown_name_is_answered_with_the_nearest(capsys):
    with pytest.raises(UserError, match=r"'target_lk': did you mean target_kl"):
        proximo.explain("target_lk")
    assert cli.main(["explain", "aprox_kl"]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert re.fullmatch(r"proximo: [^\n]*approx_kl[^\n]*\n", told.err)
    with pytest.raises(UserError, match="lists all names"):
        proximo.explain("qqqqq")
    for name, ours in (("ent_coef", "--update.entropy-coefficient"), ("--lr", "--learning-rate"), ("beta_", "")):
        with pytest.raises(UserError, match=re.escape(f"here it is {ours}") if ours else "did you mean beta"):
            proximo.explain(name)
    with pytest.raises(UserError, match=r"'log_interval': every iteration is recorded"):
        proximo.explain("log_interval")


def test_the_command_line_takes_the_spelling_of_an_option(capsys):
    assert cli.main(["explain", "--update.target-kl", "--json"]) == 0
    assert [found["name"] for found in json.loads(capsys.readouterr().out)["settings"]] == ["update.target_kl"]


def test_all_names_are_listed_and_each_is_one_that_is_explained(capsys):
    assert cli.main(["explain", "--json"]) == 0
    names = json.loads(capsys.readouterr().out)
    assert all_settings() <= set(names["settings"])
    for name in (*names["settings"], *names["metrics"], *names["findings"]):
        told = json.loads(json.dumps(proximo.explain(name).plain(), allow_nan=False))
        assert told["settings"] or told["metric"] or told["findings"]
    assert cli.main(["explain"]) == 0
    assert "approx_kl" in capsys.readouterr().out
