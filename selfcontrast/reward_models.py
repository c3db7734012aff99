"""Load reward models and run them: one number for each sequence of tokens, read at its last token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfcontrast.errors import InputError
from selfcontrast.records import Message
from selfcontrast.threads import choose_kernels

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from selfcontrast.rendering import Renderer
    from selfcontrast.schema import Study

Layout = Literal["sequence", "value_head"]

VALUE_HEAD = "v_head.weight"
PREFIXES = ("transformer.", "model.")
"""Prefixes of the transformer's weights beside a value head."""

TRAINED_TEMPLATE = "tokenizer"
"""Template of the reward models that a study trains: that of the SFT model is in the tokenizer they are saved with."""

ReadReward = Callable[["Tensor", "Tensor"], "Tensor"]
"""Token ids and mask, ``(rows, tokens)``, padded on the right; to rewards, ``(rows,)``."""


def check_weights(study: Study) -> None:
    """Refuse a reward model whose weights are pickled, or missing, before the first job: rewards are read last.

    A model that neither a folder, the cache nor the hub can tell anything of passes: its job will say so.

    Raises:
        InputError: there is one.
    """
    from selfcontrast import hub

    for key, scorer in study.scorers.items():
        name = scorer.params.get("model")
        files = hub.names_of_files(name) if scorer.kind == "reward" and name is not None else None
        if files is None or any(file.endswith(".safetensors") for file in files):
            continue
        raise InputError(
            "a reward model has no weights as safetensors, and pickled weights are not opened",
            found=", ".join(file for file in files if file.endswith(hub.PICKLED)) or "no weights at all",
            where=f"scorers.{key}.model: {name}",
            remedy="convert it once, as docs/reward-models.md says, and name the new folder",
        )


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
        check_length(backbone, ids.shape[1])
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


def render_answers(
    renderer: Renderer, prompt: str, texts: Sequence[str], *, longest: int
) -> tuple[list[list[int]], int]:
    """Return the token ids of a prompt with each answer, which is all that a reward model reads, and how many were cut.

    Args:
        prompt: the last user turn.
        longest: tokens; what is longer loses its beginning.
    """
    start = renderer.prompt_ids([Message("user", prompt)])
    rows = [[*start, *renderer.response_ids(text)] for text in texts]
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
        model = AutoModelForSequenceClassification.from_pretrained(
            str(folder),
            num_labels=1,
            pad_token_id=pad_id,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
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
