"""Boards of planes are read by convolutions: what is known of one place is known of the others."""

import pytest
import torch
from turn_games import Nim

import proximo
from proximo.control.models.boards import Board
from proximo.errors import UserError


def test_a_stone_elsewhere_gives_the_same_features_elsewhere():
    torch.manual_seed(0)
    board, stones = Board((7, 8, 2)), torch.zeros(2, 7, 8, 2)
    stones[0, 3, 3, 1] = stones[1, 2, 5, 1] = 1.0
    empty = board(torch.zeros(1, 7, 8, 2)).unflatten(1, (-1, 7, 8))
    one, two = board(stones).unflatten(1, (-1, 7, 8)) - empty
    assert one[:, 1:6, 1:6].abs().sum() > 0
    assert torch.allclose(one[:, 1:6, 1:6], two[:, 0:5, 3:8], atol=1e-6)


def test_the_preset_for_games_plays_a_board_by_it(tmp_path):
    pytest.importorskip("pettingzoo")
    small = {"steps": 64, "environments": 4, "rollout_length": 16, "episodes": 2, "progress": "quiet"}
    run = proximo.train(
        "pettingzoo/tictactoe_v3", preset="games", run=tmp_path / "r", update={"minibatch_size": 32}, **small
    )
    policy = proximo.load(run.path).policy
    assert policy.network.actor[0].in_features == 32 * 3 * 3
    assert run.config.update.entropy_coefficient == "0.1 -> 0.03"


def test_what_is_no_board_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"rows, columns and planes.*shape \(13,\)"):
        proximo.train(Nim, preset="games", run=tmp_path / "r", progress="quiet")
    assert not (tmp_path / "r").exists()
