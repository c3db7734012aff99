"""Sampling 32 answers to each prompt, against ``transformers.generate(num_return_sequences=32)``, in one run.

    python benchmarks/bench_generate.py                   # the SFT model of a finished run of `tiny`

Same model, prompts, batches, threads and sampling (temperature 1, the whole distribution); the two take turns, and the median
over the turns counts. A token counts if it belongs to an answer: up to and including EOS.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

N_RESPONSES = 32
EOS_LIMIT = 48


def ours(model: Any, prompts: list[list[int]], eos: int, turn: int) -> list[list[int]]:
    """Return the answers of this project's sampler, 16 prompts of like length at a time."""
    from selfcontrast.generation import sample_batch
    from selfcontrast.sampling import Sampling, plan_batches

    found = []
    for batch in plan_batches([len(p) for p in prompts], prompts_per_batch=16):
        seeds = [[turn * 10**9 + i * N_RESPONSES + j for j in range(N_RESPONSES)] for i in batch]
        sampled = sample_batch(model, [prompts[i] for i in batch], seeds, Sampling(EOS_LIMIT), eos_ids=frozenset([eos]))
        found += [r.ids for rows in sampled for r in rows]
    return found


def peer(model: Any, prompts: list[list[int]], eos: int, turn: int) -> list[list[int]]:
    """Return the answers of transformers, in the same batches, padded on the left."""
    from selfcontrast.sampling import plan_batches

    torch.manual_seed(turn)
    found = []
    for batch in plan_batches([len(p) for p in prompts], prompts_per_batch=16):
        longest = max(len(prompts[i]) for i in batch)
        ids = torch.tensor([[0] * (longest - len(prompts[i])) + prompts[i] for i in batch])
        mask = torch.tensor([[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in batch])
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            num_return_sequences=N_RESPONSES,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=EOS_LIMIT,
            pad_token_id=0,
            eos_token_id=eos,
        )[:, longest:]
        for row in out.tolist():
            end = row.index(eos) + 1 if eos in row else len(row)
            found.append(row[:end])
    return found


def main() -> None:
    """Print tokens per second of both, and as the last line their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results/tiny/hh/pocket", help="of a finished study")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    table = next(iter(sorted(args.results.rglob("pool.parquet"))), None)
    if table is None:
        sys.exit(f"There is no finished study under {args.results}: run `make tiny` first, or name one with --results.")
    from selfcontrast.artifacts import read_table
    from selfcontrast.checkpoints import load_model, load_tokenizer
    from selfcontrast.threads import use_threads

    use_threads(args.threads)
    model = load_model(args.results / "sft/model", dtype="float32")
    eos = int(load_tokenizer(args.results / "sft/model").eos_token_id)
    prompts = read_table(table, ["prompt_ids"])["prompt_ids"][: args.prompts]
    variants: dict[str, Callable[[Any, list[list[int]], int, int], list[list[int]]]] = {"ours": ours, "generate": peer}
    speed: dict[str, list[float]] = {name: [] for name in variants}
    mean_length = dict.fromkeys(variants, 0.0)
    for turn in range(args.repeats + 1):
        for name, sample in variants.items():
            start = time.perf_counter()
            answers = sample(model, prompts, eos, turn)
            seconds = time.perf_counter() - start
            if turn:  # the first turn allocates
                speed[name].append(sum(map(len, answers)) / seconds)
                mean_length[name] += sum(map(len, answers)) / len(answers) / args.repeats
    print(f"{args.prompts} prompts x {N_RESPONSES} answers, {args.threads} threads, {args.repeats} turns")
    print("| sampler | tokens/s (min to max) | mean length |\n| --- | --- | --- |")
    for name, values in speed.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.0f} ({min(values):.0f} to {max(values):.0f}) | {mean_length[name]:.2f} |")
    print(f"ratio: {statistics.median(speed['ours']) / statistics.median(speed['generate']):.2f}")


if __name__ == "__main__":
    main()
