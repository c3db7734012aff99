"""Tidy tables of a finished study, from the answers and counts of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from selfcontrast import plugins
from selfcontrast.artifacts import Artifact
from selfcontrast.judge_tables import Judgements, read_judgements
from selfcontrast.layout import Layout
from selfcontrast.metrics._answers import Answers
from selfcontrast.records import TARGET
from selfcontrast.schema import Study
from selfcontrast.seeds import derive_seed
from selfcontrast.stats import Resamples, compare, estimate, holm
from selfcontrast.sweep import Arm, arms_of, baseline_id

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL_SEEDS = "all"


@dataclass(frozen=True)
class Cell:
    """One data set with one model: everything that its tables are made from."""

    study: Study
    layout: Layout
    arms: dict[str, Arm]

    @cached_property
    def prompt_ids(self) -> list[str]:
        """Return the held-out prompts, in the order of every array."""
        return Artifact.open(self.layout.prompts).table(f"{self.study.evaluation.split}.parquet", ["prompt_id"])[
            "prompt_id"
        ]

    @cached_property
    def scores(self) -> dict[tuple[str, int], NDArray]:
        """Return the judge's scores ``(prompts, samples)`` by arm and seed."""
        return {(a, s): self._read(a, s)[0] for a in self.arms for s in self.study.seeds}

    @cached_property
    def target_score(self) -> NDArray | None:
        """Return the judge's score of the SFT targets, ``(prompts,)``."""
        return self._read(next(iter(self.arms)), self.study.seeds[0])[1] if self.study.evaluation.target_wins else None

    def _read(self, arm: str, seed: int) -> tuple[NDArray, NDArray]:
        e = self.study.evaluation
        table = Artifact.open(self.layout.answer_scores(arm, seed, e.split, e.judge)).table("scores.parquet")
        place = {p: i for i, p in enumerate(self.prompt_ids)}
        scores, target = np.full((len(place), e.samples), np.nan), np.full(len(place), np.nan)
        for prompt_id, response_id, score in zip(*table.values(), strict=True):
            if response_id == TARGET:
                target[place[prompt_id]] = score
            else:
                scores[place[prompt_id], int(response_id.rsplit(".", 1)[1])] = score
        if np.isnan(scores).any() or np.isnan(target).any():
            raise ValueError(f"arm {arm}, seed {seed}: a prompt or sample has no score")
        return scores, target

    def _lengths(self, arm: str, seed: int) -> NDArray:
        artifact = Artifact.open(self.layout.answers(arm, seed, self.study.evaluation.split))
        lengths = artifact.table("responses.parquet", ["n_tokens"])["n_tokens"]
        return np.array(lengths).reshape(len(self.prompt_ids), -1)

    def values(self, metric: str) -> dict[str, NDArray]:
        """Return a metric's mean over the samples of each prompt, ``(seeds, prompts)``, by arm; without it, no entry."""
        module = plugins.load("metrics", metric)
        baseline = baseline_id(self.study)
        opponents = np.concatenate([self.scores[baseline, s] for s in self.study.seeds], axis=1)
        found = {}
        for arm in self.arms:
            rows = [
                module.values(
                    Answers(self.scores[arm, s], self._lengths(arm, s), self.target_score, opponents, arm == baseline),
                    module.Params(),
                )
                for s in self.study.seeds
            ]
            if rows[0] is not None:
                found[arm] = np.stack([r.mean(1) for r in rows])
        return found

    @cached_property
    def judgements(self) -> dict[str, Judgements]:
        """Return what each language model that judges says, by its id."""
        return {
            judge: read_judgements(self.study, self.layout, list(self.arms), judge)
            for judge in self.study.evaluation.judges
        }

    @cached_property
    def resamples(self) -> Resamples:
        """Return the bootstrap draws that all arms and metrics share."""
        seed = derive_seed(self.study.seed, "bootstrap", self.layout.dataset, self.layout.model)
        return Resamples.draw(
            n_prompts=len(self.prompt_ids),
            n_seeds=len(self.study.seeds),
            n_resamples=self.study.evaluation.bootstrap,
            seed=seed,
        )


def read_cells(study: Study, root: Path, arms: dict[str, list[str]]) -> list[Cell]:
    """Return one cell for each data set and model; ``arms`` holds the ids of each data set's arms, in their order."""
    return [
        Cell(study, Layout(root, d, m), {i: arms_of(study, d)[i] for i in arms[d]})
        for d in study.datasets
        for m in study.models
    ]


