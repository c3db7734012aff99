"""Compute the reference's log-probability of every response of a pool and of the SFT targets, once for all arms.

In: the split pool, the pool, the reference model. Out: shard.parquet, keyed by (prompt, response): sums, and the values of
single tokens. One GPU at full size; a shard is small enough to be lost.

Each prompt is also given the target of the prompt that follows (the response ``elsewhere``), for objectives that measure how
far the policy drifts on answers that are not its own.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import cli
from selfcontrast.records import ELSEWHERE, TARGET, training_column

TOKENS_PER_BATCH = 16_384
"""Response tokens that are computed together."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--pool", type=Path, required=True, metavar="MANIFEST", help="of the step gather_pool")
    parser.add_argument("--reference", type=Path, required=True, metavar="MANIFEST", help="of the frozen policy")
    parser.add_argument("--shard", required=True, metavar="I-of-N", help="which part of the prompts, counted from 1")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the log-probabilities."""
    import torch

    from selfcontrast.checkpoints import load_model, training_dtype
    from selfcontrast.lm_head import check_head
    from selfcontrast.logprobs import supported_sharing, token_logps

    torch.set_num_threads(args.threads)
    prompts = step.open(args.prompts)
    column = training_column(prompts.manifest)
    split = prompts.table("pool.parquet", ["prompt_id", column, "target_ids"])
    pool = step.open(args.pool).table("responses.parquet", ["prompt_id", "response_id", "response_ids"])
    following = [*split["target_ids"][1:], split["target_ids"][0]]
    responses: dict[str, list[tuple[str, list[int]]]] = {
        i: [(TARGET, ids), (ELSEWHERE, other)]
        for i, ids, other in zip(split["prompt_id"], split["target_ids"], following, strict=True)
    }
    for prompt_id, response_id, ids in zip(pool["prompt_id"], pool["response_id"], pool["response_ids"], strict=True):
        responses[prompt_id].append((response_id, ids))
    folder = step.open(args.reference).path("model")
    model = load_model(folder, dtype=training_dtype(step.spec), trust_remote_code=step.spec["trust_remote_code"])
    half = step.spec["training"]["precision"] == "bf16"
    check_head(model)
    rows = zip(split["prompt_id"], split[column], strict=True)
    longest = max(len(p) + max(len(ids) for _, ids in responses[i]) for i, p in rows)
    sharing = supported_sharing(model, "prefix", longest_row=longest)
    values: dict[tuple[str, str], list[float]] = {}
    # Batches are planned over all prompts, so that the shards change nothing, not even by rounding.
    batches = _batches(split["prompt_id"], split[column], responses)
    shard, shards = (int(x) for x in args.shard.split("-of-"))
    mine = batches[(shard - 1) * len(batches) // shards : shard * len(batches) // shards]
    # As the policy runs in training, so that at its first step the two are the same function.
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=half):
        for batch in mine:
            texts = [[ids for _, ids in responses[i]] for i, _ in batch]
            found = token_logps(model, [p for _, p in batch], texts, sharing=sharing)
            keys = [(i, response_id) for i, _ in batch for response_id, _ in responses[i]]
            values |= dict(zip(keys, [v.tolist() for v in found.split()], strict=True))
    step.write_table(
        "shard.parquet",
        {
            "prompt_id": [k[0] for k in values],
            "response_id": [k[1] for k in values],
            "logp": [math.fsum(v) for v in values.values()],
            "token_logps": list(values.values()),
        },
    )
    step.report = {"responses": len(values)}
    step.cost = {"scored_tokens": sum(map(len, values.values()))}


def _batches(
    prompt_ids: list[str], tokens: list[list[int]], responses: dict[str, list[tuple[str, list[int]]]]
) -> list[list[tuple[str, list[int]]]]:
    """Return batches of (prompt id, tokens), prompts of like length together."""
    order = sorted(range(len(prompt_ids)), key=lambda i: (len(tokens[i]), i))
    batches: list[list[tuple[str, list[int]]]] = []
    size = 0
    for i in order:
        rows = responses[prompt_ids[i]]
        cost = len(rows) * max(len(ids) for _, ids in rows)
        if not batches or size + cost > TOKENS_PER_BATCH:
            batches.append([])
            size = 0
        batches[-1].append((prompt_ids[i], tokens[i]))
        size += cost
    return batches


if __name__ == "__main__":
    cli.leave(main())
