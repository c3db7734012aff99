"""Load reward models and run them: one number for each sequence of tokens, read at its last token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfcontrast.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Layout = Literal["sequence", "value_head"]

VALUE_HEAD = "v_head.weight"
PREFIXES = ("transformer.", "model.")
"""Prefixes of the transformer's weights beside a value head."""

ReadReward = Callable[["Tensor", "Tensor"], "Tensor"]
"""Token ids and mask, ``(rows, tokens)``, padded on the right; to rewards, ``(rows,)``."""


def load_reward_model(folder: Path, layout: Layout, *, dtype: str, trust_remote_code: bool) -> tuple[ReadReward, str]:
    """Return the function that reads rewards, and the device it wants its tensors on.

    Args:
        folder: checkpoint in the Hugging Face layout, weights as safetensors.
        layout: ``sequence``: a sequence classifier with one label. ``value_head``: the transformer of a causal language
            model and a vector ``v_head.weight`` of its width, as Starling's reward models have it.

    Raises:
        InputError: the checkpoint has another layout.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    load = _load_classifier if layout == "sequence" else _load_value_head
    try:
        backbone, head = load(folder, getattr(torch, dtype), trust_remote_code)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"no reward model of the layout `{layout}` can be loaded",
            found=str(error).strip().split("\n")[0],
            where=str(folder),
            remedy="check `model` and `layout` of the scorer; docs/reward-models.md says what each layout holds",
        ) from None
    backbone, head = backbone.to(device).eval(), head.to(device).eval()

    @torch.no_grad()
    def read(ids: Tensor, mask: Tensor) -> Tensor:
        hidden = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        last = hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        return head(last)[:, 0].float()

    return read, device


def _load_classifier(folder: Path, dtype: torch.dtype, code: bool) -> tuple[PreTrainedModel, nn.Module]:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        str(folder), dtype=dtype, trust_remote_code=code, use_safetensors=True
    )
    if model.config.num_labels != 1:
        raise ValueError(f"the classifier has {model.config.num_labels} labels; a reward model has one")
    if not hasattr(model, "score"):
        raise ValueError(f"{type(model).__name__} does not read its label at the last token")
    return model.base_model, model.score


def _load_value_head(folder: Path, dtype: torch.dtype, code: bool) -> tuple[PreTrainedModel, nn.Module]:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModel

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError("the folder has no weights as safetensors")
    weights: dict[str, Any] = {}
    for file in files:
        weights |= load_file(file)
    if VALUE_HEAD not in weights:
        raise ValueError(f"there is no weight `{VALUE_HEAD}` among {len(weights)}")
    vector = weights.pop(VALUE_HEAD).reshape(1, -1).to(dtype)
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=code)
    backbone = AutoModel.from_config(config, trust_remote_code=code, dtype=dtype)
    named = {_without_prefix(name): tensor for name, tensor in weights.items()}
    wanted = backbone.state_dict().keys()
    if missing := sorted(wanted - named.keys()):
        raise ValueError(f"{len(missing)} weights are missing, among them {missing[0]}")
    backbone.load_state_dict({name: named[name] for name in wanted})
    head = torch.nn.Linear(vector.shape[1], 1, bias=False, dtype=dtype)
    head.weight.data.copy_(vector)
    return backbone, head


def _without_prefix(name: str) -> str:
    # Starling's checkpoint has its transformer twice: as `transformer.`, and as `model.model.` beside an unused head.
    if name.startswith("model.model."):
        return name.removeprefix("model.model.")
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def score_rows(read: ReadReward, rows: Sequence[Sequence[int]], *, tokens: int, device: str) -> list[float]:
    """Return the reward of each row of token ids; rows of like length run together.

    Args:
        tokens: that run together, padding counted; a single row may have more.
    """
    import torch

    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    found = [0.0] * len(rows)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * len(rows[order[stop]]) <= tokens:
            stop += 1
        batch = order[start:stop]
        longest = len(rows[batch[-1]])
        ids = torch.tensor([[*rows[i], *[0] * (longest - len(rows[i]))] for i in batch], device=device)
        lengths = torch.tensor([len(rows[i]) for i in batch], device=device)
        mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
        for i, reward in zip(batch, read(ids, mask).tolist(), strict=True):
            found[i] = reward
        start = stop
    return found
