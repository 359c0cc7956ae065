import pytest
import torch
from batches import joined
from hypothesis import given, settings
from hypothesis import strategies as st

from proximo.core.batch import Batch

FIELDS = ("action", "log_prob", "value", "advantages", "returns", "weight")


def numbered(n, width=()):
    """A batch whose every tensor says which sample it belongs to, plus its own offset."""
    index = torch.arange(n, dtype=torch.float64).reshape(n, *[1] * len(width)).expand(n, *width)
    inputs = {"vector": index.unsqueeze(-1) + torch.tensor([0.25, 0.5]), "index": index.clone()}
    return Batch(inputs=inputs, **{name: index + 100.0 * i for i, name in enumerate(FIELDS)})


def same(a, b):
    names = a.inputs.keys() == b.inputs.keys()
    tensors = [(a.inputs[k], b.inputs[k]) for k in a.inputs] + [(getattr(a, f), getattr(b, f)) for f in FIELDS]
    return names and all(torch.equal(x, y) for x, y in tensors)


@pytest.mark.parametrize("width", [(), (4,)])
def test_an_index_picks_the_same_samples_of_every_tensor(width):
    batch = numbered(6, width)
    picked = batch[torch.tensor([4, 0, 4])]
    assert len(picked) == 3
    for i, name in enumerate(FIELDS):
        samples = getattr(picked, name).reshape(3, -1)[:, 0] - 100.0 * i
        assert samples.tolist() == [4.0, 0.0, 4.0]
    assert picked.inputs["vector"].reshape(3, -1)[:, 0].tolist() == [4.25, 0.25, 4.25]


def test_a_slice_is_a_view_and_an_index_a_copy():
    batch = numbered(6)
    batch[2:4].value.fill_(-1.0)
    assert batch.value.tolist() == [200, 201, -1, -1, 204, 205]
    batch[torch.tensor([0])].value.fill_(-2.0)
    assert batch.value[0] == 200


@settings(deadline=None)
@given(n=st.integers(1, 20), parts=st.integers(1, 25))
def test_parts_put_together_are_the_batch(n, parts):
    batch = numbered(n)
    pieces = list(batch.split(parts))
    assert 1 <= len(pieces) <= parts
    assert max(len(p) for p in pieces) == -(-n // parts)
    assert all(len(p) for p in pieces)
    assert same(joined(pieces), batch)


def test_replacing_leaves_the_original_alone():
    batch = numbered(3)
    other = batch.replace(advantages=torch.zeros(3))
    assert other.advantages.tolist() == [0, 0, 0]
    assert batch.advantages.tolist() == [300, 301, 302]
    assert same(other.replace(advantages=batch.advantages), batch)
