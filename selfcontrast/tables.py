"""Tidy tables of a finished study, from the answers and counts of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from selfcontrast import plugins
from selfcontrast.artifacts import Artifact, files_of, read_table
from selfcontrast.judge_tables import Judgements, read_judgements
from selfcontrast.layout import Layout
from selfcontrast.metrics._answers import Answers
from selfcontrast.records import TARGET
from selfcontrast.schema import Study
from selfcontrast.seeds import derive_seed
from selfcontrast.stats import Resamples, compare_all, estimates, holm
from selfcontrast.sweep import Arm, arms_of, baseline_id, models_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL_SEEDS = "all"

COMPARED = ("score", "win_vs_target", "length")
"""Metrics whose differences are tested."""

SCORED = ("score", "win_vs_sft", "win_vs_target")
"""Metrics that rest on a scorer: each scorer beside the judge gives one of each too, `score_<scorer>` and so on."""


@dataclass(frozen=True)
class Cell:
    """One data set with one model: everything that its tables are made from."""

    study: Study
    layout: Layout
    arms: dict[str, Arm]
    is_proxy: bool = False
    _answers: dict[str, dict[str, NDArray]] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        if metric not in self._answers:
            self._answers[metric] = self._of_metric(metric)
        return self._answers[metric]

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
        judged = {s: e.model_copy(update={"judge": s, "scorers": ()}) for s in e.scorers}
        return {
            s: replace(self, study=study.model_copy(update={"evaluation": j}), is_proxy=True) for s, j in judged.items()
        }

    @cached_property
    def resamples(self) -> Resamples:
        """Return the bootstrap draws that all arms and metrics share."""
        seed = derive_seed(self.study.seed, "bootstrap", self.layout.dataset, self.layout.model)
        return Resamples.draw(
            n_prompts=len(self.prompt_ids),
            n_resamples=self.study.evaluation.bootstrap,
            seed=seed,
        )


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


def metrics_table(cells: list[Cell]) -> pd.DataFrame:
    """Return one row for each arm, metric and seed, and one over all seeds.

    The interval of a single seed is over prompts; that over all seeds is over prompts and seeds. Beside each value stands how
    many prompts and answers it is made from, and how many answers had none.
    """
    rows = []
    for cell in cells:
        parts = [(metric, cell.answers(metric), cell.resamples) for metric in plugins.names("metrics")]
        parts += [(f"{m}_{i}", c.answers(m), cell.resamples) for i, c in cell.proxies.items() for m in SCORED]
        parts += [(f"judge_{i}", j.values, j.resamples) for i, j in cell.judgements.items() if j.resamples is not None]
        for metric, by_arm, resamples in parts:
            if not by_arm:
                continue
            stacked = np.stack([mean_of_known(answers) for answers in by_arm.values()])  # (arms, seeds, prompts)
            single = iter(estimates(stacked.reshape(-1, 1, stacked.shape[-1]), resamples))
            for (arm_id, answers), over_all in zip(by_arm.items(), estimates(stacked, resamples), strict=True):
                arm = cell.arms[arm_id]
                head = [*cell.key, arm_id, arm.method, arm.selection, arm.n]
                for seed, row in zip(cell.study.seeds, answers, strict=True):
                    e = next(single)
                    rows.append([*head, str(seed), metric, e.value, e.low, e.high, *_counts(row[None])])
                e = over_all
                rows.append([*head, ALL_SEEDS, metric, e.value, e.low, e.high, *_counts(answers)])
    columns = ["dataset", "model", "arm", "method", "selection", "n", "seed", "metric", "value", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "prompts", "answers", "nulls"])


def _counts(answers: NDArray) -> tuple[int, int, int]:
    """Return the prompts and answers ``(seeds, prompts, samples)`` with a value, and the answers without."""
    known = ~np.isnan(answers)
    return int(known.any((0, 2)).sum()), int(known.sum()), int((~known).sum())


def comparisons_table(cells: list[Cell]) -> pd.DataFrame:
    """Return the paired difference of every arm to each arm of ``evaluation.compare_to``, with Holm's correction.

    The correction is over all comparisons of one data set, model and metric. ``prompts`` have a value in both arms.
    """
    rows = []
    for cell in cells:
        for metric in COMPARED:
            rows += [[*cell.key, metric, *row] for row in compare_arms(cell, metric, compared_pairs(cell, metric))]
    columns = ["dataset", "model", "metric", "arm", "compared_to", "difference", "low", "high", "p", "p_holm"]
    return pd.DataFrame(rows, columns=[*columns, "prompts"])


def compared_pairs(cell: Cell, metric: str) -> list[tuple[str, str]]:
    """Return the pairs of arms that the study compares, each once."""
    arms = list(cell.answers(metric))
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for b in cell.study.evaluation.compare_to:
        for a in arms if b in arms else ():
            if a != b:
                pairs.setdefault(frozenset((a, b)), (a, b))
    return list(pairs.values())


def compare_arms(cell: Cell, metric: str, pairs: list[tuple[str, str]]) -> list[list[Any]]:
    """Return arm, other arm, difference, interval, p, adjusted p and number of prompts of each pair."""
    if not pairs:
        return []
    values = cell.values(metric)
    differences = np.stack([values[a] - values[b] for a, b in pairs])
    results = compare_all(differences, cell.resamples)
    n_prompts = (~np.isnan(differences)).any(1).sum(-1)
    adjusted = holm([p for _, p in results])
    return [
        [a, b, e.value, e.low, e.high, p, p_holm, int(n)]
        for (a, b), (e, p), p_holm, n in zip(pairs, results, adjusted, n_prompts, strict=True)
    ]


def data_table(cells: list[Cell]) -> pd.DataFrame:
    """Return how many records and prompts each stage kept and dropped, by reason."""
    rows = []
    for cell in cells:
        head = [cell.layout.dataset, cell.layout.model]
        read = Artifact.open(cell.layout.root / cell.layout.dataset / "prompts" / "manifest.json").manifest["report"]
        rows.append([*head, "adaptor", "records read", read["records"]])
        rows += [[*head, "adaptor", f"dropped: {reason}", n] for reason, n in read["dropped"].items()]
        rows.append([*head, "adaptor", "kept", read["kept"]])
        encoded = Artifact.open(cell.layout.prompts).manifest["report"]
        rows += [[*head, "tokenizer", f"dropped: {reason}", n] for reason, n in encoded["dropped"].items()]
        rows += [[*head, "split", name, n] for name, n in encoded["prompts"].items()]
        rows.append([*head, "split", "unused", encoded["unused"]])
        linted = Artifact.open(cell.layout.lint).manifest["report"]["findings"]
        rows += [[*head, "lint", f"findings: {level}", n] for level, n in linted.items()]
        for pool in cell.study.pools:
            path = cell.layout.pool(pool)
            if path.is_file():
                report = Artifact.open(path).manifest["report"]
                rows += [[*head, f"pool {pool}", key.replace("_", " "), n] for key, n in report.items()]
        left_out = "prompts without a score of some arm, left out of all"
        rows += [[*head, f"judge {i}", left_out, j.left_out] for i, j in cell.judgements.items()]
    return pd.DataFrame(rows, columns=["dataset", "model", "stage", "what", "count"])


def selections_table(cells: list[Cell]) -> pd.DataFrame:
    """Return for each selection, n and seed how many prompts took part, and what share of the pool was left to draw from."""
    keys = ("prompts", "groups", "too_few_candidates", "candidates_min", "candidates_mean", "realised_fraction")
    rows = []
    for cell in cells:
        for selection, n in dict.fromkeys((a.selection, a.n) for a in cell.arms.values() if a.is_trained):
            for seed in cell.study.seeds:
                report = Artifact.open(cell.layout.groups(selection, n, seed)).manifest["report"]
                left_out = "; ".join(f"{k}: {v}" for k, v in report["answers_left_out"].items())
                rows.append(
                    [cell.layout.dataset, cell.layout.model, selection, n, seed, *(report[k] for k in keys), left_out]
                )
    head = ["dataset", "model", "selection", "n", "seed"]
    return pd.DataFrame(rows, columns=[*head, *keys, "answers_left_out"])


def similarity_table(cells: list[Cell]) -> pd.DataFrame:
    """Return the distribution of a scorer's values at each level of the judge's score, over a whole pool.

    Judges with many levels are cut into ten groups of equal size. ``spearman`` and ``pearson`` are over all responses.
    """
    rows: list[list[Any]] = []
    for cell in cells:
        shown = cell.study.figures.similarity
        if shown is not None:
            rows += [
                [cell.layout.dataset, cell.layout.model, *row]
                for row in _similarity_rows(cell, shown.pool, shown.scorer)
            ]
    columns = ["dataset", "model", "pool", "scorer", "judge_score", "responses", "mean"]
    columns += ["q05", "q25", "q50", "q75", "q95"]
    return pd.DataFrame(rows, columns=[*columns, "pearson", "spearman"])


def _similarity_rows(cell: Cell, pool: str, scorer: str) -> Iterator[list[Any]]:
    tables = [
        Artifact.open(cell.layout.pool_scores(pool, s)).arrow("scores.parquet", ["response_id", "score"])
        for s in (scorer, cell.study.evaluation.judge)
    ]
    frame = pd.DataFrame({"similarity": tables[0]["score"].to_numpy(), "judge": tables[1]["score"].to_numpy()})
    frame = frame[tables[0]["response_id"].to_numpy() != TARGET]
    pearson, spearman = (float(frame.corr(method=m).iloc[0, 1]) for m in ("pearson", "spearman"))
    level = (
        frame["judge"]
        if frame["judge"].nunique() <= 12
        else pd.qcut(frame["judge"], 10, duplicates="drop").map(lambda i: i.mid)
    )
    for judge, part in frame.groupby(level.astype(float))["similarity"]:
        quantiles = part.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
        yield [pool, scorer, judge, len(part), part.mean(), *quantiles, pearson, spearman]
