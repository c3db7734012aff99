"""Load and save models and tokenizers in the Hugging Face layout: safetensors only, no code from the checkpoint."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast import artifacts
from selfcontrast.errors import InputError, SelfContrastError
from selfcontrast.finite import NotFiniteError, name_of_model
from selfcontrast.inspection.folders import check_damage
from selfcontrast.pins import split_revision
from selfcontrast.weights import load_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint."""
    from transformers import AutoTokenizer

    name, revision = split_revision(path)
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=trust_remote_code)
    except Exception as error:
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
    except Exception as error:
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


def fit_to_tokenizer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    new_tokens: Sequence[int],
    *,
    stops: Iterable[int] = (),
    among: Callable[[Iterable[int]], Collection[int]] | None = None,
) -> None:
    """Give a base model, in place, embeddings for new tokens, and the tokenizer's EOS as the token that ends a generation.

    A new token starts with the mean of the rows of the tokens that were there, in both embeddings, and so do rows between
    the old ones and the new. Embeddings that have rows to spare keep their size. Generation also ends where it did before.

    Args:
        new_tokens: ids that were added behind the vocabulary.
        stops: further ids that end a generation: the EOS that the tokenizer had.
        among: returns those of some ids that may end an answer (``Renderer.stop_ids``); by default all of them may.
    """
    import torch

    if new_tokens:
        n_rows = model.get_input_embeddings().weight.shape[0]
        if n_rows <= max(new_tokens):
            model.resize_token_embeddings(max(new_tokens) + 1, mean_resizing=False)
        layers = [model.get_input_embeddings(), model.get_output_embeddings()]
        tensors = {p.data_ptr(): p for layer in layers for p in layer.parameters()}  # tied embeddings are one tensor
        made = sorted({*new_tokens, *range(n_rows, max(new_tokens) + 1)})
        with torch.no_grad():
            for tensor in tensors.values():
                tensor[made] = tensor[: made[0]].float().mean(0).to(tensor.dtype)
    ends = list(dict.fromkeys([tokenizer.eos_token_id, *_ends_of(model), *stops]))
    if among is not None:
        kept = {tokenizer.eos_token_id, *among(ends)}
        if text := [i for i in ends if i not in kept]:
            log.warning(
                "ids that the checkpoint names as EOS are text and no control tokens; they end no answer: %s", text
            )
        ends = [i for i in ends if i in kept]
    eos = ends if len(ends) > 1 else ends[0]
    model.config.get_text_config().eos_token_id = eos
    model.config.eos_token_id = eos
    if model.generation_config is not None:
        model.generation_config.eos_token_id = eos


def reset_generation(model: PreTrainedModel, stops: Sequence[int] | None = None) -> dict[str, Any]:
    """Make a model forget, in place, how its checkpoint asks to be decoded; return what it forgot, for manifests.

    A generation_config.json may hold penalties, forbidden and forced tokens, lengths, beams, sampling, watermarks and more
    EOS ids. An old config.json may hold them too, and a folder custom_generate/ replaces ``generate`` itself. ``generate``
    follows all of them unless its caller names every one. Only the ids of BOS, EOS and padding stay: a list of what is kept
    also covers fields that transformers does not have yet.

    Args:
        stops: ids that end an answer, instead of the checkpoint's.

    Returns:
        The fields with their values as JSON; those that say what ``generate`` does anyway are left out.
    """
    found = getattr(model, "generation_config", None)
    reset: dict[str, Any] = {}
    if found is not None:
        kept = {name: getattr(found, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        if stops is not None:
            kept["eos_token_id"] = sorted(stops)
        fresh = type(found)(**kept)
        defaults = {**getattr(fresh, "_get_default_generation_params", dict)(), **kept}
        for name, value in found.to_dict().items():
            if not (name.startswith("_") or name == "transformers_version" or _says_nothing(value, defaults.get(name))):
                reset[name] = json.loads(json.dumps(value, default=str))
        if reset or stops is not None:
            model.generation_config = fresh
    if vars(model).pop("generate", None) is not None:
        reset["custom_generate"] = True
    return reset


def _says_nothing(value: Any, default: Any) -> bool:
    """Return whether a field of a generation config does what its absence does; ids are a number or a list of them."""
    if value is None or (value is False and default is None):
        return True
    return value == default or (isinstance(default, list) and isinstance(value, int) and [value] == default)


def _ends_of(model: PreTrainedModel) -> list[int]:
    """Return the ids that ended a generation when the model was loaded."""
    if (generation := model.generation_config) is None:
        return []
    ids = _as_list(generation.eos_token_id)
    # A single id that comes from the configuration may be no more than the default of its class.
    return ids if len(ids) > 1 or not getattr(generation, "_from_model_config", False) else []


def stated_ends(folder: Path) -> list[int]:
    """Return the ids that the generation_config.json of a saved model names as EOS; see ``Renderer.stop_ids``."""
    path = folder / "generation_config.json"
    return _as_list(artifacts.read_json(path).get("eos_token_id")) if path.is_file() else []


def embedding_rows(path: str | Path, *, trust_remote_code: bool = False) -> int | None:
    """Return how many token ids a checkpoint has an embedding for, or None if its configuration does not say."""
    from transformers import AutoConfig

    name, revision = split_revision(path)
    try:
        config = AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError):
        return None  # what is wrong with it is said where the model is loaded
    rows = getattr(config.get_text_config(), "vocab_size", None)
    return rows if isinstance(rows, int) else None


def _as_list(ids: int | Sequence[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else [int(i) for i in ids]


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


def _cannot_load(what: str, path: str | Path, error: Exception) -> Exception:
    """Return what to raise for an error of a loading library: a message, or the error itself if it says nothing of files.

    Raises:
        InputError: a file of the checkpoint is damaged, which tells more than the library does.
    """
    if isinstance(error, SelfContrastError):
        return error
    name, revision = split_revision(path)
    check_damage(Path(name), "tokenizer" if what == "tokenizer" else "model")
    if not isinstance(error, OSError | ValueError | KeyError | ImportError):
        return error
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
