"""Roles of a run, policy, reference and critic, and how they share weights.

A role is a `Stack` of decoder parts. Only this file knows who shares what; the algorithm asks for hidden states.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from proximo.errors import UserError
from proximo.language.compute.recomputing import again_within
from proximo.language.models.decoder import Stack, split_decoder, upper_part
from proximo.language.models.linear_head import linear_head
from proximo.language.ppo_config import SharingSettings
from proximo.scale.mesh import Mesh

if TYPE_CHECKING:  # it asks FSDP2, which takes a second to load
    from proximo.language.roles.spread import Spread

Answer = TypeVar("Answer")


class Roles(ABC, nn.Module):
    """Policy, reference and critic around one `transformers` causal language model.

    Args:
        model: the model to train, in evaluation mode; changed in place.
        settings: what is shared.
    """

    policy: Stack
    reference: Stack
    """Of full copies only if one was asked for."""
    reference_head: nn.Linear
    spread: "Spread | None" = None
    """How their weights lie on several ranks; None where each rank has all of them."""

    def __init__(self, model: Any, settings: SharingSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self.head = linear_head(model)
        width = self.head.weight.shape[1]
        device = self.head.weight.device
        self.value_head = nn.Linear(width, 1, device="cpu" if device.type == "meta" else device)
        # 0: before it has learnt, a value that shares the policy's states says nothing (N details, 11).
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.requires_grad_(False)

    @property
    def separate(self) -> bool:
        """Whether the critic has layers of its own."""
        return self.settings.critic == "separate"

    def trainable(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        return [p for p in self.parameters() if p.requires_grad]

    def value_states(self, hidden: Tensor, tokens: Tensor, states: Tensor | None) -> Tensor:
        """What the value head reads, `[b, L, d]`: the policy's hidden states, or those of a separate critic."""
        return self.critic_hidden(tokens, states) if self.separate else hidden

    def as_policy(self, function: Callable[..., Answer], *given: Any) -> Answer:
        """What `function` returns, a tuple of tensors: within it the policy's decoder and head may be asked."""
        return function(*given) if self.spread is None else self.spread.policy(function, *given)

    def saving(self) -> AbstractContextManager[None]:
        """Within, rank 0 has all that is trained whole, to be saved; all ranks enter."""
        return nullcontext() if self.spread is None else self.spread.saving()

    @contextmanager
    def as_reference(self) -> Iterator[Stack]:
        """The stack of the reference, within the context."""
        yield self.reference

    @contextmanager
    def as_sampler(self) -> Iterator[Stack]:
        """The policy's stack as the sampler should run it, within the context."""
        yield self.policy

    @abstractmethod
    def critic_hidden(self, tokens: Tensor, states: Tensor | None) -> Tensor:
        """Hidden states of a separate critic, `[b, L, d]`."""

    def critic_config(self) -> Any:
        """The `transformers` configuration that `critic_weights` fit."""
        return self.model.config

    @abstractmethod
    def critic_weights(self) -> dict[str, Tensor]:
        """The decoder that the value head reads, by the names of the model's own decoder."""

    @abstractmethod
    def sampled_weights(self) -> dict[str, Tensor]:
        """The whole policy, by the names of the model that it was made of; within `as_sampler`."""

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None:
        """Write the policy as `transformers`, and for adapters `peft`, load it."""

    def trained_state(self) -> dict[str, Tensor]:
        """What training moved, by name, for a checkpoint."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_trained(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `trained_state` gave.

        Raises:
            UserError: it is of other roles.
        """
        mine = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if set(mine) != set(tensors):
            raise UserError(
                "the checkpoint holds other weights than this run trains: use the settings it was made with"
            )
        with torch.no_grad():
            for name, p in mine.items():
                p.copy_(tensors[name])


