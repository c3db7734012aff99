"""Moderated variances: what seeds add to the variance of a mean, with strength borrowed from the other arms of a study.

Three seeds leave two degrees of freedom for their variance, which is no estimate. The arms of a study are trained alike and
their variances are alike too, but for an arm that is wild, so the means of seeds of all arms together say how far seeds
differ. This is the idea of Smyth (Statistical Applications in Genetics and Molecular Biology, 2004), made robust to wild arms
as Phipson and others ask (Annals of Applied Statistics, 2016), with another prior: few arms with few seeds cannot tell how
much variances differ, but can tell whether most of them agree.

The model of the mean of arm j and seed s is

    mean of the arm + u_s + e_js,      Var(e_js) = core, or wild

where u_s is what all arms share: the luck of an opponent that all of them are compared with, and random streams that all
arms of a seed have in common. It is no arm's own, so its variance is estimated from its own few degrees of freedom. Of the
arms some few are wild, with some multiple of the core's variance. A wild arm whose seeds agree by luck cannot be told from
the others: so every arm is taken to be wild with the chance that is left after its own variance was seen, and its law is a
mixture (partially Bayes p-values: Ignatiadis and Sen, arXiv 2303.02887).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from selfcontrast.stats.laws import Law
from selfcontrast.stats.variance import Parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_ARMS = 5
"""With fewer arms there is nothing to borrow: each keeps its own variance."""

WILD = tuple(100.0 * 4**i for i in range(8))
"""Variances of a wild arm's seeds, as multiples of the core's: from ten times its standard deviation to a thousand times."""

CHANCES = tuple(0.5 ** (i + 1) / (1 - 0.5 ** len(WILD)) for i in range(len(WILD)))
"""Chance of each of ``WILD`` for a wild arm: each is half as likely as the one before it."""

LEAST_SEEDS = 0.3
"""Share of the core's variance that is taken to come of seeds at least, when a multiple of it is formed."""

HIDING = 7.0
"""How strongly a wild arm is suspected where it can hide: see ``Prior.suspicion``.

It weighs false alarms of a wild arm against power: benchmarks/simulate_statistics.py, with the table in docs/statistics.md.
"""

LEAST_CORE = 1e-300
"""Variance of the core where the seeds of all arms agree exactly."""

MOST_STEPS = 100
"""Steps of the fit at most; it ends where the core's variance stands still to nine digits, after ten to twenty."""


@dataclass(frozen=True)
class Prior:
    """What is known of an arm's variance between the means of its seeds, before its own is seen; arrays ``(..., 1)``.

    Attributes:
        core: variance of most arms, noise of prompts included, in squared units of the metric.
        noise: the part of it that is noise of prompts and samples.
        n_arms: arms of the family.
        df: degrees of freedom of one arm: seeds less one.
    """

    core: NDArray
    noise: NDArray
    n_arms: int
    df: int

    @property
    def wild(self) -> NDArray:
        """Return the variances of wild arms, ``(..., 1, len(WILD))``: what seeds add is multiplied, the noise is not."""
        return self.core[..., None] + self._seeds[..., None] * (np.array(WILD) - 1)

    @property
    def _seeds(self) -> NDArray:
        return np.maximum(self.core - self.noise, LEAST_SEEDS * self.core)

    @property
    def suspicion(self) -> NDArray:
        """Return the chance that an arm is wild: that of one arm of the family, or more where a wild arm can hide.

        With the least variance of a wild arm at R times the core's, it is 7 R^(-1/3) arms of the family and at least one:
        seeds that hardly show beside the noise of prompts make for caution.
        """
        ratio = 1 + (WILD[0] - 1) * self._seeds / self.core
        return np.minimum(0.5, np.maximum(1.0, HIDING * ratio ** (-1 / 3)) / self.n_arms)

    def shares(self, seen: NDArray) -> NDArray:
        """Return the chances of the core and each wild variance for arms whose own is ``seen`` ``(..., arms)``."""
        wild = np.broadcast_to(self.wild, (*seen.shape, len(WILD)))
        variances = np.concatenate([np.broadcast_to(self.core, seen.shape)[..., None], wild], axis=-1)
        rest = np.broadcast_to(self.suspicion[..., None] * np.array(CHANCES), wild.shape)
        before = np.concatenate([np.broadcast_to(1 - self.suspicion, seen.shape)[..., None], rest], axis=-1)
        # Density of chi-square over its degrees of freedom, times a variance; what all variances share is left out.
        log = np.log(before) - self.df / 2 * (np.log(variances) + seen[..., None] / variances)
        weights = np.exp(log - log.max(-1, keepdims=True))
        return np.asarray(weights / weights.sum(-1, keepdims=True))


