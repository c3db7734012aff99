"""A data set with a model in a finished study: every metric of every answer, read once, for all tables."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfcontrast import plugins
from selfcontrast.artifacts import Artifact, files_of, read_table
from selfcontrast.finite import require_stored
from selfcontrast.judge_tables import Judgements, read_judgements
from selfcontrast.layout import Layout
from selfcontrast.metric_names import shown_metrics
from selfcontrast.metrics._answers import Answers
from selfcontrast.metrics._shown import Shown
from selfcontrast.records import TARGET
from selfcontrast.schema import Study
from selfcontrast.seeds import derive_seed
from selfcontrast.stats import Found, Resamples, compare_family
from selfcontrast.sweep import Arm, arms_of, baseline_id, models_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Cell:
    """One data set with one model: everything that its tables are made from."""

    study: Study
    layout: Layout
    arms: dict[str, Arm]
    is_proxy: bool = False
    _answers: dict[str, dict[str, NDArray]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def metrics(self) -> dict[str, Shown]:
        """Return every metric by its name, but those of language models that judged nothing."""
        silent = {f"judge_{i}" for i, j in self.judgements.items() if j.resamples is None}
        return {m: shown for m, shown in shown_metrics(self.study).items() if m not in silent}

    @property
    def merits(self) -> list[str]:
        """Return the metrics of which more is better, so that one arm is the best; not what proxies say."""
        return [m for m, shown in self.metrics.items() if shown.is_merit and not shown.proxy]

    @property
    def compared(self) -> list[str]:
        """Return the metrics whose differences are tested; wins against the SFT model are differences by themselves."""
        return [m for m, shown in self.metrics.items() if not shown.proxy and (shown.judge or not shown.against_sft)]

    @property
    def key(self) -> list[str]:
        """Return the first two columns of every table."""
        return [self.layout.dataset, self.layout.model]

    @cached_property
    def prompt_ids(self) -> list[str]:
        """Return the held-out prompts, in the order of every array."""
        return Artifact.open(self.layout.prompts).table(f"{self.study.evaluation.split}.parquet", ["prompt_id"])[
            "prompt_id"
        ]

    @cached_property
    def scores(self) -> dict[tuple[str, int], NDArray]:
        """Return the judge's scores ``(prompts, samples)`` by arm and seed; NaN where the judge gave none."""
        return {(a, s): self._read(a, s)[0] for a in self.arms for s in self.study.seeds}

    @cached_property
    def target_score(self) -> NDArray | None:
        """Return the judge's score of the SFT targets, ``(prompts,)``."""
        return self._read(next(iter(self.arms)), self.study.seeds[0])[1] if self.study.evaluation.target_wins else None

    def _read(self, arm: str, seed: int) -> tuple[NDArray, NDArray]:
        e = self.study.evaluation
        table = self._scores_of_all[f"{arm}-s{seed}"] if self.is_proxy else self._scores_of_one(arm, seed)
        place = {p: i for i, p in enumerate(self.prompt_ids)}
        found = np.full((len(place), e.samples + 1), np.nan)  # the target is the last of each row
        has_row = np.zeros(found.shape, dtype=bool)
        ids = table["prompt_id"]
        require_stored(
            table["score"], "a score", lambda i: f"an answer to prompt {ids[i]}", where=f"{arm}, seed {seed}"
        )
        for prompt_id, response_id, score in zip(*table.values(), strict=True):
            k = e.samples if response_id == TARGET else int(response_id.rsplit(".", 1)[1])
            has_row[place[prompt_id], k] = True
            if score is not None:
                found[place[prompt_id], k] = score
        if not has_row.all():
            raise ValueError(f"arm {arm}, seed {seed}: a prompt or sample has no row of scores")
        return found[:, :-1], found[:, -1]

    def _scores_of_one(self, arm: str, seed: int) -> dict[str, list[Any]]:
        e = self.study.evaluation
        return Artifact.open(self.layout.answer_scores(arm, seed, e.split, e.judge)).table("scores.parquet")

    @cached_property
    def _scores_of_all(self) -> dict[str, dict[str, list[Any]]]:
        e = self.study.evaluation
        folder = Artifact.open(self.layout.proxy_scores(e.judge, e.split)).path("scores")
        return {file.stem: read_table(file) for file in files_of(folder)}

    @cached_property
    def lengths(self) -> dict[tuple[str, int], NDArray]:
        """Return the tokens of each answer ``(prompts, samples)`` by arm and seed."""
        return {(a, s): self._lengths(a, s) for a in self.arms for s in self.study.seeds}

    def _lengths(self, arm: str, seed: int) -> NDArray:
        artifact = Artifact.open(self.layout.answers(arm, seed, self.study.evaluation.split))
        lengths = artifact.table("responses.parquet", ["n_tokens"])["n_tokens"]
        return np.array(lengths).reshape(len(self.prompt_ids), -1)

    def answers(self, metric: str) -> dict[str, NDArray]:
        """Return a metric of every answer, ``(seeds, prompts, samples)``, by arm; an arm without it has no entry.

        NaN is a null: an answer without a value, left out of every mean and counted.
        """
        shown = self.metrics[metric]
        if shown.proxy:
            return self.proxies[shown.proxy].answers(metric.removesuffix(f"_{shown.proxy}"))
        if shown.judge:
            return self.judgements[shown.judge].values
        if metric not in self._answers:
            self._answers[metric] = self._of_metric(metric)
        return self._answers[metric]

    def resamples_of(self, metric: str) -> Resamples:
        """Return the bootstrap draws over the prompts of a metric."""
        judge = self.metrics[metric].judge
        return (judge and self.judgements[judge].resamples) or self.resamples

    def _of_metric(self, metric: str) -> dict[str, NDArray]:
        module = plugins.load("metrics", metric)
        baseline = baseline_id(self.study)
        opponents = np.concatenate([self.scores[baseline, s] for s in self.study.seeds], axis=1)
        found = {}
        for arm in self.arms:
            rows = [
                module.values(
                    Answers(self.scores[arm, s], self.lengths[arm, s], self.target_score, opponents, arm == baseline),
                    module.Params(),
                )
                for s in self.study.seeds
            ]
            if rows[0] is not None:
                found[arm] = np.stack(rows)
        return found

    def values(self, metric: str) -> dict[str, NDArray]:
        """Return a metric's mean over the samples of each prompt, ``(seeds, prompts)``, by arm; NaN without any."""
        return {arm: mean_of_known(values) for arm, values in self.answers(metric).items()}

    @cached_property
    def judgements(self) -> dict[str, Judgements]:
        """Return what each language model that judges says, by its id."""
        return {
            judge: read_judgements(self.study, self.layout, list(self.arms), judge)
            for judge in self.study.evaluation.judges
        }

    @cached_property
    def proxies(self) -> dict[str, Cell]:
        """Return this cell as it would be with another scorer of the evaluation as the judge (`is_proxy`), by its id."""
        study, e = self.study, self.study.evaluation
        judged = {s: e.model_copy(update={"judge": s, "scorers": (), "judges": {}}) for s in e.scorers}
        return {
            s: replace(self, study=study.model_copy(update={"evaluation": j}), is_proxy=True) for s, j in judged.items()
        }

    @cached_property
    def resamples(self) -> Resamples:
        """Return the bootstrap draws that all arms share, and all metrics but judgements, which may have fewer prompts."""
        seed = derive_seed(self.study.seed, "bootstrap", self.layout.dataset, self.layout.model)
        return Resamples.draw(
            n_prompts=len(self.prompt_ids),
            n_resamples=self.study.evaluation.bootstrap,
            seed=seed,
        )


def find_means(arms: dict[str, Arm], values: dict[str, NDArray], resamples: Resamples) -> dict[str, Found]:
    """Return what is found of the mean of each arm's values ``(seeds, prompts)``, by arm.

    Trained arms borrow strength from each other for the variance of their seeds. The SFT model is trained once, and only its
    answers differ from seed to seed: it has its own.
    """
    found: dict[str, Found] = {}
    for is_trained in (True, False):
        family = [arm for arm in values if arms[arm].is_trained == is_trained]
        if family:
            means = compare_family(np.stack([values[arm] for arm in family]), resamples)
            found |= dict(zip(family, means, strict=True))
    return {arm: found[arm] for arm in values}


def read_cells(study: Study, root: Path, arms: dict[str, list[str]]) -> list[Cell]:
    """Return one cell for each data set and model; ``arms`` holds the ids of each data set's arms, in their order."""
    return [
        Cell(study, Layout(root, d, m), {i: arms_of(study, d)[i] for i in arms[d]})
        for d in study.datasets
        for m in models_of(study, d)
    ]


def mean_of_known(values: NDArray) -> NDArray:
    """Return the mean over the last axis of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(-1) / known.sum(-1)
