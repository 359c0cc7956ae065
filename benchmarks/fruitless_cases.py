"""Runs that learn nothing, each for one planted reason, in two halves; and sound runs of many tasks and presets.

The rules were written on `TUNED_ON`. `HELD_OUT` was fixed beside it, before there was a rule, and run once.
"""

import fruitless_environments as fruitless
import tasks
from known_answer_cases import Case, control

_GRU = {"memory": "gru"}

TUNED_ON = [
    Case(
        "ignored",
        "actions do nothing (CartPole-v1)",
        ("P047",),
        control(fruitless.ignored, 40_000, base="CartPole-v1"),
        fast=True,
    ),
    Case(
        "normalized-constant",
        "a constant reward below NormalizeReward (Pendulum-v1)",
        ("P041", "P049"),
        control(fruitless.normalized_constant, 60_000, base="Pendulum-v1"),
        fast=True,
    ),
    Case(
        "clip",
        "clip 0.0005 (CartPole-v1)",
        ("P059",),
        control("CartPole-v1", 40_000, update={"clip": 0.0005}),
        fast=True,
    ),
    Case(
        "learning-rate-1e-7",
        "learning rate 1e-7 (Pendulum-v1)",
        ("P022",),
        control("Pendulum-v1", 60_000, learning_rate=1e-7),
    ),
    Case(
        "noise", "observations are noise (CartPole-v1)", ("P048",), control(fruitless.noise, 40_000, base="CartPole-v1")
    ),
    Case(
        "random-reward",
        "the reward is a coin (Pendulum-v1)",
        ("P049",),
        control(fruitless.random_reward, 60_000, base="Pendulum-v1"),
    ),
    Case(
        "entropy-10",
        "entropy coefficient 10 (CartPole-v1)",
        ("P026",),
        control("CartPole-v1", 40_000, update={"entropy_coefficient": 10.0}),
    ),
    Case(
        "detached",
        "a network of one's own whose actor is detached (CartPole-v1)",
        ("P058",),
        control("CartPole-v1", 40_000, network={"custom": "fruitless_networks:Detached"}),
    ),
    Case(
        "timid",
        "a network of one's own that can not say what it wants (CartPole-v1)",
        ("P022", "P058"),
        control("CartPole-v1", 40_000, network={"custom": "fruitless_networks:Timid"}),
    ),
    Case(
        "max-grad-norm",
        "gradients cut to 1e-6 (Pendulum-v1)",
        ("P022", "P023"),
        control("Pendulum-v1", 60_000, update={"max_grad_norm": 1e-6}),
    ),
    Case(
        "late-reward",
        "rewards come 50 steps late (Pendulum-v1)",
        ("P057",),
        control(fruitless.late_reward, 60_000, base="Pendulum-v1"),
    ),
    Case(
        "weak",
        "actions have 0.001 of their force (Pendulum-v1)",
        ("P047",),
        control(fruitless.weak, 60_000, base="Pendulum-v1"),
    ),
    Case(
        "normalizer-clip",
        "observations and rewards clipped at 0.001 (Pendulum-v1)",
        ("P040", "P041"),
        control("Pendulum-v1", 60_000, normalizers={"clip": 1e-3}),
    ),
]

