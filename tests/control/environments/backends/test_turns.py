"""Games whose agents move in turn: a row is one seat, opponents move for the other, and rewards are the row's own."""

import numpy as np
import pytest
from turn_games import MOST, Nim

from proximo.control.environments import make_environments
from proximo.control.environments.games import RandomPlayer
from proximo.errors import UserError


def allowed(observation, chance):
    return np.where(observation["action_mask"] > 0, chance.random((len(observation["action_mask"]), 3)), -1).argmax(1)


def played(count=6, steps=60, seed=0):
    """Steps with random moves, and the games that took them."""
    games, chance = [], np.random.default_rng(seed)
    environments = make_environments(lambda: games.append(Nim()) or games[-1], count)
    observation, _ = environments.reset(range(count))
    seen = []
    for _ in range(steps):
        actions, before = allowed(observation, chance), observation
        step = environments.step(actions)
        seen.append((before, actions, step))
        observation = step.observation
    return games, seen


def test_both_seats_move_in_turn_and_a_row_is_paid_for_its_own_seat():
    games, seen = played()
    for row, game in enumerate(games):
        moves = [(int(o["observation"][row].argmax()), int(a[row])) for o, a, _ in seen]
        rewards = [float(step.reward[row]) for _, _, step in seen]
        ended = [bool(step.terminated[row]) for _, _, step in seen]
        at = 0
        for number, told in enumerate(game.told[:-1]):
            own = Nim.possible_agents[(row + number) % 2]
            assert [agent for agent, _, _ in told] == [Nim.possible_agents[i % 2] for i in range(len(told))]
            mine = [(stones, action) for agent, stones, action in told if agent == own]
            assert moves[at : at + len(mine)] == mine
            won = told[-1][0] == own
            due = [0.0] * (len(mine) - 1) + [1.0 if won else -1.0] if mine else []
            assert rewards[at : at + len(mine)] == due
            assert ended[at : at + len(mine)] == [False] * (len(due) - 1) + [True] * bool(due)
            at += len(mine)
    numbers = [len(told) for game in games for told in game.told[:-1]]
    assert 1 in numbers, "no game was over before the row's first move, which is to be passed over"


def test_a_new_game_begins_where_one_is_over_and_results_are_told_with_it():
    _, seen = played()
    for _, _, step in seen:
        assert step.valid.all()
        assert np.array_equal(step.started, step.terminated)
        assert (step.observation["action_mask"].sum(1) > 0).all()
        assert (step.final_observation["observation"][step.terminated, 0] == 1).all(), "no stone is left at the end"
        for name, sign in (("won", 1), ("drawn", 0), ("lost", -1)):
            told = step.said[f"log/{name}"]
            assert np.array_equal(np.isnan(told), ~step.terminated)
            assert np.array_equal(told[step.terminated] == 1, step.reward[step.terminated] == sign)


def test_games_follow_from_their_seeds_and_moves():
    (one, _), (two, _), (other, _) = played(), played(), played(seed=1)
    assert [game.told for game in one] == [game.told for game in two]
    assert [game.told for game in one] != [game.told for game in other]


def test_a_random_player_takes_each_allowed_move_as_often():
    player = RandomPlayer(Nim().action_space("first"))
    player.restart(5)
    mask = np.tile(np.array([[1, 0, 1], [0, 0, 1]], bool), (3000, 1))
    moves = player.act(None, mask, np.zeros(len(mask), int)).reshape(-1, 2)
    assert set(moves[:, 1]) == {2}
    counts = np.bincount(moves[:, 0], minlength=3)
    assert counts[1] == 0
    assert abs(counts[0] - counts[2]) < 4 * np.sqrt(len(moves))  # four standard deviations


@pytest.mark.parametrize(("name", "choices"), [("tictactoe_v3", 9), ("connect_four_v3", 7)])
def test_games_of_pettingzoo_are_taken_by_name(name, choices):
    pytest.importorskip("pettingzoo")
    environments = make_environments(f"pettingzoo/{name}", 4)
    assert environments.action_space.n == choices
    observation, _ = environments.reset(range(4))
    chance, results = np.random.default_rng(0), []
    for _ in range(60):
        mask = observation["action_mask"]
        step = environments.step(np.where(mask > 0, chance.random(mask.shape), -1).argmax(1))
        results += step.reward[step.terminated].tolist()
        # Two stones of the same number, or one more of the opponent's: whoever is to move sees a legal position.
        own, others = observation["observation"].sum((1, 2), dtype=int).T
        assert set(others - own) <= {0, 1}
        observation = step.observation
    assert {1.0, -1.0} <= set(results)
    environments.close()


def test_nim_is_what_it_is_said_to_be():
    assert MOST % 4 == 0
    game = Nim()
    game.reset(seed=0)
    first = game.stones
    game.step(0)
    assert game.stones == first - 1


def test_a_game_of_mpe_in_which_all_act_at_once_has_a_row_for_each_agent():
    pytest.importorskip("mpe2")
    environments = make_environments("pettingzoo/simple_spread_v3", 6, options={"max_cycles": 5})
    environments.reset(range(6))
    steps = [environments.step(np.zeros(6, int)) for _ in range(12)]
    assert [bool(step.truncated.all()) for step in steps] == [t in (4, 10) for t in range(12)]
    assert [bool(step.valid.all()) for step in steps] == [t not in (5, 11) for t in range(12)]
    assert not any(step.terminated.any() for step in steps)
    with pytest.raises(UserError, match="multiple of 3: try 6"):
        make_environments("pettingzoo/simple_spread_v3", 8)
    environments.close()


def test_a_name_that_pettingzoo_has_not_is_answered_with_one_that_it_has():
    pytest.importorskip("pettingzoo")
    with pytest.raises(UserError, match="pettingzoo/tictactoe_v3"):
        make_environments("pettingzoo/tictactoe_v2", 2)
