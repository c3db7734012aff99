"""What the negatives of a selection are: as good as the target, repeated, alike to it, longer or shorter than it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from selfcontrast.finite import require_stored
from selfcontrast.records import TARGET, Answer, PromptPool
from selfcontrast.texts import is_blank

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 40
"""Bars of a histogram, over the range of the whole pool."""

Group = Mapping[str, Any]
"""A record of groups.jsonl."""


@dataclass(frozen=True)
class Pool:
    """The responses of a pool to the prompts of a split, and their targets, as columns.

    Attributes:
        prompt_ids: of each prompt.
        target: text of each prompt's target.
        target_tokens: its length, ``(prompts,)``.
        owner: position of each response's prompt, ``(responses,)``.
        response_ids: of each response.
        text: of each response.
        n_tokens: its length, ``(responses,)``.
    """

    prompt_ids: Sequence[str]
    target: Sequence[str]
    target_tokens: NDArray
    owner: NDArray
    response_ids: Sequence[str]
    text: Sequence[str]
    n_tokens: NDArray

    @cached_property
    def prompt_at(self) -> dict[str, int]:
        """Return the position of each prompt."""
        return {p: i for i, p in enumerate(self.prompt_ids)}

    @cached_property
    def at(self) -> dict[tuple[str, str], int]:
        """Return the position of each response by prompt and response id."""
        owners = (self.prompt_ids[i] for i in self.owner)
        return {key: i for i, key in enumerate(zip(owners, self.response_ids, strict=True))}

    @cached_property
    def text_code(self) -> NDArray:
        """Return a number for each response that is the same for equal texts, ``(responses,)``."""
        codes: dict[str, int] = {}
        return np.array([codes.setdefault(t, len(codes)) for t in self.text])

    @cached_property
    def is_target(self) -> NDArray:
        """Return whether each response equals its target but for space around it, ``(responses,)``."""
        pairs = zip(self.text, self.owner, strict=True)
        return np.array([t.strip() == self.target[i].strip() for t, i in pairs], dtype=bool)

    def prompts(self, score: NDArray | None) -> Iterator[PromptPool]:
        """Yield the pool prompt by prompt, as selections read it, in its order."""
        order = np.argsort(self.owner, kind="stable")
        starts = np.searchsorted(self.owner[order], np.arange(len(self.prompt_ids) + 1))
        for p, prompt_id in enumerate(self.prompt_ids):
            rows = order[starts[p] : starts[p + 1]]
            answers = (
                Answer(self.response_ids[i], self.text[i], None if score is None else float(score[i])) for i in rows
            )
            yield PromptPool(prompt_id, self.target[p], tuple(answers))


@dataclass(frozen=True)
class Scores:
    """A scorer's numbers for a pool: of its responses ``(responses,)``, and of the targets ``(prompts,)``."""

    responses: NDArray
    targets: NDArray


def scores_of(pool: Pool, table: Mapping[str, Sequence[Any]]) -> Scores:
    """Return the columns of scores.parquet in the order of the pool; NaN for a null or a missing row.

    Raises:
        InputError: a score is not finite.
    """
    keys = [f"{r} of prompt {p}" for p, r in zip(table["prompt_id"], table["response_id"], strict=True)]
    require_stored(table["score"], "a score", lambda i: keys[i], where="scores.parquet of the pool")
    responses, targets = np.full(len(pool.text), np.nan), np.full(len(pool.prompt_ids), np.nan)
    for prompt_id, response_id, score in zip(table["prompt_id"], table["response_id"], table["score"], strict=True):
        if score is None:
            continue
        if response_id == TARGET:
            targets[pool.prompt_at[prompt_id]] = score
        else:
            responses[pool.at[prompt_id, response_id]] = score
    return Scores(responses, targets)


def describe_negatives(pool: Pool, groups: Sequence[Group], truth: Scores | None) -> dict[str, float]:
    """Return what share of the negatives of groups is doubtful, and how long they are.

    A negative is a false one if ``truth`` gives it at least the score of its prompt's target. Shares are over negatives;
    NaN without ``truth``, or without negatives.

    Returns:
        ``negatives`` (their number), ``false_negatives``, ``full_score`` (score 1 or more), ``repeated`` (of an earlier text
        of the same group), ``equal_to_target``, ``empty``, ``chosen_tokens`` and ``negative_tokens`` (means over pairs), and
        ``chosen_longer`` (share of pairs whose chosen response is longer, ties half).
    """
    rows = negatives_of(pool, groups)
    chosen = np.repeat([_chosen_tokens(pool, g) for g in groups], [len(g["rejected"]) for g in groups])
    code = pool.text_code[rows]
    repeated = 0
    start = 0
    for group in groups:
        part = code[start : start + len(group["rejected"])]
        repeated += len(part) - len(set(part.tolist()))
        start += len(part)
    n_tokens = pool.n_tokens[rows]
    return {
        "negatives": len(rows),
        "false_negatives": _false_share(pool, rows, truth),
        "full_score": _share(truth.responses[rows] >= 1, ~np.isnan(truth.responses[rows])) if truth else math.nan,
        "repeated": repeated / len(rows) if len(rows) else math.nan,
        "equal_to_target": _share(pool.is_target[rows]),
        "empty": _share(np.array([is_blank(pool.text[i]) for i in rows], dtype=bool)),
        "chosen_tokens": _mean(chosen),
        "negative_tokens": _mean(n_tokens),
        "chosen_longer": _mean((chosen > n_tokens) + 0.5 * (chosen == n_tokens)),
    }


def false_share(pool: Pool, truth: Scores | None, rows: NDArray | None = None) -> float:
    """Return the share of responses (by default all) that are at least as good as their target."""
    return _false_share(pool, np.arange(len(pool.text)) if rows is None else rows, truth)


def negatives_of(pool: Pool, groups: Sequence[Group]) -> NDArray:
    """Return the positions of the negatives of all groups, group by group."""
    return np.array([pool.at[g["prompt_id"], r] for g in groups for r in g["rejected"]], dtype=int)


def histogram(values: NDArray, edges: NDArray) -> NDArray:
    """Return how many values, NaN left out, lie in each bin; ``edges`` from ``bin_edges``."""
    return np.histogram(values[~np.isnan(values)], bins=edges)[0]


def bin_edges(values: NDArray) -> NDArray:
    """Return the edges of bins of equal width that hold all values."""
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def _false_share(pool: Pool, rows: NDArray, truth: Scores | None) -> float:
    if truth is None:
        return math.nan
    score, target = truth.responses[rows], truth.targets[pool.owner[rows]]
    return _share(score >= target, ~(np.isnan(score) | np.isnan(target)))


def _chosen_tokens(pool: Pool, group: Group) -> int:
    prompt_id, chosen = group["prompt_id"], group["chosen"]
    if chosen == TARGET:
        return int(pool.target_tokens[pool.prompt_at[prompt_id]])
    return int(pool.n_tokens[pool.at[prompt_id, chosen]])


def _share(is_true: NDArray, known: NDArray | None = None) -> float:
    if known is not None:
        is_true = is_true[known]
    return _mean(is_true)


def _mean(values: NDArray) -> float:
    return float(values.mean()) if len(values) else math.nan
