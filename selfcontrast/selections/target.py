"""The SFT target against the answers of a pool that pass a filter: Self-Contrast, SPIN, and annotated pairs.

The filter looks at the whole pool (without repeated texts, under ``dedup``). Of what it keeps, empty answers and answers
equal to the target are left out, and counted.

Source: arXiv 2404.00604, section 3, without the accidents of the reference code; for those see the kind `paper`.
"""

from __future__ import annotations

import random
from collections import Counter

from pydantic import Field, field_validator

from selfcontrast import plugins
from selfcontrast.errors import ConfigError
from selfcontrast.records import TARGET, Answer, Candidates, PromptPool
from selfcontrast.schema import Plugin, Strict
from selfcontrast.texts import is_blank


class Params(Strict):
    """Parameters of the selection."""

    pool: str = Field(description="id under `pools`")
    scorer: str | None = Field(None, description="id under `scorers`; needed by filters that look at scores")
    filter: Plugin = Field(Plugin(kind="all"), validate_default=True, description="plug-in of selfcontrast/filters")
    dedup: bool = Field(False, description="count each text of a prompt's pool once, at its first occurrence")

    @field_validator("filter", mode="after")
    @classmethod
    def _check_filter(cls, value: Plugin) -> Plugin:
        try:
            return value.checked("filters", "filter")
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def model_post_init(self, context: object) -> None:
        """Refuse a filter that needs scores where there are none."""
        if self.scorer is None and plugins.load("filters", self.filter.kind).NEEDS_SCORES:
            raise ValueError(f"the filter `{self.filter.kind}` needs a `scorer`")


def largest_n(pool_size: int, params: dict[str, object]) -> int:
    """Return how many negatives a prompt with ``pool_size`` responses can give at most."""
    checked = Params.model_validate(params)
    module = plugins.load("filters", checked.filter.kind)
    return int(module.n_kept(pool_size, module.Params(**checked.filter.params)))


def candidates(pool: PromptPool, *, n: int, rng: random.Random, params: Params) -> Candidates:
    """Return the target as chosen and the answers that pass the filter as candidates."""
    left_out: Counter[str] = Counter()
    answers = list(pool.answers)
    if params.dedup:
        first: dict[str, Answer] = {}
        for answer in answers:
            first.setdefault(answer.text, answer)
        answers = list(first.values())
        left_out["repeated text"] = len(pool.answers) - len(answers)
    module = plugins.load("filters", params.filter.kind)
    scores = [a.score if a.score is not None else 0.0 for a in answers]
    kept = [answers[i] for i in module.keep(scores, module.Params(**params.filter.params))]
    left_out["filtered"] = len(answers) - len(kept)
    rejected = []
    for answer in kept:
        if is_blank(answer.text):
            left_out["empty"] += 1
        elif answer.text.strip() == pool.target.strip():
            left_out["equal to the target"] += 1
        else:
            rejected.append(answer.response_id)
    return Candidates(TARGET, tuple(rejected), dict(left_out))
