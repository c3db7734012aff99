"""Cosine similarity of a response to the SFT target under a frozen text-embedding model (the text alone, no prompt).

An embedding model reads a limited number of tokens. It reads the beginning of a longer text alone (`long_texts: cut`), or the
whole text in pieces (`chunks`). Cut texts are counted, and so are answers that it could not tell apart for that reason.

Source: arXiv 2404.00604, section 3. The target itself scores 1.
"""

from __future__ import annotations

import importlib
import math
import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from selfcontrast import cuts
from selfcontrast.errors import InputError, SelfContrastError, StepError
from selfcontrast.finite import NotFiniteError
from selfcontrast.hub import names_of_files
from selfcontrast.inspection.folders import check_damage
from selfcontrast.pins import split_revision
from selfcontrast.records import TARGET, PromptPool
from selfcontrast.schema import Count, Strict
from selfcontrast.scorers._reading import Reading, count_cut_texts, reading_of
from selfcontrast.threads import choose_kernels
from selfcontrast.weights import load_whole

if TYPE_CHECKING:
    from numpy import ndarray

CHECKPOINT = "embedder"
"""What the parameter `model` is loaded as."""

BLOCK_TEXTS = 16_384
"""Texts whose vectors are held at a time: 64 MiB at 1,024 numbers each."""

POOLER = r"^pooler\."
"""A layer over the first token that no embedding reads: many models were published without it."""

HEADS = (
    r"^(cls|head|lm_head|vocab_\w+|generator_\w+|discriminator_\w+|predictions|\w+_predictions|pred_layer|sop_classifier)\."
    rf"|^decoder\.(weight|bias)$|{POOLER}"
)
"""Layers over the encoder that it was pre-trained with, and that no embedding reads."""


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
    long_texts: Literal["cut", "chunks"] = Field(
        "cut",
        description="a text with more tokens than the model reads: its beginning alone, or the mean over all its pieces",
        exclude_if=lambda value: (
            value == "cut"
        ),  # as before there was a choice: the specs of such scorers stay as they are
    )

    def model_post_init(self, context: object) -> None:
        """Require exactly one source."""
        if (self.model is None) == (self.package is None):
            raise ValueError("give either `model` or `package`")


@dataclass(frozen=True)
class Embedder:
    """An embedding model.

    Attributes:
        embed: returns unit vectors of texts, ``(texts, width)``.
        reading: how many tokens it reads of a text; None if there is no limit, or texts are embedded in pieces.
    """

    embed: Callable[[Sequence[str]], ndarray]
    reading: Reading | None = None


def score(
    pools: Collection[PromptPool], prompts: Sequence[str], params: Params, counts: Counter[str]
) -> list[list[float]]:
    """Return the similarity of every answer to its prompt's target, between -1 and 1, pool by pool."""
    model = load(params)
    pairs = zip(pools, prompts, strict=True)
    found = [scores for block in blocks(pairs) for scores in score_block(block, params, counts, model)]
    cuts.settle(counts)
    return found


def score_block(
    block: Sequence[tuple[PromptPool, str]], params: Params, counts: Counter[str], model: Embedder
) -> list[list[float]]:
    """Return the scores of one of the ``blocks``; ``model`` is what ``load`` returns."""
    pools = [pool for pool, _ in block]
    try:
        found = list(similarities(pools, model.embed))
    except NotFiniteError as error:
        raise error.but(model=str(params.model or params.package)) from None
    if model.reading is not None:
        count_cut_texts(pools, model.reading, counts)
    return found


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

    Raises:
        NotFiniteError: a vector has a number that is not finite.
    """
    import numpy as np

    for pairs in blocks((pool, "") for pool in pools):
        block = [pool for pool, _ in pairs]
        texts = sorted(
            {p.target for p in block} | {a.text for p in block for a in p.answers}, key=lambda t: (len(t), t)
        )
        vectors = embed(texts)
        row = {text: i for i, text in enumerate(texts)}
        whole = np.isfinite(vectors).all(1)
        for pool in block:
            for name, text in (*((a.response_id, a.text) for a in pool.answers), (TARGET, pool.target)):
                if not whole[row[text]]:
                    bad = next(x for x in vectors[row[text]].tolist() if not math.isfinite(x))
                    raise NotFiniteError(
                        "a number of the embedding", bad, of=f"{name or 'an answer'} of prompt {pool.prompt_id}"
                    )
            answers = vectors[[row[a.text] for a in pool.answers]].astype("float64")
            target = vectors[row[pool.target]].astype("float64")
            yield np.clip(answers @ target, -1, 1).round(6).tolist()


def load(params: Params) -> Embedder:
    """Load the embedding model."""
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
    _refuse_pickles(str(folder))
    try:
        model = load_whole(
            lambda: SentenceTransformer(
                name,
                revision=revision,
                trust_remote_code=params.trust_remote_code,
                model_kwargs={"use_safetensors": True},
            ),
            where=str(folder),
            remedy="fetch the model again, or take another one",
            may_lack=POOLER,
            may_hold=HEADS,
        )
    except SelfContrastError:
        raise
    except Exception as error:
        check_damage(Path(name), "embedder")
        if not isinstance(error, OSError | ValueError | KeyError | ImportError | RuntimeError):
            raise
        raise InputError(
            "the embedding model cannot be loaded",
            found=" ".join(str(error).split()),
            where=str(folder),
            remedy="check `model` of the scorer in the study file; where this machine has no network, fetch it before: "
            "`snakemake --until fetch`",
        ) from None

    if params.pooling != "model":
        _set_pooling(model, params.pooling, str(folder))

    def embed(texts: Sequence[str]) -> ndarray:
        vectors: ndarray = model.encode(
            list(texts), batch_size=params.batch, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    reading = reading_of(model, str(folder))
    if params.long_texts == "chunks" and reading is not None:
        return Embedder(in_pieces(embed, reading))
    return Embedder(embed, reading)


def in_pieces(embed: Callable[[Sequence[str]], ndarray], reading: Reading) -> Callable[[Sequence[str]], ndarray]:
    """Return a function that embeds texts of any length.

    The vector of a text is the mean of the unit vectors of its pieces (``Reading.pieces``), each piece counting once whatever
    its length, divided by its own length. A text of one piece has the vector that ``embed`` gives.
    """
    import numpy as np

    def embed_whole(texts: Sequence[str]) -> ndarray:
        divided = [reading.pieces(text) for text in texts]
        vectors = embed([piece for pieces in divided for piece in pieces])
        found = []
        end = 0
        for pieces in divided:
            start, end = end, end + len(pieces)
            mean = vectors[start:end].mean(0)
            found.append(mean / np.linalg.norm(mean) if len(pieces) > 1 else vectors[start])
        return np.array(found)

    return embed_whole


def _refuse_pickles(name: str) -> None:
    """Raise InputError if a part of the model has its weights as a pickled file alone."""
    files = names_of_files(name) or []
    safe = {posixpath.dirname(file) for file in files if file.endswith(".safetensors")}
    pickled = [f for f in files if posixpath.basename(f) == "pytorch_model.bin" and posixpath.dirname(f) not in safe]
    if pickled:
        raise InputError(
            "the embedding model has no weights as safetensors, and pickled weights are not opened",
            found=", ".join(pickled),
            where=name,
            remedy="convert it once, where you trust it, and name the new folder: "
            f"SentenceTransformer({name!r}).save_pretrained(...)",
        )


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