HELD_OUT = [
    Case(
        "half-flipped",
        "half of the actions have the wrong sign (Pendulum-v1)",
        ("P047",),
        control(fruitless.half_flipped, 60_000, base="Pendulum-v1"),
    ),
    Case(
        "blank",
        "observations are constant (Acrobot-v1)",
        ("P048",),
        control(fruitless.blank, 60_000, base="Acrobot-v1"),
    ),
    Case(
        "elsewhere",
        "observations are another copy's (CartPole-v1)",
        ("P047", "P048"),
        control(fruitless.elsewhere, 40_000, base="CartPole-v1"),
    ),
    Case(
        "stale",
        "observations are 30 steps old (Pendulum-v1)",
        ("P048", "P057"),
        control(fruitless.stale, 60_000, base="Pendulum-v1"),
    ),
    Case(
        "shuffled",
        "the numbers of an observation change places (CartPole-v1)",
        ("P048",),
        control(fruitless.shuffled, 40_000, base="CartPole-v1"),
    ),
    Case(
        "tiny",
        "observations × 0.000001, not normalised (CartPole-v1)",
        ("P040",),
        control(fruitless.tiny, 40_000, base="CartPole-v1"),
    ),
    Case(
        "late-actions",
        "actions arrive 40 steps late (Pendulum-v1)",
        ("P057",),
        control(fruitless.late_actions, 60_000, base="Pendulum-v1"),
    ),
    Case(
        "random-reward-acrobot",
        "the reward is a coin (Acrobot-v1)",
        ("P049",),
        control(fruitless.random_reward, 60_000, base="Acrobot-v1", options={"task": "Acrobot-v1"}),
    ),
    Case(
        "sign-of-reward",
        "only the reward's sign is paid, always the same (Pendulum-v1)",
        ("P041",),
        control(fruitless.sign_of_reward, 60_000, base="Pendulum-v1"),
    ),
    Case(
        "disturbed-constant",
        "no reward below a wrapper that adds noise (Acrobot-v1)",
        ("P041", "P049"),
        control(fruitless.disturbed_constant, 60_000, base="Acrobot-v1"),
    ),
    Case(
        "at-once",
        "ends at its first step (CartPole-v1)",
        ("P041",),
        control(fruitless.at_once, 40_000, base="CartPole-v1"),
    ),
    Case(
        "learning-rate-1e-9",
        "learning rate 1e-9 (Acrobot-v1)",
        ("P022",),
        control("Acrobot-v1", 60_000, learning_rate=1e-9),
    ),
    Case(
        "learning-rate-a2c",
        "learning rate 1e-8 (CartPole-v1, a2c)",
        ("P022",),
        control("CartPole-v1", 40_000, preset="a2c", learning_rate=1e-8),
    ),
    Case(
        "adam-epsilon", "Adam's epsilon 1000 (CartPole-v1)", ("P022",), control("CartPole-v1", 40_000, adam_epsilon=1e3)
    ),
    Case(
        "target-kl",
        "target_kl 1e-9 (CartPole-v1)",
        ("P020", "P022"),
        control("CartPole-v1", 40_000, update={"target_kl": 1e-9}),
    ),
    Case(
        "blind",
        "a network of one's own that does not read the observation (CartPole-v1)",
        ("P060",),
        control("CartPole-v1", 40_000, network={"custom": "fruitless_networks:Blind"}),
    ),
    Case(
        "saturated",
        "a network of one's own that starts with every tanh flat (CartPole-v1)",
        ("P022", "P025", "P058"),
        control("CartPole-v1", 40_000, network={"custom": "fruitless_networks:Saturated"}),
    ),
    Case("gamma-acrobot", "γ = 0.1 (Acrobot-v1)", ("P033",), control("Acrobot-v1", 60_000, gamma=0.1)),
    Case(
        "entropy-1-lander",
        "entropy coefficient 3 (LunarLander-v3)",
        ("P026",),
        control("LunarLander-v3", 80_000, update={"entropy_coefficient": 3.0}),
    ),
    Case(
        "clip-lander",
        "clip 0.0002 (LunarLander-v3)",
        ("P059",),
        control("LunarLander-v3", 80_000, update={"clip": 0.0002}),
    ),
]

# Task, preset and steps; each is long enough to learn something in.
_RUNS = [
    ("CartPole-v1", "tuned", 60_000),
    ("CartPole-v1", "paper", 60_000),
    ("CartPole-v1", "trpo", 60_000),
    ("CartPole-v1", "ppo-penalty", 80_000),
    ("CartPole-v1", "a2c", 80_000),
    ("CartPole-v1", "reinforce", 80_000),
    ("Acrobot-v1", "tuned", 100_000),
    ("Acrobot-v1", "trpo", 100_000),
    ("Pendulum-v1", "tuned", 120_000),
    ("LunarLander-v3", "tuned", 150_000),
    ("LunarLander-v3", "paper", 120_000),
    ("LunarLanderContinuous-v3", "tuned", 150_000),
    ("HalfCheetah-v5", "tuned", 120_000),
    ("HalfCheetah-v5", "paper", 100_000),
    ("Hopper-v5", "tuned", 100_000),
    ("Hopper-v5", "trpo", 80_000),
    ("Walker2d-v5", "tuned", 100_000),
    ("InvertedPendulum-v5", "tuned", 80_000),
    ("InvertedPendulum-v5", "a2c", 80_000),
    ("InvertedDoublePendulum-v5", "tuned", 80_000),
    ("Swimmer-v5", "tuned", 100_000),
    ("Reacher-v5", "tuned", 100_000),
    ("Pusher-v5", "tuned", 100_000),
    ("FrozenLake-v1", "tuned", 80_000),
    ("Taxi-v3", "tuned", 150_000),
    ("Blackjack-v1", "tuned", 60_000),
    ("CliffWalking-v1", "tuned", 80_000),
]

