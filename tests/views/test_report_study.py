"""The page of a search: a study with a planted answer, in a real browser."""

import math
import shutil

import numpy as np
import optuna
import pytest

import proximo
from proximo.errors import UserError

LAWS = {
    "learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True),
    "update.epochs": optuna.distributions.IntDistribution(2, 20),
    "1 - gamma": optuna.distributions.FloatDistribution(1e-3, 0.1, log=True),
}


def searched(folder, run, count=40):
    """A search whose return follows from the learning rate alone; every eighth trial was ended early."""
    folder.mkdir()
    study = optuna.create_study(storage=f"sqlite:///{folder / 'study.db'}", study_name="proximo", direction="maximize")
    stream = np.random.default_rng(0)
    for i in range(count):
        rate, epochs, gamma = 10 ** stream.uniform(-5, -2), int(stream.integers(2, 21)), 10 ** stream.uniform(-3, -1)
        value = 100 - 30 * abs(math.log10(rate) + 3.5)
        drawn = {"learning_rate": rate, "update.epochs": epochs, "1 - gamma": gamma}
        kind = {"state": optuna.trial.TrialState.PRUNED, "intermediate_values": {3: value / 2}}
        kind = kind if i % 8 == 7 else {"value": value}
        study.add_trial(optuna.trial.create_trial(params=drawn, distributions=LAWS, **kind))
    for trial in sorted(study.trials, key=lambda trial: -(trial.value or -math.inf))[:2]:
        shutil.copytree(run, folder / f"trial-{trial.number:04d}")
    return folder, study


@pytest.fixture(scope="module")
def search(runs, tmp_path_factory):
    return searched(tmp_path_factory.mktemp("search") / "tune-pole", runs[0])


def test_what_mattered_is_the_longest_bar_and_each_trial_is_where_it_came_to(search, page):
    folder, study = search
    file = proximo.report(folder)
    assert file == folder / "report.html"
    page.open(f"file://{file}")
    for plot in ("importance", "trials", "drawn-0"):
        page.run(f"document.querySelector('#plot-{plot}').scrollIntoView()")
        page.wait(f"document.querySelector('#plot-{plot} .main-svg')")
    names, shares = page.run("(({y, x}) => [y, x])(document.querySelector('#plot-importance').data[0])")
    assert names[-1] == "learning_rate"
    assert shares[-1] > 80
    assert sum(shares) == pytest.approx(100, abs=0.1)
    _, whole, cut = page.run("document.querySelector('#plot-trials').data.map(({x, y}) => [x, y])")
    known = [trial for trial in study.trials if trial.value is not None]
    assert whole == [[trial.number for trial in known], [float(f"{trial.value:.5g}") for trial in known]]
    assert cut[0] == [7, 15, 23, 31, 39]
    assert cut[1][0] == pytest.approx(study.trials[7].intermediate_values[3], rel=1e-4)
    assert page.run("document.querySelector('#plot-drawn-0').layout.xaxis.type") == "log"
    titles = "document.querySelector('#plot-drawn-0').layout"
    titles = page.run(f"[{titles}.xaxis.title.text, {titles}.yaxis.title.text]")
    assert titles == ["learning_rate, step size of Adam", "return, reward per episode"]
    said = page.run("document.querySelector('figure:has(#plot-drawn-2) .explained').dataset.sentence")
    assert next(iter(proximo.explain("gamma").settings)).places[0].text.split(".")[0] in said
    assert page.run("data.runs.length") == 2
    assert page.errors == []


def test_a_search_of_few_trials_says_what_is_missing_and_a_damaged_one_is_refused(search, runs, tmp_path):
    folder, _ = searched(tmp_path / "few", runs[0], 8)
    said = proximo.report(folder).read_text("utf-8")
    assert "it takes 20 trials, and there are 8 so far. Below stand what each trial came to" in said
    (folder / "report.html").unlink()
    (folder / "study.db").write_bytes(b"no database")
    with pytest.raises(UserError, match="is no search of proximo tune, or is damaged"):
        proximo.report(folder)
    shutil.copy(search[0] / "study.db", folder / "study.db")
    for trial in folder.glob("trial-*"):
        shutil.rmtree(trial)
    with pytest.raises(UserError, match="or their runs are gone"):
        proximo.report(folder)
    assert not (folder / "report.html").exists()