@dataclass(frozen=True)
class Fit:
    """The model of the module, fitted to the means of seeds of a family.

    Attributes:
        prior: what is known of every arm.
        shared: estimated u_s, centred, ``(..., 1, seeds)``.
        seen: variance of each arm beside the shared part, ``(..., arms)``.
        shares: ``Prior.shares`` of every arm, ``(..., arms, 1 + len(WILD))``.
    """

    prior: Prior
    shared: NDArray
    seen: NDArray
    shares: NDArray


def fit(by_seed: NDArray, noise: NDArray) -> Fit:
    """Fit the model to means ``(..., arms, seeds)``, of which ``noise`` ``(..., arms)`` is the variance that is no seed's.

    Maximum likelihood of the core's variance and the shared part, by expectation and maximisation, from medians: each arm
    counts with the precision that is expected of it, so that a wild one hardly counts.
    """
    n_arms, df = by_seed.shape[-2], by_seed.shape[-1] - 1
    own = by_seed - by_seed.mean(-1, keepdims=True)
    noise = noise.mean(-1, keepdims=True)
    shared = np.median(own, axis=-2, keepdims=True)
    shared = shared - shared.mean(-1, keepdims=True)
    # Where half of the arms agree with the median arm exactly, its variance is none: the mean of all is a start too.
    seen = _seen(own, shared, df)
    core = np.median(seen, axis=-1, keepdims=True) / (special.chdtri(df, 0.5) / df)
    core = np.maximum(np.where(core > 0, core, seen.mean(-1, keepdims=True)), LEAST_CORE)
    for _ in range(MOST_STEPS):
        prior = Prior(core, noise, n_arms, df)
        shares = prior.shares(seen)
        # The inverse of an arm's variance, times the core's; no arm may count for more than one, however wild.
        wild = core[..., None] / np.maximum(prior.wild, seen[..., None])
        precision = shares[..., 0] + (shares[..., 1:] * wild).sum(-1)
        shared = (precision[..., None] * own).sum(-2, keepdims=True) / precision.sum(-1)[..., None, None]
        seen = _seen(own, shared, df)
        before, core = core, np.maximum((precision * seen).sum(-1, keepdims=True) / (n_arms - 1), LEAST_CORE)
        if (np.abs(core - before) <= 1e-9 * core).all():
            break
    prior = Prior(core, noise, n_arms, df)
    return Fit(prior, shared, seen, prior.shares(seen))


def _seen(own: NDArray, shared: NDArray, df: int) -> NDArray:
    return np.asarray(((own - shared) ** 2).sum(-1) / df)


def moderate(parts: Parts) -> Law:
    """Return the law of the error of each mean of a family, ``(..., arms)``, of at least two seeds and ``LEAST_ARMS`` arms.

    The standard error of each component is that of ``spread_of_mean`` with the family's variance of seeds instead of the
    arm's own, with Satterthwaite's degrees of freedom.
    """
    n_seeds = parts.n_seeds
    fitted = fit(parts.by_seed, parts.crossed / parts.n_prompts)
    core, df = fitted.prior.core, fitted.prior.df
    wild = np.broadcast_to(fitted.prior.wild, (*parts.crossed.shape, len(WILD)))
    of_arm = np.concatenate([np.broadcast_to(core, parts.crossed.shape)[..., None], wild], axis=-1)
    pooled = df * np.maximum(fitted.shares[..., 0].sum(-1) - 1, 1)[..., None, None]
    # An arm beyond the wildest that is reckoned with has its own variance.
    own = fitted.seen > of_arm[..., -1]
    freedom = np.where(np.arange(1 + len(WILD)) == len(WILD), np.where(own, df, pooled[..., 0])[..., None], pooled)
    of_arm[..., -1] = np.maximum(of_arm[..., -1], fitted.seen)
    # Residuals are smaller than deviations by what the shared part took from them, and that is in the shared part.
    of_arm = of_arm * (1 - 1 / parts.crossed.shape[-1]) / n_seeds
    shared = (fitted.shared**2).sum(-1)[..., None] / df / n_seeds
    of_prompts, crossed = ((m / parts.n_values)[..., None] for m in (parts.of_prompts, parts.crossed))
    variance = np.maximum(of_arm + shared + parts.beside_seeds[..., None], crossed)
    prompts = (parts.n_prompts - 1)[..., None]
    squares = of_arm**2 / freedom + shared**2 / df + of_prompts**2 / prompts + crossed**2 / (df * prompts)
    return Law(fitted.shares, np.sqrt(variance), np.maximum(variance**2 / squares, 1.0))
