"""Load reward models and run them: one number for each sequence of tokens, read at its last token."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfcontrast.errors import InputError, SelfContrastError
from selfcontrast.inspection.folders import check_damage
from selfcontrast.records import Message
from selfcontrast.threads import choose_kernels
from selfcontrast.weights import COMPUTED, OUTPUT_LAYER, check_names, load_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from selfcontrast.rendering import Renderer

Layout = Literal["sequence", "value_head"]

VALUE_HEAD = "v_head.weight"
PREFIXES = ("transformer.", "model.")
"""Prefixes of the transformer's weights beside a value head."""

UNREAD = f"{OUTPUT_LAYER}|{COMPUTED}"
"""Weights beside a value head that no reward depends on."""

TRAINED_TEMPLATE = "tokenizer"
"""Template of the reward models that a study trains: that of the SFT model is in the tokenizer they are saved with."""

OTHER_LAYOUT = "check `model` and `layout` of the scorer; docs/reward-models.md says what each layout holds"

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

    from selfcontrast.attention import check_length

    choose_kernels()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    load = _load_classifier if layout == "sequence" else _load_value_head
    try:
        backbone, head = load(folder, getattr(torch, dtype), trust_remote_code)
    except SelfContrastError:
        raise
    except Exception as error:
        check_damage(folder, "value_head" if layout == "value_head" else "reward")
        if not isinstance(error, OSError | ValueError | KeyError | RuntimeError | ImportError):
            raise
        raise InputError(
            f"no reward model of the layout `{layout}` can be loaded",
            found=str(error).strip().split("\n")[0],
            where=str(folder),
            remedy=OTHER_LAYOUT,
        ) from None
    backbone, head = backbone.to(device).eval(), head.to(device).eval()

    @torch.no_grad()
    def read(ids: Tensor, mask: Tensor) -> Tensor:
        check_length(backbone, ids.shape[1])
        hidden = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        last = hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        return head(last)[:, 0].float()

    return read, device


def _load_classifier(folder: Path, dtype: torch.dtype, code: bool) -> tuple[PreTrainedModel, nn.Module]:
    from transformers import AutoModelForSequenceClassification

    model: PreTrainedModel = load_whole(
        lambda: AutoModelForSequenceClassification.from_pretrained(
            str(folder), dtype=dtype, trust_remote_code=code, use_safetensors=True
        ),
        where=folder,
        remedy=OTHER_LAYOUT,
        may_hold=OUTPUT_LAYER,
    )
    if model.config.num_labels != 1:
        raise ValueError(f"the classifier has {model.config.num_labels} labels; a reward model has one")
    if not hasattr(model, "score"):
        raise ValueError(f"{type(model).__name__} does not read its label at the last token")
    _compare(model)
    return model.base_model, model.score


def _compare(model: PreTrainedModel) -> None:
    """Raise ValueError if the reward that is read here is not the model's own, on one row."""
    import torch

    with torch.no_grad():
        pad = getattr(model.config.get_text_config(), "pad_token_id", None)
        ids = torch.full((1, 3), 2 if pad == 1 else 1)
        found = model.score(model.eval().base_model(input_ids=ids).last_hidden_state[:, -1]).float()
        own = model(input_ids=ids).logits.float()
    if (found - own).abs().max() > 1e-2 * max(1.0, own.abs().max().item()):  # room for bfloat16
        name, difference = type(model).__name__, (found - own).abs().max().item()
        raise ValueError(
            f"{name} does more behind its last hidden state than `score`: a reward differs by {difference:.3g}"
        )


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
    wanted = backbone.state_dict()
    named = {_without_prefix(name): tensor for name, tensor in weights.items()}
    named = {name: tensor for name, tensor in named.items() if name in wanted or not re.search(UNREAD, name)}
    shapes = {name: (tuple(named[name].shape), tuple(wanted[name].shape)) for name in wanted.keys() & named.keys()}
    check_names(
        type(backbone).__name__,
        missing=wanted.keys() - named.keys(),
        unexpected=named.keys() - wanted.keys(),
        mismatched={name: (there, here) for name, (there, here) in shapes.items() if there != here},
        where=folder,
        remedy=OTHER_LAYOUT,
    )
    width = config.get_text_config().hidden_size
    if vector.shape[1] != width:
        raise ValueError(f"`{VALUE_HEAD}` has {vector.shape[1]} numbers for a width of {width}")
    backbone.load_state_dict(named)
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


def render_answers(
    renderer: Renderer, prompt: str, texts: Sequence[str], *, longest: int
) -> tuple[list[list[int]], int]:
    """Return the token ids of a prompt with each answer, which is all that a reward model reads, and how many were cut.

    They end where the chat template's text ends, a newline behind the end of turn included: that is the last token of the
    rendered dialogue, at which reward models are trained to give their number.

    Args:
        prompt: the last user turn.
        longest: tokens; what is longer loses its beginning.
    """
    start = renderer.prompt_ids([Message("user", prompt)])
    rows = [[*start, *renderer.finished_ids(text)] for text in texts]
    return [row[-longest:] for row in rows], sum(len(row) > longest for row in rows)


def new_reward_model(folder: Path, *, pad_id: int, trust_remote_code: bool, seed: int) -> PreTrainedModel:
    """Return a classifier with one label on the transformer of a causal language model, its weights as float32.

    The head starts with normal random numbers of variance 1 / (width + 1), as in arXiv 2009.01325.

    Args:
        pad_id: token that fills rows up; the label is read before it.

    Raises:
        InputError: there is no classifier for the model's architecture that reads its label at the last token.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        model: PreTrainedModel = load_whole(
            lambda: AutoModelForSequenceClassification.from_pretrained(
                str(folder),
                num_labels=1,
                pad_token_id=pad_id,
                dtype=torch.float32,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
            ),
            where=folder,
            remedy="take another SFT model",
            may_lack=r"^score\.",
            may_hold=OUTPUT_LAYER,
        )
        head = model.score.weight
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            "no reward model can be started from the SFT model",
            expected="an architecture of which transformers has a sequence classifier with a layer `score`",
            found=str(error).strip().split("\n")[0],
            where=str(folder),
            remedy="drop `reward_models`, or take another model",
        ) from None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.copy_(torch.randn(head.shape, generator=generator) / (head.shape[1] + 1) ** 0.5)
    return model


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
