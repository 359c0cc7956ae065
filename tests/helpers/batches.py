"""Batches put together."""

from dataclasses import fields

import torch

from proximo.core.batch import Batch


def joined(batches):
    """Batches one after the other along the leading axis."""
    columns = [f.name for f in fields(Batch) if f.name != "inputs"]
    tensors = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in columns}
    inputs = {name: torch.cat([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
    return Batch(inputs=inputs, **tensors)
