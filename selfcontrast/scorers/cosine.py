"""Cosine similarity of a response to the SFT target under a frozen text-embedding model (the text alone, no prompt).

Source: arXiv 2404.00604, section 3. The target itself scores 1.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from pydantic import Field

from selfcontrast.config import Count, Strict
from selfcontrast.errors import InputError, StepError
from selfcontrast.records import PromptPool


class Params(Strict):
    """Parameters of the scorer."""

    model: str | None = Field(None, description="folder or hub id of a sentence-transformers model")
    package: str | None = Field(
        None, description="installed Python package that carries the model: get_model_path() names its folder"
    )
    trust_remote_code: bool = Field(False, description="allow the model to bring code of its own")
    batch: Count = Field(128, description="texts embedded together; does not change results beyond rounding")

    def model_post_init(self, context: object) -> None:
        """Require exactly one source."""
        if (self.model is None) == (self.package is None):
            raise ValueError("give either `model` or `package`")


def score(pools: Sequence[PromptPool], prompts: Sequence[str], params: Params) -> list[list[float]]:
    """Return the similarity of every answer to its prompt's target, between -1 and 1, pool by pool."""
    import numpy as np

    # Identical texts are embedded once: a pool at temperature 1 repeats itself, and equal texts must score the same.
    texts = sorted({p.target for p in pools} | {a.text for p in pools for a in p.answers}, key=lambda t: (len(t), t))
    vectors = _embed(texts, params)
    row = {text: i for i, text in enumerate(texts)}
    scores = []
    for pool in pools:
        answers = vectors[[row[a.text] for a in pool.answers]]
        scores.append(np.clip(answers @ vectors[row[pool.target]], -1, 1).round(6).tolist())
    return scores


def _embed(texts: Sequence[str], params: Params):  # type: ignore[no-untyped-def]
    """Return unit vectors, shape ``(texts, width)``."""
    from sentence_transformers import SentenceTransformer

    folder = params.model
    if params.package is not None:
        try:
            folder = importlib.import_module(params.package).get_model_path()
        except ModuleNotFoundError:
            raise StepError(
                f"the embedding model's package `{params.package}` is not installed", remedy="run make env"
            ) from None
    try:
        model = SentenceTransformer(str(folder), trust_remote_code=params.trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(
            "the embedding model cannot be loaded",
            found=str(error).split("\n")[0],
            where=str(folder),
            remedy="check `model` of the scorer in the study file",
        ) from None
    return model.encode(
        list(texts), batch_size=params.batch, normalize_embeddings=True, show_progress_bar=False
    ).astype("float64")
