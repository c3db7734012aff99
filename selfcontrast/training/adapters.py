"""Low-rank adapters by way of peft: trained instead of the weights, merged into them before the policy is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def add_adapters(model: PreTrainedModel, lora: dict[str, Any]) -> PeftModel:
    """Put adapters into ``model``, in place, and freeze everything else; return the handle that merges them.

    The adapters change nothing before the first step: their second factor starts at zero.

    Args:
        lora: the keys of ``schema.Lora``.
    """
    from peft import LoraConfig, get_peft_model

    targets = lora["targets"]
    config = LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=0.0,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


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
