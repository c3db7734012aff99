"""Tables that compare the judge with the other scorers of the evaluation: proxy against truth, arm by arm.

Source of the question: arXiv 2210.10760, where policies are selected by a proxy and judged by the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from selfcontrast.artifacts import Artifact
from selfcontrast.cells import Cell, find_means, mean_of_known
from selfcontrast.metrics._answers import win_share
from selfcontrast.sweep import Arm

if TYPE_CHECKING:
    from numpy.typing import NDArray


def proxy_table(cells: list[Cell]) -> pd.DataFrame:
    """Return one row for each proxy and arm: both means with intervals, and how far the two agree on single answers.

    ``pearson`` and ``spearman`` are over the answers of the arm. ``disagree`` is the share of its answers of which one says
    that they beat the SFT target of their prompt and the other does not; ``overrated`` the share that beat it by the proxy
    alone. ``by_proxy`` marks arms whose selection saw the proxy.
    """
    rows = [[*cell.key, *row] for cell in cells for proxy in cell.proxies for row in _proxy_rows(cell, proxy)]
    head = ["dataset", "model", "proxy", "truth", "arm", "method", "selection", "n", "by_proxy", "answers"]
    means = [f"{what}_{part}" for what in ("proxy", "truth") for part in ("mean", "low", "high")]
    return pd.DataFrame(rows, columns=[*head, *means, "pearson", "spearman", "disagree", "overrated"])


def _proxy_rows(cell: Cell, proxy: str) -> Iterator[list[Any]]:
    by_proxy, by_truth = cell.proxies[proxy], cell
    both = [c.answers("score") for c in (by_proxy, by_truth)]
    means = [{arm: mean_of_known(answers[arm]) for arm in cell.arms} for answers in both]
    found = [find_means(cell.arms, m, cell.resamples) for m in means]
    targets = [c.target_score for c in (by_proxy, by_truth)]
    for arm_id, arm in cell.arms.items():
        scores = [answers[arm_id] for answers in both]
        known = ~np.isnan(scores[0]) & ~np.isnan(scores[1])
        frame = pd.DataFrame({name: s[known] for name, s in zip(("proxy", "truth"), scores, strict=True)})
        yield [
            proxy,
            cell.study.evaluation.judge,
            arm_id,
            arm.method,
            arm.selection,
            arm.n,
            saw_proxy(cell, arm, proxy),
            int(known.sum()),
            *(x for f in found for x in astuple(f[arm_id].estimate)),
            *(frame.corr(method=m).iloc[0, 1] for m in ("pearson", "spearman")),
            *_verdicts(scores, targets, known),
        ]


def _verdicts(scores: list[NDArray], targets: list[NDArray | None], known: NDArray) -> tuple[float, float]:
    """Return the share of answers on which proxy and truth disagree whether they beat the target, and by the proxy alone.

    Args:
        scores: by proxy and truth, ``(seeds, prompts, samples)``.
        targets: by both, ``(prompts,)``; None where the target has no score of its own.
    """
    if targets[0] is None or targets[1] is None:
        return np.nan, np.nan
    known = known & ~np.isnan(targets[0] + targets[1])[:, None]
    if not known.any():
        return np.nan, np.nan
    proxy, truth = ((s > t[:, None])[known] for s, t in zip(scores, targets, strict=True) if t is not None)
    return float((proxy != truth).mean()), float((proxy & ~truth).mean())


def saw_proxy(cell: Cell, arm: Arm, proxy: str) -> bool:
    """Return whether an arm's negatives or pairs were selected by the scorer ``proxy``, or by another with its model."""
    scorers = cell.study.scorers
    used = cell.study.selections[arm.selection].params.get("scorer") if arm.is_trained else None
    trained = scorers[proxy].params.get("trained")
    return used == proxy or (
        used is not None and trained is not None and scorers[used].params.get("trained") == trained
    )


def wins_table(cells: list[Cell]) -> pd.DataFrame:
    """Return how often each arm's answers beat those of each arm of ``evaluation.compare_to``, by every scorer; ties half.

    Each answer meets all answers of the other arm to the same prompt, over its samples and seeds.
    """
    rows = [[*cell.key, *row] for cell in cells for row in _win_rows(cell)]
    columns = ["dataset", "model", "scorer", "arm", "against", "value", "low", "high", "prompts", "answers"]
    return pd.DataFrame(rows, columns=columns)


def _win_rows(cell: Cell) -> Iterator[list[Any]]:
    seeds = cell.study.seeds
    for scorer, judged in {cell.study.evaluation.judge: cell, **cell.proxies}.items():
        for against in cell.study.evaluation.compare_to:
            arms = [arm for arm in cell.arms if arm != against]
            if against not in cell.arms or not arms:
                continue
            opponents = np.concatenate([judged.scores[against, s] for s in seeds], axis=1)
            wins = {arm: np.stack([win_share(judged.scores[arm, s], opponents) for s in seeds]) for arm in arms}
            found = find_means(cell.arms, {arm: mean_of_known(won) for arm, won in wins.items()}, cell.resamples)
            for arm, won in wins.items():
                e, known = found[arm].estimate, ~np.isnan(won)
                yield [scorer, arm, against, e.value, e.low, e.high, int(known.any((0, 2)).sum()), int(known.sum())]


REPORTED = (
    "pairs",
    "held_out_pairs",
    "tied_pairs",
    "repeated_answers",
    "answers_without_label",
    "prompts_without_pair",
    "prompts_of_evaluation",
    "cut_by_reward_model",
    "steps",
    "accuracy",
    "held_out_accuracy",
)
"""What is shown of the report of a reward model's training."""


def rewards_table(cells: list[Cell]) -> pd.DataFrame:
    """Return one row for each reward model that the study trained for its evaluation: what it learned from, and how well."""
    rows: list[list[Any]] = []
    for cell in cells:
        models = {cell.study.scorers[s].params.get("trained") for s in cell.study.evaluation.scorers}
        for key, model in cell.study.reward_models.items():
            if key in models:
                report = Artifact.open(cell.layout.reward(key)).manifest["report"]
                rows.append([*cell.key, key, model.pool, model.labels, *(report[k] for k in REPORTED)])
    return pd.DataFrame(rows, columns=["dataset", "model", "reward_model", "pool", "labels", *REPORTED])
