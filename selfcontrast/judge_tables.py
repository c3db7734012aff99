"""Judgements of language models as metrics: one value for each arm, seed and prompt, with bootstrap draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfcontrast.artifacts import Artifact
from selfcontrast.finite import require_stored
from selfcontrast.layout import Layout
from selfcontrast.schema import Study
from selfcontrast.seeds import derive_seed
from selfcontrast.stats import Resamples


@dataclass(frozen=True)
class Judgements:
    """What a judge says of the arms of one data set and model.

    Attributes:
        values: of each judged answer, ``(seeds, prompts, samples)``, by arm. Prompts that lack a score in any arm or seed are
            left out of all of them, so that differences stay paired.
        resamples: bootstrap draws over those prompts.
        left_out: number of prompts that are left out.
    """

    values: dict[str, np.ndarray]
    resamples: Resamples | None
    left_out: int


def read_judgements(study: Study, layout: Layout, arms: Sequence[str], judge: str) -> Judgements:
    """Return the judgements of one judge; no arm that it did not judge, such as an opponent that would meet itself."""
    table = Artifact.open(layout.judge(judge)).table("judgements.parquet")
    found: dict[tuple[str, int], dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    columns = ("dataset", "model", "arm", "seed", "prompt_id", "value")
    whose = table["prompt_id"]
    require_stored(table["value"], "a judgement", lambda i: f"prompt {whose[i]}", where=layout.judge(judge))
    for dataset, model, arm, seed, prompt_id, value in zip(*(table[c] for c in columns), strict=True):
        if (dataset, model) == (layout.dataset, layout.model):
            found[arm, seed][prompt_id].append(value)
    prompts = list(dict.fromkeys(p for rows in found.values() for p in rows))
    whole = [p for p in prompts if all(None not in rows[p] for rows in found.values())]
    if not whole:
        return Judgements({}, None, len(prompts))
    judged = [a for a in arms if (a, study.seeds[0]) in found]
    values = {
        a: np.array([[found[a, s][p] for p in whole] for s in study.seeds], dtype=float)  # in the order of the samples
        for a in judged
    }
    seed = derive_seed(study.seed, "bootstrap", layout.dataset, layout.model, "judge", judge)
    n = study.evaluation.bootstrap
    draws = Resamples.draw(n_prompts=len(whole), n_resamples=n, seed=seed)
    return Judgements(values, draws, len(prompts) - len(whole))