HEALTHY = [
    *(
        Case(f"{task}-{preset}-{again}".lower(), "", (), control(task, steps, preset=preset, again=again))
        for again in (0, 1)
        for task, preset, steps in _RUNS
    ),
    # Converged, and trained on for as long again.
    Case("converged-cartpole", "", (), control("CartPole-v1", 250_000)),
    Case("converged-pendulum", "", (), control("Pendulum-v1", 300_000)),
    Case("converged-inverted-pendulum", "", (), control("InvertedPendulum-v5", 250_000)),
    Case("converged-bandit", "", (), control(fruitless.bandit, 120_000, base="CartPole-v1")),
    # With memory, also where it is needed.
    Case("memory-cartpole", "", (), control("CartPole-v1", 80_000, network=_GRU)),
    Case(
        "memory-velocity", "", (), control(tasks.cartpole_without_velocity, 120_000, base="CartPole-v1", network=_GRU)
    ),
]

NOTHING_TO_GAIN = [
    Case(f"{game.__name__}-{preset}".replace("_", "-"), "", (), control(game, steps, base="CartPole-v1", preset=preset))
    for game in (fruitless.pennies, fruitless.pennies_against_a_reader)
    for preset, steps in (("tuned", 80_000), ("paper", 40_000))
]
"""No policy is better than the random one: nothing red may be said."""

ENVIRONMENTS_TUNED_ON = [
    Case("env-ignored", "actions do nothing (CartPole-v1)", ("E012",), environment=fruitless.ignored),
    Case("env-weak", "actions have 0.001 of their force (Pendulum-v1)", ("E012",), environment=fruitless.weak),
    Case("env-noise", "observations are noise (CartPole-v1)", ("E013",), environment=fruitless.noise),
    Case("env-random-reward", "the reward is a coin (Pendulum-v1)", ("E014",), environment=fruitless.random_reward),
    Case("env-late-reward", "rewards come 50 steps late (Pendulum-v1)", ("E015",), environment=fruitless.late_reward),
]

ENVIRONMENTS_HELD_OUT = [
    Case(
        "env-half-flipped", "half of the actions flipped (Pendulum-v1)", ("E012",), environment=fruitless.half_flipped
    ),
    Case("env-elsewhere", "observations are another copy's", ("E012", "E013"), environment=fruitless.elsewhere),
    Case("env-stale", "observations are 30 steps old", ("E013", "E015"), environment=fruitless.stale),
    Case("env-shuffled", "observations' numbers change places", ("E013",), environment=fruitless.shuffled),
    Case("env-late-actions", "actions arrive 40 steps late", ("E015",), environment=fruitless.late_actions),
    Case("env-disturbed", "no reward below a wrapper's noise", ("E014",), environment=fruitless.disturbed_constant),
]

SOUND_ENVIRONMENTS = [
    Case(f"env-{task}", "", (), environment=task)
    for task in (
        "CartPole-v1",
        "Acrobot-v1",
        "Pendulum-v1",
        "MountainCar-v0",
        "MountainCarContinuous-v0",
        "LunarLander-v3",
        "LunarLanderContinuous-v3",
        "BipedalWalker-v3",
        "HalfCheetah-v5",
        "Hopper-v5",
        "Walker2d-v5",
        "Ant-v5",
        "Humanoid-v5",
        "InvertedPendulum-v5",
        "InvertedDoublePendulum-v5",
        "Swimmer-v5",
        "Reacher-v5",
        "Pusher-v5",
        "FrozenLake-v1",
        "Taxi-v3",
        "Blackjack-v1",
        "CliffWalking-v1",
    )
]
