"""Which prompts and answers the page holds, within a budget of bytes, and what it says of those that it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfcontrast.reporting.blocks import number
from selfcontrast.reporting.page import to_json
from selfcontrast.seeds import derive_seed

BUDGET = 6 << 20
"""Bytes of the page for prompts and answers, over all data sets and models."""

ENOUGH = 100
"""Prompts that are worth more than a second sample or seed of each."""

LONGEST = 2_000
"""Characters of an answer, beyond which it is cut; of a prompt, twice as many."""

OVERHEAD = 14
"""Bytes of an answer beside its text: its score, brackets and commas."""


@dataclass(frozen=True)
class Choice:
    """What the page shows: places of prompts in the order of the split, and how many seeds and samples of each."""

    prompts: list[int]
    seeds: int
    samples: int


def cut(text: str, longest: int = LONGEST) -> tuple[str, int]:
    """Return a text of at most ``longest`` characters, and how many were cut off."""
    return (text, 0) if len(text) <= longest else (text[:longest], len(text) - longest)


def size_of(text: str) -> int:
    """Return the bytes of a text in the page."""
    return len(to_json(cut(text)[0]).encode()) + OVERHEAD


def choose(bases: NDArray, sizes: NDArray, order: list[int], budget: int) -> Choice:
    """Return the prompts, seeds and samples that fit.

    Prompts come in ``order``, which is random and the same for every run. All seeds and samples are kept if at least
    ``ENOUGH`` prompts, or all there are, then fit; else the first sample of each seed; else that of the first seed.

    Args:
        bases: bytes of prompt and target, ``(prompts,)``.
        sizes: bytes of the answers of all arms, ``(prompts, seeds, samples)``.
        order: places of the prompts.
        budget: bytes.
    """
    n_prompts, n_seeds, n_samples = sizes.shape
    kept: list[int] = []
    seeds = samples = 1
    for seeds, samples in dict.fromkeys([(n_seeds, n_samples), (n_seeds, 1), (1, 1)]):
        needed = (bases + sizes[:, :seeds, :samples].sum((1, 2)))[order]
        kept = sorted(order[: int((needed.cumsum() <= budget).sum())])
        if len(kept) >= min(n_prompts, ENOUGH):
            break
    return Choice(kept, seeds, samples)


def shuffled(prompt_ids: list[str], seed: int) -> list[int]:
    """Return the places of the prompts in an order that follows from their ids and the study's seed alone."""
    keys = [derive_seed(seed, "report", prompt) for prompt in prompt_ids]
    return sorted(range(len(keys)), key=lambda i: (keys[i], prompt_ids[i]))


def browser_of(
    *,
    key: tuple[str, str],
    arms: Mapping[str, Mapping[str, Any]],
    seeds: tuple[int, ...],
    seed: int,
    prompts: Mapping[str, str],
    targets: Mapping[str, str],
    scores: Mapping[str, NDArray],
    target_scores: NDArray | None,
    texts_of: Callable[[str, int], list[list[str]]],
    budget: int = BUDGET,
) -> dict[str, Any]:
    """Return prompts, answers and scores of one data set and model for the page's browser.

    Scores of every prompt are there for every arm; texts for as many prompts as fit.

    Args:
        key: data set and model.
        arms: what is told of each arm, by id, in order.
        seeds: training seeds.
        seed: of the study: makes the order in which prompts are taken.
        prompts: texts by prompt id, in the order of the scores.
        targets: SFT targets by prompt id.
        scores: ``(seeds, prompts, samples)`` by arm; NaN where there is none.
        target_scores: ``(prompts,)``.
        texts_of: returns an arm's answers for one seed, for each prompt those of its samples. Asked twice, so that never
            more than one arm's texts and what is shown are in memory.
        budget: bytes for texts.
    """
    ids = list(prompts)
    n_samples = next(iter(scores.values())).shape[-1]
    sizes = np.zeros((len(ids), len(seeds), n_samples))
    for arm in arms:
        for s, training_seed in enumerate(seeds):
            sizes[:, s] += [[size_of(t) for t in row] for row in texts_of(arm, training_seed)]
    bases = np.array(
        [2 * OVERHEAD + size_of(targets[i]) + len(to_json(cut(prompts[i], 2 * LONGEST)[0]).encode()) for i in ids]
    )
    chosen = choose(bases, sizes, shuffled(ids, seed), budget)
    tally = _Tally()
    shown = [
        {"at": i, "prompt": tally.cut(prompts[ids[i]], 2 * LONGEST), "target": tally.cut(targets[ids[i]])}
        for i in chosen.prompts
    ]
    answers = {}
    for arm in arms:
        by_seed = [texts_of(arm, s) for s in seeds[: chosen.seeds]]
        answers[arm] = [
            [
                [tally.cut(by_seed[s][i][k]), number(scores[arm][s, i, k])]
                for s in range(chosen.seeds)
                for k in range(chosen.samples)
            ]
            for i in chosen.prompts
        ]
    means = {arm: _means(values) for arm, values in scores.items()}
    return {
        "dataset": key[0],
        "model": key[1],
        "arms": {a: dict(d) for a, d in arms.items()},
        "seeds": list(seeds[: chosen.seeds]),
        "samples": chosen.samples,
        "all_seeds": len(seeds),
        "all_samples": n_samples,
        "ids": ids,
        "means": means,
        "target_scores": None if target_scores is None else [number(v) for v in target_scores.tolist()],
        "shown": shown,
        "answers": answers,
        "cut": tally.n_cut,
        "longest": LONGEST,
        "texts": tally.n,
    }


def _means(values: NDArray) -> list[Any]:
    """Return the mean over seeds and samples of each prompt, to four digits; None where there is no score at all."""
    known = ~np.isnan(values)
    count = known.sum((0, 2))
    total = np.where(known, values, 0.0).sum((0, 2))
    return [number(round(t / n, 4)) if n else None for t, n in zip(total.tolist(), count.tolist(), strict=True)]


@dataclass
class _Tally:
    """How many texts are in the page, and how many of them are cut."""

    n: int = 0
    n_cut: int = 0

    def cut(self, text: str, longest: int = LONGEST) -> str | list[Any]:
        """Return the text, or the text that is left with the number of characters that are not."""
        self.n += 1
        kept, lost = cut(text, longest)
        self.n_cut += lost > 0
        return [kept, lost] if lost else kept


def sentence(browser: Mapping[str, Any]) -> str:
    """Return one sentence on what of a data set's answers is in the page and what is not."""
    n, shown = len(browser["ids"]), len(browser["shown"])
    seeds, samples = len(browser["seeds"]), browser["samples"]
    whole = shown == n and seeds == browser["all_seeds"] and samples == browser["all_samples"]
    text = f"{browser['dataset']}, {browser['model']}: scores of all {n} prompts; "
    if whole:
        text += "texts of all of them, every seed and sample."
    else:
        text += (
            f"to keep this page small, texts of {shown} of them, picked at random, with {seeds} of "
            f"{browser['all_seeds']} seeds and {samples} of {browser['all_samples']} samples of each."
        )
    if browser["cut"]:
        text += (
            f" {browser['cut']} of {browser['texts']} texts are longer than {browser['longest']} characters (prompts: "
            "twice as many) and are cut, with a mark."
        )
    return text


def sentences(browsers: Iterable[Mapping[str, Any]]) -> str:
    """Return the sentences of all data sets and models."""
    return " ".join(sentence(b) for b in browsers)
