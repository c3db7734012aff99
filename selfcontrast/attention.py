"""What a loaded model can do with rows of tokens, decided once for sampling, log-probabilities, training and diagnosis.

Two things make work cheap: to run a prompt once for all of its responses, and to run rows of unequal length together. Both
need positions that can be given, keys and values that can be handed on, and attention that counts distances in the text. A
model without them runs whole rows, padded on the right, which is right for every model that reads from left to right.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch

from selfcontrast.architectures import longest_row, refuse, too_long
from selfcontrast.errors import InputError
from selfcontrast.lm_head import backbone, check_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PRIVATE_CACHE = {"git"}
"""Architectures that do not attend to a cache as to the text before it, although their forward pass takes one."""

FEW_TOKENS = 4
"""Tokens of the rows on which a loaded model is tried."""


def why_no_shared_prompt(model: PreTrainedModel) -> str | None:
    """Return why keys and values of a padded prompt cannot be handed to its responses, or None if they can.

    The cache is one that keeps every key. A window is then the model's own mask over it, so windows are no reason.
    """
    from transformers import DynamicCache

    config = model.config.get_text_config()
    takes = inspect.signature(backbone(model).forward).parameters
    if not type(model.config).__module__.startswith("transformers."):
        return "code of its own, of which nothing is known"
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return "ALiBi, which counts distances in the row and not in the text"
    kinds = {type(layer).__name__ for layer in DynamicCache(config=model.config).layers}
    if getattr(model, "_is_stateful", False) or not kinds <= {"DynamicLayer", "DynamicSlidingWindowLayer"}:
        return "layers whose state is no list of keys and values"
    if "position_ids" not in takes:
        return "positions that cannot be given"
    if "past_key_values" not in takes or config.model_type in PRIVATE_CACHE:
        return "no cache that can be handed on"
    if getattr(config, "expert_capacity", None) is not None:
        return "experts of limited capacity, so that tokens of a batch compete"
    return None


def shortest_window(model: PreTrainedModel) -> int | None:
    """Return the fewest tokens, itself counted, that a token sees in some layer; None where all see the whole text."""
    from transformers import DynamicCache

    config = model.config.get_text_config()
    windows = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=model.config).layers]
    if getattr(config, "use_sliding_window", True):
        windows.append(getattr(config, "sliding_window", None))
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo
        windows.append(config.window_size)
    return min((int(window) for window in windows if window), default=None)


def check_length(model: PreTrainedModel, length: int) -> None:
    """Raise InputError if a row is longer than the model's positions allow (``architectures.longest_row``)."""
    config = model.config.get_text_config().to_dict()
    limit = longest_row(config)
    if limit is not None and length > limit:
        raise too_long(config, length, where=type(model).__name__)


@torch.no_grad()
def check_model(model: PreTrainedModel) -> None:
    """Try whether a loaded language model can be served at all; every step that runs one calls this first.

    Raises:
        InputError: its architecture cannot be, its head is not understood, or a token sees what comes after it.
    """
    refuse(model.config.to_dict(), where=type(model).__name__)
    check_head(model)
    ids = torch.zeros((2, FEW_TOKENS), dtype=torch.long, device=model.device)
    ids[1, -1] = 1
    one, other = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].float()
    if (one - other).norm() > 0.05 * one.norm():  # room for bfloat16
        raise InputError(
            "this model is no decoder: the last token of a text changes what stands before it",
            expected="a model that reads from left to right",
            found=type(model).__name__,
            remedy="set `is_decoder: true` in its config.json if it was trained as one, or take another model",
        )