def metrics_table(cells: list[Cell]) -> pd.DataFrame:
    """Return one row for each arm, metric and seed, and one over all seeds.

    The interval of a single seed draws prompts; that over all seeds draws prompts and seeds.
    """
    rows = []
    for cell in cells:
        parts = [(metric, cell.values(metric), cell.resamples) for metric in plugins.names("metrics")]
        parts += [(f"judge_{i}", j.values, j.resamples) for i, j in cell.judgements.items() if j.resamples is not None]
        for metric, by_arm, resamples in parts:
            single = Resamples(resamples.prompts, np.ones((len(resamples.prompts), 1)))
            for arm_id, values in by_arm.items():
                arm = cell.arms[arm_id]
                head = [cell.layout.dataset, cell.layout.model, arm_id, arm.method, arm.selection, arm.n]
                for seed, row in zip(cell.study.seeds, values, strict=True):
                    e = estimate(row[None], single)
                    rows.append([*head, str(seed), metric, e.value, e.low, e.high])
                e = estimate(values, resamples)
                rows.append([*head, ALL_SEEDS, metric, e.value, e.low, e.high])
    columns = ["dataset", "model", "arm", "method", "selection", "n", "seed", "metric", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def comparisons_table(cells: list[Cell]) -> pd.DataFrame:
    """Return the paired difference of every arm to each arm of ``evaluation.compare_to``, with Holm's correction.

    The correction is over all comparisons of one data set, model and metric.
    """
    rows = []
    for cell in cells:
        for metric in ("score", "win_vs_target", "length"):
            values = cell.values(metric)
            pairs = [(a, b) for b in cell.study.evaluation.compare_to for a in values if a != b and b in values]
            done: set[frozenset[str]] = set()
            pairs = [p for p in pairs if frozenset(p) not in done and not done.add(frozenset(p))]  # type: ignore[func-returns-value]
            results = [compare(values[a], values[b], cell.resamples) for a, b in pairs]
            adjusted = holm([p for _, p in results])
            for (a, b), (e, p), p_holm in zip(pairs, results, adjusted, strict=True):
                rows.append([cell.layout.dataset, cell.layout.model, metric, a, b, e.value, e.low, e.high, p, p_holm])
    columns = ["dataset", "model", "metric", "arm", "compared_to", "difference", "low", "high", "p", "p_holm"]
    return pd.DataFrame(rows, columns=columns)


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
    rows = []
    for cell in cells:
        for selection, n in dict.fromkeys((a.selection, a.n) for a in cell.arms.values() if a.is_trained):
            for seed in cell.study.seeds:
                report = Artifact.open(cell.layout.groups(selection, n, seed)).manifest["report"]
                keys = (
                    "prompts",
                    "groups",
                    "too_few_candidates",
                    "candidates_min",
                    "candidates_mean",
                    "realised_fraction",
                )
                left_out = "; ".join(f"{k}: {v}" for k, v in report["answers_left_out"].items())
                rows.append(
                    [cell.layout.dataset, cell.layout.model, selection, n, seed, *(report[k] for k in keys), left_out]
                )
    columns = [
        "dataset",
        "model",
        "selection",
        "n",
        "seed",
        "prompts",
        "groups",
        "too_few_candidates",
        "candidates_min",
    ]
    return pd.DataFrame(rows, columns=[*columns, "candidates_mean", "realised_fraction", "answers_left_out"])


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
    columns = [
        "dataset",
        "model",
        "pool",
        "scorer",
        "judge_score",
        "responses",
        "mean",
        "q05",
        "q25",
        "q50",
        "q75",
        "q95",
    ]
    return pd.DataFrame(rows, columns=[*columns, "pearson", "spearman"])


def _similarity_rows(cell: Cell, pool: str, scorer: str) -> Iterator[list[Any]]:
    tables = [
        Artifact.open(cell.layout.pool_scores(pool, s)).table("scores.parquet")
        for s in (scorer, cell.study.evaluation.judge)
    ]
    frame = pd.DataFrame({"similarity": tables[0]["score"], "judge": tables[1]["score"]})
    frame = frame[np.array(tables[0]["response_id"]) != TARGET]
    pearson, spearman = (float(frame.corr(method=m).iloc[0, 1]) for m in ("pearson", "spearman"))
    level = (
        frame["judge"]
        if frame["judge"].nunique() <= 12
        else pd.qcut(frame["judge"], 10, duplicates="drop").map(lambda i: i.mid)
    )
    for judge, part in frame.groupby(level.astype(float))["similarity"]:
        quantiles = part.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
        yield [pool, scorer, judge, len(part), part.mean(), *quantiles, pearson, spearman]


def main_table(metrics: pd.DataFrame, study: Study) -> str:
    """Return the main table as Markdown: one line for each arm, mean and interval of each metric."""
    over_all = metrics[metrics["seed"] == ALL_SEEDS]
    titles = {
        "score": f"mean {study.evaluation.judge}",
        "win_vs_sft": "wins vs SFT, %",
        "win_vs_target": "wins vs target, %",
        "length": "tokens",
    }
    shown = [m for m in titles if m in set(over_all["metric"])]
    lines = []
    for (dataset, model), part in over_all.groupby(["dataset", "model"], sort=False):
        n_prompts = study.datasets[str(dataset)].splits.model_dump()[study.evaluation.split]
        lines.append(
            f"{dataset}, {model}: {n_prompts} {study.evaluation.split} prompts, {len(study.seeds)} seeds, "
            f"{study.evaluation.samples} answer(s) each; 95 % intervals over prompts and seeds\n"
        )
        width = max(len(str(a)) for a in part["arm"])
        lines.append("| " + " | ".join(["arm".ljust(width), *(titles[m].rjust(22) for m in shown)]) + " |")
        lines.append("|" + "|".join(["-" * (width + 2), *(["-" * 23 + ":"] * len(shown))]) + "|")
        for arm, rows in part.groupby("arm", sort=False):
            by_metric = rows.set_index("metric")
            cells = [_cell(by_metric, m) for m in shown]
            lines.append("| " + " | ".join([str(arm).ljust(width), *(c.rjust(22) for c in cells)]) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(rows: pd.DataFrame, metric: str) -> str:
    if metric not in rows.index:
        return "-"
    value, low, high = (float(rows.loc[metric, c]) for c in ("value", "low", "high"))  # type: ignore[arg-type]
    if metric.startswith("win"):
        return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    digits = 1 if metric == "length" else 3
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
