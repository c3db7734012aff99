"""Cosine similarity of a response to the SFT target under a frozen text-embedding model (the text alone, no prompt).

Source: arXiv 2404.00604, section 3. The target itself scores 1.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from selfcontrast.errors import InputError, StepError
from selfcontrast.pins import split_revision
from selfcontrast.records import PromptPool
from selfcontrast.schema import Count, Strict
from selfcontrast.threads import choose_kernels

if TYPE_CHECKING:
    from numpy import ndarray

BLOCK_TEXTS = 16_384
"""Texts whose vectors are held at a time: 64 MiB at 1,024 numbers each."""


class Params(Strict):
    """Parameters of the scorer."""

    model: str | None = Field(None, description="folder or hub id (`@commit` pins it) of a sentence-transformers model")
    package: str | None = Field(
        None, description="installed Python package that carries the model: get_model_path() names its folder"
    )
    pooling: Literal["model", "cls", "mean"] = Field(
        "model",
        description="vector of a text: as the model's own files say, its first token, or the mean of its tokens",
    )
    trust_remote_code: bool = Field(False, description="allow the model to bring code of its own")
    batch: Count = Field(128, description="texts embedded together; does not change results beyond rounding")

    def model_post_init(self, context: object) -> None:
        """Require exactly one source."""
        if (self.model is None) == (self.package is None):
            raise ValueError("give either `model` or `package`")


def score(
    pools: Collection[PromptPool], prompts: Sequence[str], params: Params, counts: Counter[str]
) -> list[list[float]]:
    """Return the similarity of every answer to its prompt's target, between -1 and 1, pool by pool."""
    return list(similarities(pools, load(params)))


def load(params: Params) -> Callable[[Sequence[str]], ndarray]:
    """Return the function that turns texts into unit vectors."""
    return _embedder(params)


def score_block(
    block: Sequence[tuple[PromptPool, str]],
    params: Params,
    counts: Counter[str],
    model: Callable[[Sequence[str]], ndarray],
) -> list[list[float]]:
    """Return the scores of one of the ``blocks``; ``model`` is what ``load`` returns."""
    return list(similarities([pool for pool, _ in block], model))


def blocks(pairs: Iterable[tuple[PromptPool, str]]) -> Iterator[list[tuple[PromptPool, str]]]:
    """Yield pools with their prompts in blocks of at most ``BLOCK_TEXTS`` texts, of which an interruption costs one."""
    block: list[tuple[PromptPool, str]] = []
    n_texts = 0
    for pool, prompt in pairs:
        if block and n_texts + len(pool.answers) + 1 > BLOCK_TEXTS:
            yield block
            block, n_texts = [], 0
        block.append((pool, prompt))
        n_texts += len(pool.answers) + 1
    if block:
        yield block


def similarities(pools: Iterable[PromptPool], embed: Callable[[Sequence[str]], ndarray]) -> Iterator[list[float]]:
    """Yield the similarities of each pool's answers to its target, between -1 and 1, in one pass.

    Only the vectors of ``BLOCK_TEXTS`` texts are held at a time. In a block identical texts are embedded once: a pool at
    temperature 1 repeats itself, and equal texts must score the same.

    Args:
        embed: returns unit vectors, ``(texts, width)``.
    """
    import numpy as np

    for pairs in blocks((pool, "") for pool in pools):
        block = [pool for pool, _ in pairs]
        texts = sorted(
            {p.target for p in block} | {a.text for p in block for a in p.answers}, key=lambda t: (len(t), t)
        )
        vectors = embed(texts)
        row = {text: i for i, text in enumerate(texts)}
        for pool in block:
            answers = vectors[[row[a.text] for a in pool.answers]].astype("float64")
            target = vectors[row[pool.target]].astype("float64")
            yield np.clip(answers @ target, -1, 1).round(6).tolist()


def _embedder(params: Params) -> Callable[[Sequence[str]], ndarray]:
    """Load the embedding model and return the function that turns texts into unit vectors."""
    from sentence_transformers import SentenceTransformer

    choose_kernels()
    folder = params.model
    if params.package is not None:
        try:
            folder = importlib.import_module(params.package).get_model_path()
        except ModuleNotFoundError:
            raise StepError(
                f"the embedding model's package `{params.package}` is not installed", remedy="run make env"
            ) from None
    name, revision = split_revision(str(folder))
    try:
        model = SentenceTransformer(name, revision=revision, trust_remote_code=params.trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(
            "the embedding model cannot be loaded",
            found=str(error).split("\n")[0],
            where=str(folder),
            remedy="check `model` of the scorer in the study file; where this machine has no network, fetch it before: "
            f"`hf download {name}`",
        ) from None

    if params.pooling != "model":
        _set_pooling(model, params.pooling, str(folder))

    def embed(texts: Sequence[str]) -> ndarray:
        vectors: ndarray = model.encode(
            list(texts), batch_size=params.batch, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    return embed


def _set_pooling(model: Any, pooling: str, where: str) -> None:
    """Let the pooling layer of an embedding model take the first token or the mean, whatever its files say."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    for i, layer in enumerate(model):
        if isinstance(layer, Pooling):
            model[i] = Pooling(model.get_embedding_dimension(), pooling_mode=pooling)
            return
    raise InputError(
        "the embedding model has no pooling layer to set", where=where, remedy="set `pooling: model` for the scorer"
    )
