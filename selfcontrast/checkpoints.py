"""Load and save models and tokenizers in the Hugging Face layout: safetensors only, no code from the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast import artifacts
from selfcontrast.errors import InputError
from selfcontrast.finite import NotFiniteError, name_of_model
from selfcontrast.pins import split_revision
from selfcontrast.weights import load_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint."""
    from transformers import AutoTokenizer

    name, revision = split_revision(path)
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load("tokenizer", path, error) from None


def load_model(
    path: str | Path, *, dtype: str, trust_remote_code: bool = False, quantise: str = "none"
) -> PreTrainedModel:
    """Return a causal language model on this process's GPU if there is one, else on the CPU.

    Args:
        quantise: ``nf4`` holds the weights of the linear layers in 4 bits (QLoRA, arXiv 2305.14314), with bitsandbytes.

    Raises:
        InputError: there is no such checkpoint, or its weights are not those of a causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    name, revision = split_revision(path)
    options: dict[str, Any] = {}
    if quantise == "nf4":
        options["quantization_config"] = _nf4(getattr(torch, dtype))
    try:
        model: PreTrainedModel = load_whole(
            lambda: AutoModelForCausalLM.from_pretrained(
                name,
                revision=revision or "main",
                dtype=getattr(torch, dtype),
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                **options,
            ),
            where=path,
            remedy="name a causal language model, as it was saved, in models.<id>.path; or fetch the checkpoint again",
        )
    except (OSError, ValueError, KeyError, ImportError) as error:  # ImportError: no package for quantised weights
        raise _cannot_load("causal language model", path, error) from None
    model.eval()
    if quantise != "none":
        return model  # quantised weights are on their device already
    gpu = int(os.environ.get("LOCAL_RANK", "0"))
    return model.to(f"cuda:{gpu}" if torch.cuda.is_available() else "cpu")


def source_of(model: PreTrainedModel) -> dict[str, str]:
    """Return the commit of the hub that a model was loaded from, for manifests; nothing for a folder."""
    commit = getattr(model.config, "_commit_hash", None)
    return {"base_commit": str(commit)} if commit else {}


def training_dtype(spec: Mapping[str, Any]) -> str:
    """Return the type of the weights while they are trained, given the spec of a training.

    Under ``precision: bf16`` all weights are held in float32: a weight of bfloat16 changes by 0.4 % or not at all, which
    swallows the steps of a small learning rate. Frozen weights under adapters stay as they are.
    """
    training = spec["training"]
    return "float32" if training["precision"] == "bf16" and not training["lora"] else str(spec["dtype"])


def load_for_training(path: str | Path, spec: Mapping[str, Any]) -> PreTrainedModel:
    """Return the model that a training starts from, or its frozen reference: at the first step both are the same function.

    Args:
        spec: ``dtype``, ``trust_remote_code`` and ``training`` with ``precision`` and ``lora``.
    """
    lora = spec["training"]["lora"]
    return load_model(
        path,
        dtype=training_dtype(spec),
        trust_remote_code=spec["trust_remote_code"],
        quantise=lora["quantise"] if lora else "none",
    )


def _nf4(dtype: torch.dtype) -> Any:
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise InputError(
            "`quantise: nf4` needs the package bitsandbytes, which is not installed",
            remedy="pip install bitsandbytes, or set `quantise: none`",
        )
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def fit_to_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new_tokens: Sequence[int]) -> None:
    """Give a base model, in place, embeddings for new tokens, and the tokenizer's EOS as the token that ends a generation.

    A new token starts with the mean of the rows of the tokens that were there, in both embeddings. Embeddings that have rows
    to spare keep their size.

    Args:
        new_tokens: ids that were added behind the vocabulary.
    """
    import torch

    if new_tokens:
        if model.get_input_embeddings().weight.shape[0] <= max(new_tokens):
            model.resize_token_embeddings(max(new_tokens) + 1, mean_resizing=False)
        layers = [model.get_input_embeddings(), model.get_output_embeddings()]
        tensors = {p.data_ptr(): p for layer in layers for p in layer.parameters()}  # tied embeddings are one tensor
        with torch.no_grad():
            for tensor in tensors.values():
                tensor[list(new_tokens)] = tensor[: min(new_tokens)].float().mean(0).to(tensor.dtype)
    eos = tokenizer.eos_token_id
    model.config.get_text_config().eos_token_id = eos
    model.config.eos_token_id = eos
    if model.generation_config is not None:
        model.generation_config.eos_token_id = eos


def save_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Write weights (safetensors), configuration and tokenizer; ``state`` instead of the model's own weights if given.

    Raises:
        NotFiniteError: a weight is not finite: what is beyond the range of the model's type, or what a training has made so.
    """
    for name, weights in (model.state_dict() if state is None else state).items():
        if weights.is_floating_point() and weights.element_size() > 1 and not weights.isfinite().all():
            worst = weights[~weights.isfinite()][0].item()
            raise NotFiniteError(f"a number of the weights `{name}`", worst, model=name_of_model(model))
    with artifacts.atomic(folder) as partial:
        partial.mkdir()
        model.save_pretrained(partial, state_dict=state)
        tokenizer.save_pretrained(partial)


def _cannot_load(what: str, path: str | Path, error: Exception) -> InputError:
    name, revision = split_revision(path)
    fetch = f"`hf download {name}" + (f" --revision {revision}`" if revision else "`")
    remedy = "check models.<id>.path in the study file"
    if not Path(name).is_dir():
        remedy += f"; where this machine has no network, fetch it before with the same HF_HOME: {fetch}"
    return InputError(
        f"no {what} can be loaded",
        expected="a folder or hub id in the Hugging Face layout, with weights as safetensors",
        found=str(error).strip().split("\n")[0],
        where=str(path),
        remedy=remedy,
    )
