"""Tidy tables of a finished study, from the answers and counts of its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from selfcontrast import cuts
from selfcontrast.artifacts import Artifact
from selfcontrast.cells import Cell, find_means, mean_of_known
from selfcontrast.finite import require_stored
from selfcontrast.records import TARGET
from selfcontrast.stats import Found, compare_family, estimates, holm

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL_SEEDS = "all"


def metrics_table(cells: list[Cell]) -> pd.DataFrame:
    """Return one row for each arm, metric and seed, and one over all seeds.

    The interval of a single seed is over prompts; that over all seeds is over prompts and seeds, with moderated variances
    where there are arms enough (``variance``), beside that by the arm's own. Beside each value stands how many prompts and
    answers it is made from, and how many answers had none.
    """
    rows = []
    for cell in cells:
        for metric in cell.metrics:
            by_arm, resamples = cell.answers(metric), cell.resamples_of(metric)
            if not by_arm:
                continue
            means = {arm: mean_of_known(answers) for arm, answers in by_arm.items()}  # (seeds, prompts) each
            stacked = np.stack(list(means.values()))
            single = iter(estimates(stacked.reshape(-1, 1, stacked.shape[-1]), resamples))
            found = find_means(cell.arms, means, resamples)
            for arm_id, answers in by_arm.items():
                arm, f = cell.arms[arm_id], found[arm_id]
                head = [*cell.key, arm_id, arm.method, arm.selection, arm.n]
                for seed, row in zip(cell.study.seeds, answers, strict=True):
                    e = next(single)
                    ends = [e.low, e.high]
                    rows.append([*head, str(seed), metric, e.value, *ends, *_counts(row[None]), *ends, "prompts"])
                e, u = f.estimate, f.unpooled
                unpooled = [u.low, u.high, f.variance]
                rows.append([*head, ALL_SEEDS, metric, e.value, e.low, e.high, *_counts(answers), *unpooled])
    columns = ["dataset", "model", "arm", "method", "selection", "n", "seed", "metric", "value", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "prompts", "answers", "nulls", *UNPOOLED_INTERVAL, "variance"])


UNPOOLED_INTERVAL = ("low_unpooled", "high_unpooled")
UNPOOLED = (*UNPOOLED_INTERVAL, "p_unpooled", "p_holm_unpooled", "variance")
"""Last columns of comparisons: the same by the comparison's own variance, and which variance the others are by."""


def _counts(answers: NDArray) -> tuple[int, int, int]:
    """Return the prompts and answers ``(seeds, prompts, samples)`` with a value, and the answers without."""
    known = ~np.isnan(answers)
    return int(known.any((0, 2)).sum()), int(known.sum()), int((~known).sum())


def comparisons_table(cells: list[Cell]) -> pd.DataFrame:
    """Return the paired difference of every arm to each arm of ``evaluation.compare_to``, with Holm's correction.

    The correction is over all comparisons of one data set, model and metric. ``prompts`` have a value in both arms;
    ``variance`` says whose variance of seeds was used.
    """
    rows = []
    for cell in cells:
        for metric in cell.compared:
            found = compare_arms(cell, metric, compared_pairs(cell, metric))
            rows += [[*cell.key, metric, *row, *unpooled] for row, unpooled in found]
    columns = ["dataset", "model", "metric", "arm", "compared_to", "difference", "low", "high", "p", "p_holm"]
    return pd.DataFrame(rows, columns=[*columns, "prompts", *UNPOOLED])


def compared_pairs(cell: Cell, metric: str) -> list[tuple[str, str]]:
    """Return the pairs of arms that the study compares, each once."""
    arms = list(cell.answers(metric))
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for b in cell.study.evaluation.compare_to:
        for a in arms if b in arms else ():
            if a != b:
                pairs.setdefault(frozenset((a, b)), (a, b))
    return list(pairs.values())


def compare_arms(cell: Cell, metric: str, pairs: list[tuple[str, str]]) -> list[tuple[list[Any], list[Any]]]:
    """Return arm, other arm, difference, interval, p, adjusted p and number of prompts of each pair; and ``UNPOOLED``.

    All arms are compared with an opponent, asked for or not: how far their seeds differ is seen in all of them.
    """
    values = cell.values(metric)
    resamples = cell.resamples_of(metric)
    found: dict[tuple[str, str], Found] = {}
    for b in dict.fromkeys(b for _, b in pairs):
        others = [a for a in values if a != b]
        family = compare_family(np.stack([values[a] - values[b] for a in others]), resamples)
        found |= {(a, b): f for a, f in zip(others, family, strict=True)}
    asked = [found[pair] for pair in pairs]
    adjusted, unpooled = holm([f.p for f in asked]), holm([f.p_unpooled for f in asked])
    rows = []
    for (a, b), f, p_holm, p_holm_unpooled in zip(pairs, asked, adjusted, unpooled, strict=True):
        e, u = f.estimate, f.unpooled
        n_prompts = int((~np.isnan(values[a] - values[b])).any(0).sum())
        row = [a, b, e.value, e.low, e.high, f.p, p_holm, n_prompts]
        rows.append((row, [u.low, u.high, f.p_unpooled, p_holm_unpooled, f.variance]))
    return rows


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
        rows += [[*head, *row] for row in _cut_texts(cell)]
        left_out = "prompts without a score of some arm, left out of all"
        rows += [[*head, f"judge {i}", left_out, j.left_out] for i, j in cell.judgements.items()]
    return pd.DataFrame(rows, columns=["dataset", "model", "stage", "what", "count"])


def _cut_texts(cell: Cell) -> Iterator[list[Any]]:
    """Yield stage, what, and how many of the texts that a scorer's model read a part of only; none where it read all.

    Of answers to the held-out split the counts are sums over arms and seeds; their targets, which are the same, count once.
    """
    study, layout = cell.study, cell.layout
    used = [(study.selections[a.selection].params, "scorer") for a in cell.arms.values() if a.is_trained]
    used += [(vars(r), "labels") for r in study.reward_models.values()]
    if study.figures.similarity is not None:
        shown = study.figures.similarity
        used += [({"pool": shown.pool, "scorer": s}, "scorer") for s in (shown.scorer, study.evaluation.judge)]
    for pool, scorer in dict.fromkeys((params["pool"], params.get(key)) for params, key in used):
        if scorer is not None and (path := layout.pool_scores(pool, scorer)).is_file():
            yield from _cut_rows(f"pool {pool}, scorer {scorer}", [path])
    e = study.evaluation
    judged = [layout.answer_scores(arm, seed, e.split, e.judge) for arm in cell.arms for seed in study.seeds]
    yield from _cut_rows(f"answers, scorer {e.judge}", [path for path in judged if path.is_file()])
    for scorer in e.scorers:
        if (path := layout.proxy_scores(scorer, e.split)).is_file():
            yield from _cut_rows(f"answers, scorer {scorer}", [path])


def _cut_rows(stage: str, manifests: Sequence[Path]) -> Iterator[list[Any]]:
    counts: Counter[str] = Counter()
    for path in manifests:
        for key, n in Artifact.open(path).manifest.get("report", {}).items():
            if key.startswith(cuts.PREFIXES):
                counts[key] = max(counts[key], n) if key.endswith("targets") else counts[key] + n
    yield from ([stage, key.replace("_", " "), n] for key, n in sorted(counts.items()))


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
    for table, s in zip(tables, (scorer, cell.study.evaluation.judge), strict=True):
        where = cell.layout.pool_scores(pool, s)
        require_stored(table["score"].to_pylist(), "a score", table["response_id"].to_pylist().__getitem__, where=where)
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
