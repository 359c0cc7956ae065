"""Videos that a training makes of itself, on the disk and in the report."""

import shutil

import pytest
from videos import pictures

import proximo
from proximo.cli import main as cli
from proximo.errors import UserError
from proximo.views.report import videos as shown
from proximo.views.report import write

SMALL = ("--environments", "4", "--rollout-length", "16", "--update.minibatch-size", "32", "--episodes", "1")
SMALL += ("--episode-limit", "50")


def trained(folder, *more):
    asked = ["train", "CartPole-v1", *SMALL, "--backend", "gymnasium", "--quiet", "--run", str(folder)]
    assert cli.main([*asked, "--steps", "512", *more]) == 0
    return folder


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("films") / "run", "--video-every", "200")


def test_a_film_is_made_each_time_so_many_steps_are_done_and_the_training_is_the_same(filmed, tmp_path):
    names = sorted(file.name for file in (filmed / "videos").iterdir())
    assert names == ["step-000000256.mp4", "step-000000448.mp4"]
    plain = trained(tmp_path / "plain")

    def known(folder):
        machine = ("time", "seconds/", "memory", "steps_per_second")
        return [{k: x for k, x in row.items() if not k.startswith(machine)} for row in proximo.metrics(folder)]

    assert known(filmed) == known(plain)


def test_the_film_is_of_the_policy_at_that_step(filmed):
    """64 steps before the end: its episode is as long as that of a run that is stopped there."""
    about, seen = pictures(filmed / "videos" / "step-000000448.mp4")
    ended = trained(filmed.parent / "ended", "--stop-at", "448")
    again, others = pictures(proximo.record(ended, policies=["latest"], limit=200, width=240))
    assert len(seen) == len(others) > 5
    assert about["fps"] == again["fps"]


def test_a_resumed_run_films_what_is_left(tmp_path):
    run = trained(tmp_path / "run", "--video-every", "200", "--stop-at", "256")
    shutil.rmtree(run / "videos")
    trained(run, "--video-every", "200")
    assert [file.name for file in (run / "videos").iterdir()] == ["step-000000448.mp4"]


def test_a_report_plays_as_many_films_as_there_is_room_for(filmed, page, tmp_path, monkeypatch):
    made = proximo.report(filmed, out=tmp_path / "report.html")
    page.open(f"file://{made}")
    page.wait("[...document.querySelectorAll('video')].length === 2")
    page.wait("[...document.querySelectorAll('video')].every(x => x.readyState >= 2 && x.videoWidth === 240)")
    assert "after 448 steps" in page.run("[...document.querySelectorAll('figcaption')].pop().innerText")
    assert page.errors == []
    monkeypatch.setattr(write, "LARGEST", made.stat().st_size - 1)
    data = page.open(f"file://{proximo.report(filmed, out=tmp_path / 'small.html')}")
    page.wait("document.querySelectorAll('video').length === 1")
    data = page.run("data.runs[0].videos.map(x => x.step)")
    assert data == [448], "the last is kept"
    assert "1 more videos of run are in its folder videos" in page.run("document.body.innerText")
    monkeypatch.setattr(shown, "MOST", 0)
    page.open(f"file://{proximo.report(filmed, out=tmp_path / 'none.html')}")
    page.wait("document.body.innerText.includes('2 more videos')")


def test_what_can_not_be_filmed_is_said_before_the_first_step(tmp_path, monkeypatch, capsys):
    (tmp_path / "dim.py").write_text("import gymnasium\ndef make():\n    return gymnasium.make('CartPole-v1')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="dim:make draws nothing"):
        proximo.train("dim:make", run="dim", steps=64, progress="quiet", callbacks=[proximo.VideoEvery(64)])
    many = ["train", "CartPole-v1", "--seeds", "0", "1", "--parallel", "2", "--video-every", "64", "--run", "many"]
    assert cli.main(many) == 2
    assert "--video-every films in this process" in capsys.readouterr().err
    with pytest.raises(UserError, match="steps = 0 must be a whole number, at least 1"):
        proximo.VideoEvery(0)
    assert not (tmp_path / "many").exists()
