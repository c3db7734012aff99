"""Load and save models and tokenizers in the Hugging Face layout: safetensors only, no code from the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from selfcontrast import artifacts
from selfcontrast.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load("tokenizer", path, error) from None


def load_model(path: str | Path, *, dtype: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return a causal language model on the GPU if there is one, else on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path), dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load("causal language model", path, error) from None
    model.eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def save_checkpoint(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write weights (safetensors), configuration and tokenizer."""
    with artifacts.atomic(folder) as partial:
        partial.mkdir()
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def _cannot_load(what: str, path: str | Path, error: Exception) -> InputError:
    return InputError(
        f"no {what} can be loaded",
        expected="a folder or hub id in the Hugging Face layout, with weights as safetensors",
        found=str(error).strip().split("\n")[0],
        where=str(path),
        remedy="check models.<id>.path in the study file",
    )
