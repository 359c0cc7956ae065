"""Batches put together."""

import torch

from proximo.core.batch import Batch

NAMES = ("action", "log_prob", "value", "advantages", "returns", "weight")


def joined(batches):
    """Batches one after the other along the leading axis."""
    tensors = {name: torch.cat([dict(batch.named_tensors())[name] for batch in batches]) for name in NAMES}
    inputs = {name: torch.cat([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
    return Batch(inputs=inputs, **tensors)
