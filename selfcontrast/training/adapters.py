"""Low-rank adapters by way of peft: trained instead of the weights, merged into them before the policy is saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from selfcontrast.errors import InputError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def add_adapters(model: PreTrainedModel, lora: dict[str, Any], *, new_tokens: Sequence[int] = ()) -> PeftModel:
    """Put adapters into ``model``, in place, and freeze everything else; return the handle that merges them.

    The adapters change nothing before the first step: their second factor starts at zero.

    Args:
        lora: the keys of ``schema.Lora``.
        new_tokens: ids whose embeddings are trained themselves: low-rank adapters leave embeddings as they are, and those of
            new tokens mean nothing yet.

    Raises:
        InputError: new tokens, and weights of 4 bits.
    """
    from peft import LoraConfig, get_peft_model

    if new_tokens and lora["quantise"] != "none":
        raise InputError(
            "the chat template needs tokens that the tokenizer lacks, and `quantise` cannot train their embeddings",
            remedy="set `quantise: none`, or take a `template` without tokens of its own",
        )
    targets = lora["targets"]
    config = LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=0.0,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
        trainable_token_indices={name: list(new_tokens) for name in _embeddings(model)} if new_tokens else None,
    )
    return get_peft_model(model, config)


def _embeddings(model: PreTrainedModel) -> list[str]:
    """Return the names of the embeddings of tokens: of the input, and of the output if it has a tensor of its own."""
    layers = [model.get_input_embeddings()]
    if model.get_output_embeddings().weight is not layers[0].weight:
        layers.append(model.get_output_embeddings())
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    return [names[id(layer)] for layer in layers]


def merge_adapters(adapted: PeftModel) -> PreTrainedModel:
    """Return the language model with the adapters added to its weights; weights of 4 bits are unpacked first.

    Adding to packed weights would round away most of what was learnt.
    """
    import torch

    if not getattr(adapted.base_model.model, "is_quantized", False):
        merged: PreTrainedModel = adapted.merge_and_unload()
        return merged
    layers = adapted.base_model.model.named_modules()
    deltas = {name: layer.get_delta_weight("default") for name, layer in layers if hasattr(layer, "get_delta_weight")}
    model: PreTrainedModel = adapted.unload().dequantize()
    with torch.no_grad():
        for name, delta in deltas.items():
            model.get_submodule(name).weight.add_(delta)
    return model
