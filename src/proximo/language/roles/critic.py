"""The critic as a plain token classifier with one label: its logit at a token is the value after that token."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proximo.language.models.folders import save_folder
from proximo.language.roles.sharing import Roles


def save_critic(folder: Path, roles: Roles, tokenizer: Any) -> bool:
    """Write what `AutoModelForTokenClassification.from_pretrained` loads.

    The value of a response's state before token t is the logit at the position that predicts t.

    Returns:
        False, and nothing is written, if `transformers` has no token classifier of this architecture.

    Raises:
        UserError: the disk refuses.
    """
    model = critic_model(roles)
    if model is not None:
        save_folder(folder, model, tokenizer)
    return model is not None


@torch.no_grad()
def critic_model(roles: Roles) -> Any:
    """The critic as a `transformers` model, or None if there is no token classifier of this architecture."""
    from transformers import AutoModelForTokenClassification

    config = copy.deepcopy(roles.critic_config())
    config.num_labels = 1
    try:
        model = AutoModelForTokenClassification.from_config(config)
    except ValueError:
        return None
    model.base_model.load_state_dict(roles.critic_weights())
    heads = [child for child in model.children() if isinstance(child, nn.Linear)]
    heads[-1].load_state_dict(roles.value_head.state_dict())
    return model.eval()
