"""A recurrent layer over whole sequences whose state starts from zero with each episode."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Memory(nn.Module):
    """GRU (Cho et al. 2014) or LSTM (Hochreiter & Schmidhuber 1997), orthogonal weights, zero bias.

    A state is one tensor `[N, state_size]`; for an LSTM, hidden and cell state side by side.
    """

    def __init__(self, kind: str, inputs: int, size: int) -> None:
        super().__init__()
        self.kind = kind
        self.layer = (nn.LSTM if kind == "lstm" else nn.GRU)(inputs, size, batch_first=True)
        self.state_size = size * (2 if kind == "lstm" else 1)
        for name, parameter in self.layer.named_parameters():
            (nn.init.orthogonal_ if name.startswith("weight") else nn.init.zeros_)(parameter)

    def initial(self, count: int) -> Tensor:
        """The state at the start of an episode, `[count, state_size]`."""
        return next(self.parameters()).new_zeros(count, self.state_size)

    def step(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: features `[N, F]`, state `[N, S]` -> (output `[N, H]`, state `[N, S]`)."""
        output, after = self.layer(features.unsqueeze(1), self._split(state))
        return output.squeeze(1), self._join(after)

    def forward(self, features: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """Whole sequences.

        The sequences are cut where episodes start and the pieces run side by side as one packed batch, so the layer is
        called once however many episodes there are.

        Args:
            features: `[B, T, F]`.
            state: `[B, S]`, before the first step.
            starts: `[B, T]` bool, True where a step is the first of an episode: the state is zero there.

        Returns:
            `[B, T, H]`.
        """
        length = starts.shape[1]
        cuts = starts.clone()
        cuts[:, 0] = True
        first = cuts.flatten().nonzero().squeeze(1)
        lengths = torch.diff(first, append=first.new_tensor([starts.numel()]))
        row = first // length
        carried = (first % length == 0) & ~starts[row, 0]
        initial = torch.where(carried.unsqueeze(1), state[row], 0.0)
        steps = torch.arange(int(lengths.max()), device=first.device)
        inside = steps < lengths.unsqueeze(1)
        index = (first.unsqueeze(1) + steps).clamp(max=starts.numel() - 1)
        pieces = features.flatten(0, 1)[index]
        packed = pack_padded_sequence(pieces, lengths.cpu(), batch_first=True, enforce_sorted=False)
        padded, _ = pad_packed_sequence(self.layer(packed, self._split(initial))[0], batch_first=True)
        return padded[inside].unflatten(0, starts.shape)

    def _split(self, state: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.kind == "gru":
            return state.unsqueeze(0).contiguous()
        hidden, cell = state.unsqueeze(0).chunk(2, -1)
        return hidden.contiguous(), cell.contiguous()

    def _join(self, state: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat(state, -1).squeeze(0) if isinstance(state, tuple) else state.squeeze(0)