class FullRoles(Roles):
    """Separate copies: the whole policy is trained, the reference is a frozen copy.

    Args:
        model: see `Roles`.
        settings: see `Roles`.
        reward_decoder: what a separate critic starts from; the policy's if None.
        reward_head: what reads values off it at the start; None starts with values of 0.
        reference: whether there is one.
    """

    def __init__(
        self,
        model: Any,
        settings: SharingSettings,
        reward_decoder: nn.Module | None = None,
        reward_head: nn.Linear | None = None,
        *,
        reference: bool = True,
    ) -> None:
        super().__init__(model, settings)
        decoder = model.get_decoder()
        self.policy = Stack([decoder])
        if reference:
            self.reference_model = copy.deepcopy(model)
            self.reference = Stack([self.reference_model.get_decoder()])
            self.reference_head = self.reference_model.get_output_embeddings()
        if self.separate:
            start, like = copy.deepcopy(reward_decoder or decoder), self.head.weight
            # Of a policy whose weights are read later, a reward model's are there already.
            self.critic = start.to(like.dtype) if like.is_meta else start.to(like)
            _check_widths(self.critic, decoder)
            self.critic.requires_grad_(True)
            if reward_head is not None:  # values begin as the scores of what is there so far
                self.value_head.load_state_dict(_with_bias(reward_head))
        model.requires_grad_(True)
        self.value_head.requires_grad_(True)

    def spread_over(self, mesh: Mesh, *, offload: bool = False, weights: Path | None = None) -> None:
        """Leave each rank its part of all weights; before anything is done with `trainable`.

        Args:
            mesh: the ranks.
            offload: whether the reference's part lies in main memory.
            weights: folder of the policy's, where they are still on `meta`.
        """
        from proximo.language.roles.spread import Spread

        reference = getattr(self, "reference_model", None)
        critic = self.critic if self.separate else None
        self.spread = Spread(self.model, self.value_head, critic, reference, mesh, offload=offload, weights=weights)

    @contextmanager
    def as_reference(self) -> Iterator[Stack]:
        """See `Roles`."""
        unit = None if self.spread is None else self.spread.reference
        with nullcontext() if unit is None else unit.whole(layers=False):
            yield self.reference

    @contextmanager
    def as_sampler(self) -> Iterator[Stack]:
        """See `Roles`: weights that are spread over ranks are gathered once, and all at once."""
        with nullcontext() if self.spread is None else self.spread.policy.whole(layers=True):
            yield self.policy

    def critic_hidden(self, tokens: Tensor, states: Tensor | None) -> Tensor:
        """See `Roles`."""
        return Stack([self.critic])(tokens)[0]

    def critic_config(self) -> Any:
        """See `Roles`: a critic from a reward model may have other layers, or one more token, than the policy."""
        return self.model.config if self.settings.critic == "shared" else self.critic.config

    def critic_weights(self) -> dict[str, Tensor]:
        """See `Roles`."""
        decoder = self.policy.parts[0] if self.settings.critic == "shared" else self.critic
        return dict(decoder.state_dict())

    def sampled_weights(self) -> dict[str, Tensor]:
        """See `Roles`."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def save_pretrained(self, folder: Path) -> None:
        """See `Roles`."""
        self.model.save_pretrained(folder)


class LoraRoles(Roles):
    """Adapters on one frozen base (Hu et al. 2021); the reference is the base with the adapters off."""

    def __init__(self, model: Any, settings: SharingSettings, seed: int = 0) -> None:
        super().__init__(model, settings)
        from peft import LoraConfig, get_peft_model

        from proximo.language.compute.lora import draw_adapters, fused

        lora = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # peft divides by the rank: any number will do
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        self.adapted = get_peft_model(model, fused(lora))
        _check_adapted(self.adapted, type(model).__name__)
        if self.separate:
            self.adapted.add_adapter("critic", lora)
        draw_adapters(self.adapted, torch.Generator().manual_seed(seed))
        for name, p in self.adapted.named_parameters():
            p.requires_grad_(".lora_" in name)
        base: Any = self.adapted.get_base_model()
        decoder = base.get_decoder()
        self.policy = self.reference = Stack([decoder])
        self.reference_head = self.head
        self.value_head.requires_grad_(True)

    @contextmanager
    def as_reference(self) -> Iterator[Stack]:
        """See `Roles`."""
        with self._adapter(None):
            yield self.reference

    @contextmanager
    def as_sampler(self) -> Iterator[Stack]:
        """See `Roles`: the adapters added into the weights, which are put back bit for bit afterwards.

        A decoding step is many small products; without the adapters' own there are a third as many.
        """
        from peft.tuners.lora import LoraLayer

        from proximo.language.compute.lora import merged_weight

        layers: list[Any] = [m for m in self.adapted.modules() if isinstance(m, LoraLayer)]
        weights = [layer.get_base_layer().weight for layer in layers]
        kept = [weight.data for weight in weights]
        try:
            for layer, weight in zip(layers, weights, strict=True):
                weight.data = merged_weight(layer, "default")
            with self._adapter(None):
                yield self.policy
        finally:
            for weight, data in zip(weights, kept, strict=True):
                weight.data = data

    def critic_hidden(self, tokens: Tensor, states: Tensor | None) -> Tensor:
        """See `Roles`."""
        as_critic = partial(self._adapter, "critic")
        with as_critic(), again_within(as_critic, self.adapted):
            return self.policy(tokens)[0]

    def critic_weights(self) -> dict[str, Tensor]:
        """See `Roles`: with the adapter added in."""
        from peft.tuners.lora import LoraLayer

        from proximo.language.compute.lora import merged_weight

        adapter = "default" if self.settings.critic == "shared" else "critic"
        decoder = self.policy.parts[0]
        merged = {
            f"{name}.base_layer.weight": merged_weight(layer, adapter)
            for name, layer in decoder.named_modules()
            if isinstance(layer, LoraLayer)
        }
        weights = {name: x for name, x in decoder.state_dict().items() if ".lora_" not in name} | merged
        return {name.replace(".base_layer.", "."): x for name, x in weights.items()}

    def sampled_weights(self) -> dict[str, Tensor]:
        """See `Roles`: the base with the adapters added in, as `as_sampler` leaves it."""
        base: Any = self.adapted.get_base_model()
        weights = {name: p.detach() for name, p in base.named_parameters() if ".lora_" not in name}
        return {name.replace(".base_layer.", "."): x for name, x in weights.items()}

    def _adapter(self, name: str | None) -> AbstractContextManager[None]:
        from proximo.language.compute.lora import as_adapter

        return as_adapter(self.adapted, name)

    def save_pretrained(self, folder: Path) -> None:
        """See `Roles`: a PEFT adapter, which names its base; the whole model where there is no base to name."""
        if self.model.name_or_path:
            self.adapted.save_pretrained(str(folder), selected_adapters=["default"])
            if getattr(self.model, "generation_config", None) is not None:  # its ends are not the base's alone
                self.model.generation_config.save_pretrained(str(folder))
        else:
            whole: Any = copy.deepcopy(self.adapted)
            whole.merge_and_unload(adapter_names=["default"]).save_pretrained(folder)


def _check_widths(critic: Any, decoder: Any) -> None:
    widths = [m.get_input_embeddings().weight.shape[1] for m in (critic, decoder)]
    if widths[0] != widths[1]:
        raise UserError(
            f"the reward model's states have {widths[0]} numbers and the policy's {widths[1]}: use "
            "sharing.critic_from = policy"
        )


def _with_bias(head: nn.Linear) -> dict[str, Tensor]:
    return {"weight": head.weight, "bias": torch.zeros(1) if head.bias is None else head.bias}


def _check_adapted(adapted: nn.Module, name: str) -> None:
    """Adapters on anything but a weight (peft puts some on stacked experts) could not be merged for sampling."""
    from peft.tuners.lora import LoraLayer

    for layer in adapted.modules():
        if isinstance(layer, LoraLayer) and not isinstance(getattr(layer.get_base_layer(), "weight", None), Tensor):
            raise UserError(
                f"sharing lora does not know how to adapt the {type(layer.get_base_layer()).__name__} of {name}: set "
                "sharing.mode to top_layers or full"
            )


class TopLayerRoles(Roles):
    """One frozen trunk for all; policy and critic have own upper layers (the hydra of trlX, Havrilla et al. 2023)."""

    def __init__(self, model: Any, settings: SharingSettings) -> None:
        super().__init__(model, settings)
        decoder = model.get_decoder()
        trunk, self.top = split_decoder(decoder, settings.top_layers)
        # The model's own upper layers stay as they are: they are the reference's.
        self.policy, self.reference = Stack([trunk, self.top]), Stack([trunk, upper_part(decoder, settings.top_layers)])
        self.reference_head = self.head
        self.top.requires_grad_(True)
        if self.separate:
            self.critic_top = copy.deepcopy(self.top)
            self.critic_stack = Stack([trunk, self.critic_top])
        self.value_head.requires_grad_(True)

    def critic_hidden(self, tokens: Tensor, states: Tensor | None) -> Tensor:
        """See `Roles`."""
        return self.critic_stack(tokens, states)[0]

    def critic_weights(self) -> dict[str, Tensor]:
        """See `Roles`."""
        return self._whole(self.top if self.settings.critic == "shared" else self.critic_top)

    def _whole(self, top: Any) -> dict[str, Tensor]:
        """The model's decoder with other upper layers."""
        decoder = self.model.get_decoder()
        first = len(decoder.layers) - len(top.layers)
        upper = {
            f"layers.{first + index}.{name}": x
            for index, layer in enumerate(top.layers)
            for name, x in layer.state_dict().items()
        }
        norm = {f"norm.{name}": x for name, x in top.norm.state_dict().items()}
        return dict(decoder.state_dict()) | upper | norm

    def sampled_weights(self) -> dict[str, Tensor]:
        """See `Roles`."""
        decoder = self.model.get_decoder()
        place = next(name for name, module in self.model.named_modules() if module is decoder)
        own = {f"{place}.{name}": x for name, x in self._whole(self.top).items()}
        return {name: own.get(name, p.detach()) for name, p in self.model.named_parameters()}

    def save_pretrained(self, folder: Path) -> None:
        """See `Roles`: the whole model, with the trained layers in their places."""
        whole = copy.deepcopy(self.model)
        whole.get_decoder().load_state_dict(self._whole(self.top))
        whole.save_pretrained(folder)


def make_roles(
    model: Any,
    settings: SharingSettings,
    reward_decoder: nn.Module | None = None,
    reward_head: nn.Linear | None = None,
    *,
    reference: bool = True,
    seed: int = 0,
) -> Roles:
    """The roles that `settings` asks for.

    Args:
        model: see `Roles`.
        settings: what is shared.
        reward_decoder: what a separate critic starts from with `critic_from = reward`.
        reward_head: see `FullRoles`.
        reference: whether full copies hold one; elsewhere it costs nothing.
        seed: of adapters.

    Raises:
        UserError: the model can not be shared like this.
    """
    if settings.critic_from == "reward" and (settings.mode != "full" or reward_decoder is None):
        raise UserError(
            "critic_from = reward needs sharing mode full and a reward model with the policy's tokenizer: "
            "use critic_from = policy"
        )
    if settings.mode == "full":
        return FullRoles(model, settings, reward_decoder, reward_head, reference=reference)
    return LoraRoles(model, settings, seed) if settings.mode == "lora" else TopLayerRoles(model, settings)
