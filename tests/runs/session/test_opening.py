"""How a call finds its folder: the same run goes on, another is refused, a change is shown and recorded."""

import json
import tomllib
from dataclasses import dataclass

import pytest

from proximo.errors import UserError
from proximo.runs.config.toml import to_toml
from proximo.runs.session.opening import Call, Opening
from proximo.runs.storage.folder import RunFolder


@dataclass(frozen=True)
class RunSettings:
    task: str = "walk"
    run: str = "here"
    rate: float = 0.5


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    with RunFolder(path).create(to_toml(RunSettings())):
        (path / "checkpoints" / "step-1").mkdir()
    return RunFolder(path)


def opened(folder, call=Call(), **settings):  # noqa: B008
    return Opening(folder, RunSettings(**settings), "task", call)


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_goes_on_with_its_own_settings_only(folder):
    before = content(folder.path)
    assert opened(folder, run="moved").resumed
    with pytest.raises(UserError, match=r"holds another run: rate is 0\.5 there and 0\.25 here; .* --allow-change"):
        opened(folder, rate=0.25)
    for call in (Call(), Call(allow_change=True)):
        with pytest.raises(UserError) as error:  # of another task, what else differs is noise
            opened(folder, call, task="swim", rate=0.25)
        assert (
            str(error.value)
            == f"{folder.path} holds a run of walk, not of swim; choose another folder with --run (run=...)"
        )
    assert content(folder.path) == before


def test_a_run_that_another_one_reads_is_not_deleted_to_make_room_for_it(folder):
    inside = folder.path / "checkpoints" / "step-1"
    for task in (str(folder.path), str(inside), f"{inside}=0.5", f"{folder.path}/../run"):
        with pytest.raises(UserError, match=r"task = .* is read by this run, and --fresh \(fresh=True\) would"):
            opened(folder, Call(fresh=True), task=task)
    assert inside.exists()
    for task in ("walk", "\0", str(folder.path.parent), str(folder.path / "nothing")):
        assert not opened(folder, Call(fresh=True), task=task, run=str(folder.path)).resumed


def test_an_allowed_change_is_recorded_with_those_before_it_and_unfinishes_the_run(folder):
    folder.results.write_text(json.dumps({"steps": 9}))
    assert opened(folder).results == {"steps": 9}
    for at, rate in (("10 steps", 0.25), ("20 steps", 0.125)):
        opening = opened(folder, Call(allow_change=True), rate=rate)
        assert opening.results is None
        before = folder.config.read_text()
        with opening.open():
            assert folder.config.read_text() == before, "nothing is recorded before the run has proved to go on"
            assert f"-> {rate}" in opening.settle(at)
        assert not folder.results.exists()
    text = folder.config.read_text()
    assert text.startswith("# changed at 10 steps: rate 0.5 -> 0.25\n# changed at 20 steps: rate 0.25 -> 0.125\n")
    assert tomllib.loads(text)["rate"] == 0.125
    with opened(folder, rate=0.125).open():
        assert opened(folder, rate=0.125).settle("30 steps") is None
    assert folder.config.read_text() == text


def test_starting_over_leaves_nothing_of_the_old_run(folder):
    (folder.path / "results.json").write_text("{}")
    with opened(folder, Call(fresh=True), task="swim").open() as fresh:
        assert tomllib.loads(fresh.config.read_text())["task"] == "swim"
        assert list(fresh.checkpoints.iterdir()) == []
        assert not fresh.results.exists()
    assert [p.name for p in folder.path.parent.iterdir()] == ["run"]


def test_a_start_that_fails_puts_the_old_run_back(folder, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    before = content(folder.path)
    monkeypatch.setattr("proximo.runs.storage.folder.describe_code", lambda: full(0))
    with pytest.raises(UserError, match="No space left"):
        opened(folder, Call(fresh=True)).open()
    assert content(folder.path) == before
    with folder.open():
        pass
    assert [p.name for p in folder.path.parent.iterdir()] == ["run"]


def test_a_run_in_use_is_not_replaced(folder):
    with RunFolder(folder.path).open(), pytest.raises(UserError, match="in use by this very process"):
        opened(folder, Call(fresh=True)).open()
    assert (folder.path / "checkpoints" / "step-1").exists()


def test_results_that_can_not_be_read_are_named(folder):
    folder.results.write_text("{")
    with pytest.raises(UserError, match=r"results\.json can not be read"):
        _ = opened(folder).results
    with pytest.raises(UserError, match="stop_at = -1"):
        Call(stop_at=-1)


@pytest.mark.parametrize(
    ("variables", "answer"),
    [
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, "with what was trained before a rank was lost"),
        ({"TORCHELASTIC_MAX_RESTARTS": "3", "GROUP_WORLD_SIZE": "2"}, "leave --max-restarts away"),
    ],
)
def test_a_launcher_that_starts_a_command_anew_does_not_have_it_delete_what_it_has_trained(
    folder, variables, answer, monkeypatch
):
    before = content(folder.path)
    for launch in ({"TORCHELASTIC_MAX_RESTARTS": "3", "GROUP_WORLD_SIZE": "1"}, {"GROUP_WORLD_SIZE": "2"}):
        with monkeypatch.context() as patch:
            for name, value in {"TORCHELASTIC_RESTART_COUNT": "0", **launch}.items():
                patch.setenv(name, value)
            assert not opened(folder, Call(fresh=True)).resumed  # begun for the first time, for all that is known
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=answer):
        opened(folder, Call(fresh=True))
    assert opened(folder).resumed
    assert content(folder.path) == before
