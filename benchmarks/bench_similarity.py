"""Score and filter 1,000,000 answers with embeddings of 1,024 numbers, in one streaming pass: speed and peak memory.

    python benchmarks/bench_similarity.py

The vectors are random and stand for an embedding model, whose own cost is not measured. Everything else is what the scorer
`cosine` and the filter `least` do.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from selfcontrast.filters import least
from selfcontrast.records import Answer, PromptPool
from selfcontrast.scorers.cosine import similarities

N_RESPONSES = 32


def pools(n_answers: int) -> Iterator[PromptPool]:
    """Yield prompts with 32 answers each, all different."""
    for i in range(n_answers // N_RESPONSES):
        answers = tuple(Answer(f"sft.{j}", f"{i} {j}") for j in range(N_RESPONSES))
        yield PromptPool(f"p{i}", f"{i} target", answers)


def main() -> None:
    """Print answers per second and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1024)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    made = 0.0

    def embed(texts: Sequence[str]) -> np.ndarray:
        nonlocal made
        start = time.perf_counter()
        vectors = rng.standard_normal((len(texts), args.width), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        made += time.perf_counter() - start
        return vectors

    params = least.Params(keep=0.5)
    kept = scored = 0
    start = time.perf_counter()
    for scores in similarities(pools(args.answers), embed):
        scored += len(scores)
        kept += len(least.keep(scores, params))
    seconds = time.perf_counter() - start - made
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{scored:,} answers x {args.width}, {kept:,} kept")
    print(f"{seconds:.1f} s to score and filter ({scored / seconds:,.0f} answers/s), {made:.1f} s to draw the vectors")
    print(
        f"peak memory {peak:.0f} MiB, of which the vectors of all answers would be {scored * args.width * 4 / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
