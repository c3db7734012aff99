"""Reward of an answer under a reward model: an outside judgement, so for evaluation; a selection by it is feedback.

Source: the evaluation of arXiv 2404.00604 (Starling-RM-7B-alpha; a win is a reward above the target's, a tie half). As
there, the model reads the last user turn and the answer, cut on the left where they do not fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from selfcontrast import cuts
from selfcontrast.records import PromptPool
from selfcontrast.schema import Count, Id, Strict
from selfcontrast.token_rows import Rows

if TYPE_CHECKING:
    from selfcontrast.rendering import Renderer
    from selfcontrast.reward_models import ReadReward

    Loaded = tuple[Renderer, ReadReward, str]

CHECKPOINT = "reward"
"""What the parameter `model` is loaded as."""

PROMPTS_AT_A_TIME = 128
"""Prompts whose answers are tokenised together."""


class Params(Strict):
    """Parameters of the scorer."""

    model: str | None = Field(
        None, description="folder or hub id (`@commit` pins it) of the reward model; weights as safetensors"
    )
    trained: Id | None = Field(
        None, description="id under `reward_models`, in place of `model`: one that the study trains"
    )
    layout: Literal["sequence", "value_head"] = Field(
        "sequence", description="a sequence classifier with one label, or a transformer with a vector `v_head.weight`"
    )
    template: str = Field(
        "tokenizer", description="chat template of the reward model: plug-in of selfcontrast/templates"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of its weights")
    max_length: Count = Field(
        2048, description="longest prompt and answer, in tokens; longer ones lose their beginning"
    )
    tokens: Count = Field(16384, description="tokens that run together; changes results by rounding at most")
    trust_remote_code: bool = Field(False, description="allow the model to bring code of its own")

    @model_validator(mode="after")
    def _one_model(self) -> Params:
        if (self.model is None) == (self.trained is None):
            raise ValueError("give either `model` or `trained`")
        if self.trained is not None and (self.layout, self.template) != ("sequence", "tokenizer"):
            raise ValueError("`layout` and `template` are for `model`: a `trained` reward model has those of its study")
        return self


def load(params: Params) -> Loaded:
    """Return the renderer of the reward model's texts, the model, and the device that it is on."""
    from selfcontrast.checkpoints import embedding_rows, load_tokenizer
    from selfcontrast.hub import model_folder
    from selfcontrast.rendering import Renderer
    from selfcontrast.reward_models import load_reward_model

    folder, code = model_folder(str(params.model)), params.trust_remote_code
    embedded = Rows(embedding_rows(folder, trust_remote_code=code))
    renderer = Renderer(load_tokenizer(folder, trust_remote_code=code), params.template, rows=embedded)
    read, device = load_reward_model(folder, params.layout, dtype=params.dtype, trust_remote_code=code)
    return renderer, read, device


def score(
    pools: Collection[PromptPool], prompts: Sequence[str], params: Params, counts: Counter[str]
) -> list[list[float]]:
    """Return the reward of every answer, pool by pool; ``prompts`` are the last user turns.

    Args:
        params: with ``model``: the step puts the folder of a ``trained`` model there.
    """
    model = load(params)
    pairs = zip(pools, prompts, strict=True)
    found = [scores for block in blocks(pairs) for scores in score_block(block, params, counts, model)]
    cuts.settle(counts)
    return found


def score_block(
    block: Sequence[tuple[PromptPool, str]], params: Params, counts: Counter[str], model: Loaded
) -> list[list[float]]:
    """Return the rewards of one of the ``blocks``; ``model`` is what ``load`` returns."""
    from selfcontrast.reward_models import render_answers, score_rows

    renderer, read, device = model
    rows: dict[tuple[str, str], list[int]] = {}
    for pool, prompt in block:
        texts = list(dict.fromkeys(a.text for a in pool.answers))
        found_rows, n_cut = render_answers(renderer, prompt, texts, longest=params.max_length)
        where = f"prompt {pool.prompt_id}, read by {params.model}"
        renderer.rows.check(renderer.tokenizer, chain(*found_rows), where=where)
        rows |= {(pool.prompt_id, text): row for text, row in zip(texts, found_rows, strict=True)}
        cuts.add(counts, cuts.BY_REWARD_MODEL, n_cut, len(texts))
    found = score_rows(read, list(rows.values()), tokens=params.tokens, device=device)
    rewards = dict(zip(rows, found, strict=True))
    return [[rewards[pool.prompt_id, a.text] for a in pool.answers] for pool, _ in block]


def blocks(pairs: Iterable[tuple[PromptPool, str]]) -> Iterator[list[tuple[PromptPool, str]]]:
    """Yield pools with their prompts, ``PROMPTS_AT_A_TIME`` together, of which an interruption costs one block."""
    rows = iter(pairs)
    while block := list(islice(rows, PROMPTS_AT_A_TIME)):
        yield block
