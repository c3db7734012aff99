"""How the variance of a prompt's gradient falls with the number of negatives: predicted from pairs, and measured.

Let ``g(y+, y-)`` be the gradient of one pair, positives and negatives drawn independently of each other, and ``G_mn`` the
mean over all pairs of m positives and n negatives. Its expectation does not depend on m and n, and in every coordinate

    Var(G_mn) = ((n - 1) zeta10 + (m - 1) zeta01 + zeta11) / (m n)

with ``zeta10 = Var(E[g | y+])``, ``zeta01 = Var(E[g | y-])`` and ``zeta11 = Var(g)`` (a two-sample U-statistic; Hoeffding
1948). Here m = 1 and what a group shares is its prompt with the target, so that negatives, drawn anew for each prompt, remove
the part ``zeta11 - zeta10`` at the rate 1/n, and zeta10 is the floor.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from selfcontrast.logprobs import Tokens, response_logps

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

WIDTH = 2**15
"""Numbers that a gradient is sketched to."""

LEVEL = 0.95


@dataclass(frozen=True)
class Zetas:
    """The parts of the variance of a pair's gradient, summed over coordinates.

    Attributes:
        shared: zeta10, of what the pairs of one prompt share.
        pair: zeta11, of a single pair.
    """

    shared: float
    pair: float


def predicted_variance(zeta10: float, zeta11: float, *, n: int, m: int = 1, zeta01: float = 0.0) -> float:
    """Return the variance of the mean gradient over m positives and n negatives, by the identity above."""
    return ((n - 1) * zeta10 + (m - 1) * zeta01 + zeta11) / (m * n)


def estimate_zetas(gradients: NDArray) -> Zetas:
    """Return unbiased estimates from pair gradients ``(prompts, negatives, width)``, by one-way analysis of variance."""
    n_prompts, n = gradients.shape[:2]
    means = gradients.mean(1)
    within = _sum_of_squares(gradients - means[:, None]) / (n_prompts * (n - 1))
    between = _sum_of_squares(means - means.mean(0)) / (n_prompts - 1)
    shared = between - within / n
    return Zetas(shared, shared + within)


def measured_variance(gradients: NDArray, n: int, *, weights: NDArray | None = None) -> NDArray:
    """Return the variance over prompts of the mean gradient of n pairs, summed over coordinates, ``(resamples,)``.

    The negatives of each prompt are cut into disjoint sets of n, and the variance is the mean over the sets: nothing but a
    sample variance, it knows nothing of the identity.

    Args:
        gradients: of pairs, ``(prompts, negatives, width)``; negatives that fill no set are left out.
        weights: how often each prompt counts, ``(resamples, prompts)``; by default once.
    """
    n_prompts = len(gradients)
    if weights is None:
        weights = np.ones((1, n_prompts))
    total, n_sets = np.zeros(len(weights)), gradients.shape[1] // n
    for i in range(n_sets):
        means = gradients[:, i * n : (i + 1) * n].mean(1).astype(np.float64)
        products = means @ means.T
        own = weights @ np.diagonal(products)
        total += (own - np.einsum("rp,pq,rq->r", weights, products, weights) / n_prompts) / (n_prompts - 1)
    return total / n_sets


def variance_curve(gradients: NDArray, *, n_resamples: int, seed: int) -> dict[str, list[float]]:
    """Return predicted and measured variance for n = 1, 2, 4, ... up to half of the negatives.

    The prediction comes from the first half of each prompt's negatives, the measurement from the second, so that the two
    share no negative. The interval of the measurement is a bootstrap over prompts.

    Args:
        gradients: of pairs, ``(prompts, negatives, width)``.

    Returns:
        Columns ``n``, ``predicted``, ``measured``, ``low``, ``high``, ``zeta10``, ``zeta11``.
    """
    n_prompts, n_negatives = gradients.shape[:2]
    half = n_negatives // 2
    zetas = estimate_zetas(gradients[:, :half])
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=n_resamples).astype(float)
    columns: dict[str, list[float]] = {k: [] for k in ("n", "predicted", "measured", "low", "high", "zeta10", "zeta11")}
    n = 1
    while n <= half:
        measured = float(measured_variance(gradients[:, half:], n)[0])
        # A resample repeats prompts, which makes its variance too small by (prompts - 1) / prompts.
        drawn = measured_variance(gradients[:, half:], n, weights=weights) * n_prompts / (n_prompts - 1)
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        row = (n, predicted_variance(zetas.shared, zetas.pair, n=n), measured, low, high, zetas.shared, zetas.pair)
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value if name == "n" else float(value))
        n *= 2
    return columns


def _sum_of_squares(values: NDArray) -> float:
    return float(np.einsum("...w,...w->...", values, values, dtype=np.float64).sum())


# Gradients


class Sketch:
    """A random linear map to ``width`` numbers that keeps inner products on average (Charikar et al. 2002).

    The identity holds for any linear map of the gradient; only the scale of the variances has an error, of about
    sqrt(2 / width) for a single inner product. Up to ``width`` weights the map keeps them exactly.

    The signs are drawn on the CPU at the first gradient, so that every device has the same, and kept beside the gradients,
    one byte for each weight: to draw them takes longer than to use them.
    """

    def __init__(self, width: int, seed: int) -> None:
        self.width = width
        self.seed = seed
        self._signs: list[Tensor] = []

    def __call__(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the sketch of a gradient, given as one tensor for each weight, ``(width,)`` in float32."""
        if [len(s) for s in self._signs] != [p.numel() for p in parts]:
            self._signs = self._draw(parts)
        found = torch.zeros(self.width, device=parts[0].device)
        start = 0
        for part, signs in zip(parts, self._signs, strict=True):
            flat = part.detach().reshape(-1).float() * signs
            padded = torch.nn.functional.pad(flat, (0, -len(flat) % self.width))
            found += padded.view(-1, self.width).sum(0).roll(start % self.width)
            start += len(flat)
        return found

    def _draw(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return the sign of every weight, +1 or -1, as int8 on the weight's device."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = [torch.randint(0, 2, (p.numel(),), generator=generator, dtype=torch.int8) for p in parts]
        return [(2 * bits - 1).to(part.device) for bits, part in zip(drawn, parts, strict=True)]


def pair_gradients(
    model: PreTrainedModel, prompt: Tokens, target: Tokens, negatives: Sequence[Tokens], sketch: Sketch
) -> NDArray:
    """Return the sketched gradient of the DPO loss of each pair of one prompt, divided by beta, ``(negatives, width)``.

    The model is its own reference, as at the first step of a training. There the loss has the slope -beta / 2 in the
    difference of the log-ratios, so that a pair's gradient is beta / 2 times that of log p(negative) - log p(target).
    """
    responses = [_response_gradient(model, prompt, r, sketch) for r in (target, *negatives)]
    return np.stack([(r - responses[0]) / 2 for r in responses[1:]])


def _response_gradient(model: PreTrainedModel, prompt: Tokens, response: Tokens, sketch: Sketch) -> NDArray:
    weights = [p for p in model.parameters() if p.requires_grad]
    logp = response_logps(model, [prompt], [[response]], sharing="chosen").sum()
    found = torch.autograd.grad(logp, weights, allow_unused=True)
    return sketch([torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]).cpu().numpy()
