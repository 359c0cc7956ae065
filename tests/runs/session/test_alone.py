"""Two trainings in two threads: the second is refused, so that the first stays the run of its seed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import pytest

import proximo
from proximo.errors import UserError
from proximo.runs.session.alone import alone

SMALL = {
    "steps": 512,
    "environments": 2,
    "rollout_length": 32,
    "episodes": 1,
    "episode_limit": 50,
    "backend": "gymnasium",
    "seed": 7,
}
SMALL |= {"update": {"epochs": 1, "minibatch_size": 32}, "progress": "quiet"}


class Meeting(gymnasium.Wrapper):
    """Waits, in its tenth step, for what happens in another thread."""

    begun, done = threading.Event(), threading.Event()
    steps = 0

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))

    def step(self, action):
        Meeting.steps += 1
        if Meeting.steps == 10:
            Meeting.begun.set()
            assert Meeting.done.wait(100)
        return self.env.step(action)


def test_a_training_beside_another_is_refused_and_changes_nothing(tmp_path):
    alone_run = proximo.train(lambda: gymnasium.make("CartPole-v1"), run=str(tmp_path / "alone"), **SMALL)
    beside = []
    first = threading.Thread(target=lambda: beside.append(proximo.train(Meeting, run=str(tmp_path / "r"), **SMALL)))
    first.start()
    assert Meeting.begun.wait(100)
    try:
        with pytest.raises(UserError, match=r"while another thread of this process trains .*Meeting"):
            proximo.train("CartPole-v1", run=str(tmp_path / "second"), **SMALL)
        assert not (tmp_path / "second").exists()
    finally:
        Meeting.done.set()
        first.join()
    assert beside[0].results["last_100_training_return"] == alone_run.results["last_100_training_return"]
    assert proximo.train("CartPole-v1", run=str(tmp_path / "second"), **SMALL).results["steps"] == 512


def test_a_training_within_a_training_is_its_own():
    with alone("one"), alone("another of the same thread"):
        pass


def test_a_training_begun_in_a_thread_that_has_ended_keeps_nobody_away_and_ends_anywhere():
    begun = []

    def begin():
        within = alone("x")
        within.__enter__()
        begun.append(within)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    with alone("y"):
        pass
    begun[0].__exit__(None, None, None)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: alone("z").__enter__()).result() is None
