"""Compute the reference's log-probability of every response of a pool and of the SFT targets, once for all arms.

In: the split pool, the pool, the reference model. Out: shard.parquet, keyed by (prompt, response): sums, and the values of
single tokens. One GPU at full size. Finished batches are kept until the table is written.

Each prompt is also given the target of the prompt that follows (the response ``elsewhere``), for objectives that measure how
far the policy drifts on answers that are not its own.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfcontrast import artifacts, cli, joins
from selfcontrast.finite import name_of_model, require_finite
from selfcontrast.records import ELSEWHERE, TARGET, training_column
from selfcontrast.threads import use_threads

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy import ndarray

    from selfcontrast.ragged import Ragged

TOKENS_PER_BATCH = 16_384
"""Response tokens that are computed together; an interruption costs no more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--pool", type=Path, required=True, metavar="MANIFEST", help="of the step gather_pool")
    parser.add_argument("--reference", type=Path, required=True, metavar="MANIFEST", help="of the frozen policy")
    parser.add_argument("--shard", required=True, metavar="I-of-N", help="which part of the prompts, counted from 1")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the log-probabilities, in the order of the prompts."""
    import numpy as np
    import torch

    from selfcontrast.attention import check_model
    from selfcontrast.checkpoints import load_for_training
    from selfcontrast.chunks import Chunks, software
    from selfcontrast.logprobs import supported_sharing, token_logps
    from selfcontrast.ragged import Ragged

    use_threads(args.threads)
    encoded = step.open(args.prompts)
    column = training_column(encoded.manifest)
    split = encoded.arrow("pool.parquet", ["prompt_id", column, "target_ids"])
    prompt_ids = split["prompt_id"].combine_chunks()
    prompts, targets = Ragged(split[column].chunks), Ragged(split["target_ids"].chunks)
    following = np.roll(np.arange(len(prompts)), -1)
    pool = step.open(args.pool)
    folder = step.open(args.reference).path("model")
    model = load_for_training(folder, step.spec)
    half = step.spec["training"]["precision"] == "bf16"
    check_model(model)
    n_responses, longest = _sizes(pool, prompt_ids)
    longest = np.maximum.reduce([longest, targets.lengths, targets.lengths[following]])
    sharing = supported_sharing(model, "prefix", longest_row=int((prompts.lengths + longest).max()))
    # Batches are planned over all prompts, so that the shards change nothing, not even by rounding.
    batches = _batches(prompts.lengths, (n_responses + 2) * longest)
    shard, shards = (int(x) for x in args.shard.split("-of-"))
    mine = batches[(shard - 1) * len(batches) // shards : shard * len(batches) // shards]
    owners, response_ids, responses = _responses(pool, prompt_ids, [p for batch in mine for p in batch])
    rows = {p: range(*np.searchsorted(owners, [p, p + 1])) for batch in mine for p in batch}
    chunks = Chunks.open(
        step.folder / ".chunks",
        spec=step.spec,
        inputs=step.inputs,
        sharing=sharing,
        software=software(
            ("steps/ref_logps", "logprobs", "attention", "lm_head", "checkpoints"), ("torch", "transformers")
        ),
    )
    found: dict[int, tuple[list[float], list[ndarray]]] = {}
    # As the policy runs in training, so that at its first step the two are the same function.
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=half):
        for batch in mine:
            name = f"batch-{batch[0]:09d}"
            stored = chunks.find(name)
            if stored is None:
                texts = [[targets[p], targets[following[p]], *(responses[i] for i in rows[p])] for p in batch]
                tokens = [[ids.tolist() for ids in answers] for answers in texts]
                values = token_logps(model, [prompts[p].tolist() for p in batch], tokens, sharing=sharing).split()
                logps = [v.cpu().numpy() for v in values]
                names = [(p, name) for p in batch for name in (TARGET, ELSEWHERE, *(response_ids[i] for i in rows[p]))]
                for (p, of), numbers in zip(names, logps, strict=True):
                    if not np.isfinite(numbers).all():
                        whose = f"{of} of prompt {prompt_ids[p]}"
                        require_finite(numbers, "the log-probability of a token", whose, model=name_of_model(model))
                stored = {"logp": [math.fsum(v.tolist()) for v in logps], "token_logps": logps}
                chunks.store(name, stored)
            pairs = zip(stored["logp"], stored["token_logps"], strict=True)
            for p in batch:
                mine_of_p = list(itertools.islice(pairs, 2 + len(rows[p])))
                found[p] = [x for x, _ in mine_of_p], [np.asarray(v, np.float32) for _, v in mine_of_p]
    with step.table_writer("shard.parquet", ("prompt_id", "response_id", "logp", "token_logps")) as writer:
        for p in sorted(found):
            sums, values_of_tokens = found[p]
            writer.write(
                {
                    "prompt_id": [prompt_ids[p]] * len(sums),
                    "response_id": [TARGET, ELSEWHERE, *(response_ids[i] for i in rows[p])],
                    "logp": sums,
                    "token_logps": values_of_tokens,
                }
            )
    chunks.remove()
    step.report = {"responses": sum(len(sums) for sums, _ in found.values())}
    n_prompts = sum(int(prompts.lengths[p]) for p in found)
    step.cost = {"scored_tokens": n_prompts + sum(len(v) for _, answers in found.values() for v in answers)}


def _sizes(pool: artifacts.Artifact, prompt_ids: pa.Array) -> tuple[ndarray, ndarray]:
    """Return how many responses each prompt has, and the tokens of its longest one."""
    import numpy as np

    n_responses, longest = np.zeros((2, len(prompt_ids)), np.int64)
    for batch in pool.batches("responses.parquet", ["prompt_id", "response_ids"]):
        prompts = joins.find(batch["prompt_id"], prompt_ids)
        n_responses += np.bincount(prompts, minlength=len(prompt_ids))
        np.maximum.at(longest, prompts, batch["response_ids"].value_lengths().to_numpy())
    return n_responses, longest


def _responses(
    pool: artifacts.Artifact, prompt_ids: pa.Array, mine: Sequence[int]
) -> tuple[ndarray, list[str], Ragged]:
    """Return prompt, response id and tokens of the responses to some of the prompts, in the order of the pool."""
    import numpy as np

    from selfcontrast.ragged import Ragged

    is_mine = np.isin(np.arange(len(prompt_ids)), mine)
    owners, tokens = [np.zeros(0, np.int64)], []
    response_ids: list[str] = []
    for batch in pool.batches("responses.parquet", ["prompt_id", "response_id", "response_ids"]):
        prompts = joins.find(batch["prompt_id"], prompt_ids)
        rows = np.flatnonzero(is_mine[prompts])
        owners.append(prompts[rows])
        response_ids += map(sys.intern, batch["response_id"].take(rows).to_pylist())
        tokens.append(batch["response_ids"].take(rows))
    return np.concatenate(owners), response_ids, Ragged(tokens)


def _batches(lengths: ndarray, costs: ndarray) -> list[list[int]]:
    """Return batches of prompts, those of like length together."""
    batches: list[list[int]] = []
    size = 0
    for prompt in lengths.argsort(kind="stable").tolist():
        if not batches or size + costs[prompt] > TOKENS_PER_BATCH:
            batches.append([])
            size = 0
        batches[-1].append(prompt)
        size += int(costs[prompt])
    return batches


if __name__ == "__main__":
    cli.leave(main())
