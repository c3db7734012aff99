"""Simulate studies whose truth is known: false alarms, power and coverage of comparisons, moderated and unpooled.

    python benchmarks/simulate_statistics.py            # the tables of docs/statistics.md, 2,000 studies in each row

A study has 14 differences of arms to one opponent, 5 of them real, and 384 prompts. A difference is its truth, plus the luck
of each seed (standard deviation .005 or .015), plus the difficulty of each prompt for this difference (.10), plus noise of
each seed and prompt (.15), all independent. In some studies one of the 9 arms without a difference is wild: its seeds'
deviation is ten times as large. With heavy tails, seeds and noise are Student's t with 4 degrees of freedom and the same
deviation.

The numbers come from the functions that make the tables of a study, without the bootstrap, which for means of hundreds of
prompts adds little but the granularity of its draws. A false alarm is a study in which any of the 9 is significant at the
5 % level after Holm's correction. It is counted with real differences of 0, .02, .04 and .08: shown are the share at 0 and
the largest share of the four. Power is the share of real differences that are found, of .02, .04 and .08. Coverage is the
share of the 14 intervals, in percent, that hold their truth.

With one seed the truth of a difference includes the luck of its training: the comparison is about these trainings.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from selfcontrast.stats import LEVEL
from selfcontrast.stats.laws import Law
from selfcontrast.stats.moderation import moderate
from selfcontrast.stats.variance import Parts, spread_of_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_ARMS, N_REAL, N_PROMPTS = 14, 5, 384
SD_PROMPTS, SD_NOISE = 0.10, 0.15
EFFECTS = (0.0, 0.02, 0.04, 0.08)
ROWS = ((0.005, 1.0), (0.005, 10.0), (0.015, 1.0), (0.015, 10.0))
"""Standard deviation of seeds, and how many times as large it is for the last arm."""

AT_ONCE = 50
"""Studies that exist at one time."""


@dataclass(frozen=True)
class Studies:
    """Errors of the means of simulated studies, ``(studies, arms)``, and what each method takes their law to be."""

    errors: NDArray
    unpooled: Law
    moderated: Law


@dataclass(frozen=True)
class Outcome:
    """What a method made of studies: shares of studies, of real differences by their size, and of intervals."""

    alarms: dict[float, float]
    power: dict[float, float]
    coverage: float


def simulate(
    rng: np.random.Generator, n: int, *, sd_seeds: float, wild: float, n_seeds: int, tails: float | None = None
) -> Studies:
    """Return ``n`` studies without any real difference; ``tails`` are the degrees of freedom of seeds and noise."""
    errors, own, family = [], [], []
    for start in range(0, n, AT_ONCE):
        luck, values = _values(rng, min(AT_ONCE, n - start), sd_seeds, wild, n_seeds, tails)
        laws = [Law.of_spread(spread_of_mean(v)) for v in values.reshape(-1, n_seeds, N_PROMPTS)]
        shape = (*values.shape[:2], 1)
        own.append([np.stack([getattr(law, f) for law in laws]).reshape(shape) for f in ("shares", "errors", "df")])
        law = moderate(Parts.of(values)) if n_seeds > 1 else Law(*own[-1])
        family.append([law.shares, law.errors, law.df])
        errors.append(values.mean((-2, -1)) - (luck if n_seeds == 1 else 0.0))
    joined = [Law(*(np.concatenate(part) for part in zip(*each, strict=True))) for each in (own, family)]
    return Studies(np.concatenate(errors), *joined)


def _values(
    rng: np.random.Generator, n: int, sd_seeds: float, wild: float, n_seeds: int, tails: float | None
) -> tuple[NDArray, NDArray]:
    """Return the luck of the seeds of each arm, ``(n, arms)``, and values ``(n, arms, seeds, prompts)``."""

    def draw(*shape: int) -> NDArray:
        size = (n, N_ARMS, *shape)
        return rng.standard_normal(size) if tails is None else rng.standard_t(tails, size) * (1 - 2 / tails) ** 0.5

    sd = np.full(N_ARMS, sd_seeds)
    sd[-1] *= wild
    luck = sd[:, None, None] * draw(n_seeds, 1)
    prompts = SD_PROMPTS * rng.standard_normal((n, N_ARMS, 1, N_PROMPTS))
    return luck.mean((-2, -1)), luck + prompts + SD_NOISE * draw(n_seeds, N_PROMPTS)


def found_by_holm(p: NDArray) -> NDArray:
    """Return which of the p-values ``(studies, tests)`` are significant: as ``stats.holm``, for all studies at once."""
    order = np.argsort(p, axis=1)
    limits = (1 - LEVEL) / np.arange(p.shape[1], 0, -1)
    passed = np.logical_and.accumulate(np.take_along_axis(p, order, axis=1) < limits, axis=1)
    found = np.zeros(p.shape, dtype=bool)
    np.put_along_axis(found, order, passed, axis=1)
    return found


def outcome(errors: NDArray, law: Law, effects: tuple[float, ...] = EFFECTS) -> Outcome:
    """Return what comparisons with a law come to where the first arms differ by each of the effects."""
    alarms, power = {}, {}
    for effect in effects:
        truth = np.where(np.arange(N_ARMS) < N_REAL, effect, 0.0)
        found = found_by_holm(law.two_sided(errors + truth))
        alarms[effect] = float(found[:, N_REAL:].any(1).mean())
        power[effect] = float(found[:, :N_REAL].mean())
    return Outcome(alarms, power, float((law.two_sided(errors) >= 1 - LEVEL).mean()))


def _cells(found: Outcome) -> str:
    alarms = f"{found.alarms[0.0]:.3f}, {max(found.alarms.values()):.3f}"
    return f"{alarms} | {' '.join(f'{p:.2f}' for e, p in found.power.items() if e)} | {100 * found.coverage:.1f}"


def row(design: tuple[int, float, float, float | None], n: int, seed: int) -> str:
    """Return one row of the tables: seeds, their deviation, the wild arm's multiple of it, and the tails."""
    n_seeds, sd_seeds, wild, tails = design
    rng = np.random.default_rng([seed, n_seeds, round(1000 * sd_seeds), round(wild), round(tails or 0)])
    studies = simulate(rng, n, sd_seeds=sd_seeds, wild=wild, n_seeds=n_seeds, tails=tails)
    cells = [_cells(outcome(studies.errors, law)) for law in (studies.unpooled, studies.moderated)]
    return f"| {n_seeds} | {sd_seeds} | {'yes' if wild > 1 else 'no'} | {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="rows that are made at one time")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs) as pool:
        for name, tails in (("Normal", None), ("Heavy tails", 4.0)):
            heads = ["false alarms", "power", "coverage"]
            print(f"{name}, {args.studies} studies in each row:\n")
            print(f"| seeds | their sd | wild arm | unpooled: {' | '.join(heads)} | moderated: {' | '.join(heads)} |")
            print("|" + " --- |" * 9)
            designs = [(n_seeds, *kind, tails) for n_seeds in (1, 2, 3, 5) for kind in ROWS]
            for line in pool.map(partial(row, n=args.studies, seed=args.seed), designs):
                print(line, flush=True)
            print()


if __name__ == "__main__":
    main()
