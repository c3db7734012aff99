"""Where the variance of a metric comes from: prompts, training seeds, their interaction, single answers.

A random-effects analysis of variance of balanced answers ``(seeds, prompts, samples)``, by the method of moments: the mean
squares are set equal to their expectations (Searle, Casella and McCulloch, Variance Components, 1992, chapter 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Components:
    """The variance of one answer by source, in squared units of the metric.

    Estimates are unbiased, so that a source without effect comes out negative half of the time. What a design cannot tell
    apart is NaN and part of another: without a second sample the interaction is in ``samples``; without a second seed
    ``seeds`` is unknown and the interaction is in ``prompts``, as are ``samples`` if there is but one.

    Attributes:
        prompts: some prompts are harder.
        seeds: some trainings came out better.
        interaction: a training is better on some prompts.
        samples: answers of one policy to one prompt differ.
        n_prompts: prompts with a value for every seed and sample.
    """

    prompts: float
    seeds: float
    interaction: float
    samples: float
    n_prompts: int
    n_seeds: int
    n_samples: int

    def spread(self, *, prompts: float = 1, seeds: float = 1, samples: float = 1) -> Spread:
        """Return the standard error of the mean of a study so many times larger, with negative estimates as 0."""
        if self.n_prompts < 2:
            return Spread(math.nan, math.nan)
        p, s, k = self.n_prompts * prompts, self.n_seeds * seeds, self.n_samples * samples
        of = [0.0 if math.isnan(v) else max(v, 0.0) for v in (self.prompts, self.seeds, self.interaction, self.samples)]
        crossed = of[2] + of[3] / k
        return _combine(p * (of[1] + crossed / p), s * (of[0] + crossed / s), crossed, n_seeds=s, n_prompts=p)


@dataclass(frozen=True)
class Spread:
    """The standard error of a mean, and the degrees of freedom behind it."""

    se: float
    df: float


def split_variance(values: NDArray) -> Components:
    """Return the components of ``values`` ``(seeds, prompts, samples)``; prompts with a NaN are left out."""
    values = _complete(values)
    n_seeds, n_prompts, n_samples = values.shape
    if n_prompts < 2:
        return Components(math.nan, math.nan, math.nan, math.nan, n_prompts, n_seeds, n_samples)
    of_seeds, of_prompts, crossed = (n_samples * float(m) for m in mean_squares(values.mean(2)))
    within = float(values.var(2, ddof=1).mean()) if n_samples > 1 else math.nan
    if n_seeds == 1:
        prompts = of_prompts if n_samples == 1 else (of_prompts - within) / n_samples
        return Components(prompts, math.nan, math.nan, within, n_prompts, n_seeds, n_samples)
    return Components(
        prompts=(of_prompts - crossed) / (n_seeds * n_samples),
        seeds=(of_seeds - crossed) / (n_prompts * n_samples),
        interaction=math.nan if n_samples == 1 else (crossed - within) / n_samples,
        samples=crossed if n_samples == 1 else within,
        n_prompts=n_prompts,
        n_seeds=n_seeds,
        n_samples=n_samples,
    )


@dataclass(frozen=True)
class Parts:
    """What the variance of the mean of values ``(seeds, prompts)`` is made from; of several arms, arrays ``(..., arms)``.

    The variance of the mean is that of the means of the seeds over their number, and ``beside_seeds``.

    Attributes:
        by_seed: mean of each seed, ``(..., seeds)``.
        of_prompts, crossed: mean squares of prompts, and of prompts crossed with seeds; with one seed ``crossed`` is 0.
        n_prompts: prompts that every seed has a value for.
        share: all values over those of these prompts, at least 1: the values of other prompts make the mean better too.
    """

    by_seed: NDArray
    of_prompts: NDArray
    crossed: NDArray
    n_prompts: NDArray
    share: NDArray

    @classmethod
    def of(cls, values: NDArray) -> Parts:
        """Return the parts of ``values`` ``(..., seeds, prompts)`` without NaN."""
        _, of_prompts, crossed = mean_squares(values)
        ones = np.ones(values.shape[:-2])
        return cls(values.mean(-1), of_prompts, crossed, values.shape[-1] * ones, ones)

    @classmethod
    def of_arms(cls, arms: Sequence[NDArray]) -> Parts:
        """Return the parts of several arms ``(seeds, prompts)``, as arrays; prompts with a NaN are left out (``share``)."""
        complete = [_complete(v[:, :, None])[:, :, 0] for v in arms]
        found = [cls.of(v) for v in complete]
        share = [(~np.isnan(v)).sum() / c.size for v, c in zip(arms, complete, strict=True)]
        return cls(
            by_seed=np.stack([p.by_seed for p in found]),
            of_prompts=np.stack([p.of_prompts for p in found]),
            crossed=np.stack([p.crossed for p in found]),
            n_prompts=np.stack([p.n_prompts for p in found]),
            share=np.array(share),
        )

    @property
    def n_seeds(self) -> int:
        """Return the number of seeds."""
        return int(self.by_seed.shape[-1])

    @property
    def n_values(self) -> NDArray:
        """Return the number of values behind the mean."""
        return self.n_seeds * self.n_prompts * self.share

    @property
    def beside_seeds(self) -> NDArray:
        """Return what the prompts add to the variance of the mean; the noise that is in the means of seeds is taken off."""
        return (self.of_prompts - self.crossed * self.share) / self.n_values


def spread_of_mean(values: NDArray) -> Spread:
    """Return the standard error of the mean of ``values`` ``(seeds, prompts)``, NaN being no value.

    The mean squares are those of the prompts that every seed has, the number of prompts that of all values. It is NaN for
    fewer than two such prompts: one says nothing of how prompts differ.
    """
    complete = _complete(values[:, :, None])[:, :, 0]
    if complete.shape[1] < 2:
        return Spread(math.nan, math.nan)
    n_seeds, n_prompts = complete.shape
    of_seeds, of_prompts, crossed = (float(m) for m in mean_squares(complete))
    share = float((~np.isnan(values)).sum()) / complete.size
    of_seeds = max(0.0, crossed + (of_seeds - crossed) * share)
    return _combine(of_seeds, of_prompts, crossed, n_seeds=n_seeds, n_prompts=n_prompts * share)


def _complete(values: NDArray) -> NDArray:
    return values[:, ~np.isnan(values).any((0, 2))]


def mean_squares(values: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return the mean squares of seeds, prompts and the rest of ``values`` ``(..., seeds, prompts)``; 0 without freedom."""
    n_seeds, n_prompts = values.shape[-2:]
    by_seed, by_prompt = values.mean(-1), values.mean(-2)
    flat = (*values.shape[:-2], n_seeds * n_prompts)
    rest = values - by_seed[..., None] - by_prompt[..., None, :] + values.reshape(flat).mean(-1)[..., None, None]
    freedom, nothing = (n_seeds - 1) * (n_prompts - 1), np.zeros(values.shape[:-2])
    return (
        n_prompts * by_seed.var(-1, ddof=1) if n_seeds > 1 else nothing,
        n_seeds * by_prompt.var(-1, ddof=1) if n_prompts > 1 else nothing,
        (rest**2).reshape(flat).sum(-1) / freedom if freedom else nothing,
    )


def _combine(of_seeds: float, of_prompts: float, crossed: float, *, n_seeds: float, n_prompts: float) -> Spread:
    """Return standard error and Satterthwaite's degrees of freedom from the mean squares over means of samples.

    The variance of the mean is (seeds + prompts - crossed) / (n_seeds n_prompts). It is never taken to be below that of
    noise alone: by chance the difference may be small, or negative.
    """
    total = max(of_seeds + of_prompts - crossed, crossed)
    squares = 0.0
    for mean_square, freedom in (
        (of_seeds, n_seeds - 1),
        (of_prompts, n_prompts - 1),
        (crossed, (n_seeds - 1) * (n_prompts - 1)),
    ):
        squares += mean_square**2 / freedom if freedom > 0 else 0.0
    return Spread(math.sqrt(total / (n_seeds * n_prompts)), total**2 / squares if squares else math.inf)
