"""An encoder of boards, as chess, Go and Connect Four show them: planes of squares, which convolutions look over."""

import math

import torch
from torch import Tensor, nn


class Board(nn.Module):
    """Two convolutions of 3 x 3: what is learnt of a line at one place of the board is known at all others.

    Named as an encoder: `encoders = { observation = "proximo.control.models.boards:Board" }`.

    Args:
        shape: of a board, rows x columns x planes, as PettingZoo's games show it.
        channels: of both layers.

    Raises:
        ValueError: it is no such board.
    """

    def __init__(self, shape: tuple[int, ...], channels: int = 32) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"a board has rows, columns and planes, and this observation has the shape {shape}")
        layers = [nn.Conv2d(shape[2], channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)]
        for layer in layers:
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        self.first, self.second = layers

    def forward(self, board: Tensor) -> Tensor:
        """`[B, rows, columns, planes]` -> `[B, channels * rows * columns]`."""
        planes = board.movedim(-1, 1).to(self.first.weight.dtype)
        return torch.relu(self.second(torch.relu(self.first(planes)))).flatten(1)
