"""Models without dropout."""

from torch import nn


def without_dropout(model: nn.Module) -> nn.Module:
    """Sets every dropout of a model to 0: policy, reference and critic must be the same function at each look.

    Raises:
        AssertionError: a dropout is left.
    """
    dropouts = (nn.modules.dropout._DropoutNd,)
    for module in model.modules():
        if isinstance(module, dropouts):
            module.p = 0.0
        # Attention passes its rate to a function, and layers keep rates as attributes.
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    assert all(module.p == 0.0 for module in model.modules() if isinstance(module, dropouts)), "a dropout is left"
    return model
