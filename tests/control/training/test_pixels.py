"""A task of pixels learnt from start to result."""

import control_tasks
import numpy as np
import pytest

import proximo


@pytest.mark.slow
def test_a_ball_is_caught_from_pixels(tmp_path):
    """The probes hold in seconds that both encoders learn from pixels; this is a whole task."""
    run = proximo.train(
        control_tasks.catch,
        run=str(tmp_path / "catch"),
        progress="quiet",
        steps=10_000,
        seed=0,
        environments=16,
        rollout_length=32,
        episodes=100,
        learning_rate="2e-3 -> 0",
        gamma=0.95,
        update={"epochs": 4, "minibatch_size": 128, "entropy_coefficient": 0.01},
        network={"pixels": "impala", "hidden": []},
        normalizers={"observations": False, "rewards": "off"},
    )
    assert run.results["final_deterministic"] >= 0.9
    # From what is on disk, and the task played by hand.
    policy, task, caught = proximo.load(run.path), control_tasks.Catch(), 0
    for seed in range(100):
        observation, _ = task.reset(seed=10_000 + seed)
        over = False
        while not over:
            observation, reward, over, _, _ = task.step(policy.act(observation))
        caught += reward
    assert caught >= 90
    rng, lucky = np.random.default_rng(0), 0
    for seed in range(200):
        task.reset(seed=seed)
        over = False
        while not over:
            _, reward, over, _, _ = task.step(rng.integers(3))
        lucky += reward
    assert lucky < 100, "by chance it is caught far less often"
