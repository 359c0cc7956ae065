"""Reward models as people have saved them: one output or labels, decoders or encoders, whole or as PEFT adapters."""

from typing import Any

import torch
from torch import nn

from proximo.errors import UserError, nearest
from proximo.language.models.loading import load_labelled_classifier, load_text_tokenizer, load_tokenizer
from proximo.language.rewards.classifier import Classifier, ClassifierReward, one_number
from proximo.language.rewards.reward_model import RewardModel, about_of, refuse_other_kinds
from proximo.language.rewards.terms import ModelReward, RewardTerm
from proximo.language.stages import without_label


def load_reward_term(
    name: str,
    weight: float,
    shown: str,
    *,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    day: str = "",
    **settings: Any,
) -> RewardTerm:
    """A reward model as a term, whatever kind it is.

    Args:
        name: folder or hub name; with @LABEL behind it, of a classifier with labels.
        weight: of its scores.
        shown: its name in metrics.
        device: where to put it.
        trust_remote_code: whether Python code in the folder may run.
        day: see `load_tokenizer`.
        settings: token_budget and compute.

    Raises:
        UserError: it can not be loaded, is no reward model, or has labels of which none is named.
    """
    folder, label = without_label(name)
    refuse_other_kinds(folder)
    model = load_labelled_classifier(folder, device=device, trust_remote_code=trust_remote_code)
    chosen = _label_of(model, label, folder)
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear):
        tokenizer = load_text_tokenizer(folder, trust_remote_code=trust_remote_code)
        return ClassifierReward(Classifier(model, tokenizer, chosen, **settings), weight, shown)
    if head.out_features > 2:
        raise UserError(
            f"{folder} has {head.out_features} labels: of a decoder, give one with one output or two labels"
        )
    if head.out_features == 2:
        model.score, model.config.num_labels = one_number(head, chosen), 1
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code, day=day)
    about = about_of(folder)
    reward = RewardModel(model, tokenizer, mean=about.get("mean", 0.0), std=about.get("std", 1.0), **settings)
    reward.about = about
    return ModelReward(reward, weight, shown)


def _label_of(model: Any, label: str, folder: str) -> int:
    """The index of a label; 0 of a model with one output."""
    names = {int(i): str(name) for i, name in model.config.id2label.items()}
    if len(names) == 1 and not label:
        return 0
    found = [i for i, name in names.items() if name.lower() == label.lower() or str(i) == label]
    if len(names) > 1 and found:
        return found[0]
    if len(names) == 1:
        raise UserError(f"{folder} has one output and no labels: name it without @{label}")
    there = ", ".join(names.values())
    if not label:
        example = names[max(names)]
        raise UserError(
            f"{folder} is a classifier with the labels {there}: say whose odds are the reward, as {folder}@{example}"
        )
    likely = nearest(label, names.values())
    hint = f"did you mean {likely}?" if likely else f"it has {there}"
    raise UserError(f"{folder} has no label {label}: {hint}")
