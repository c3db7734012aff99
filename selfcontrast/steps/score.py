"""Score every response of a table with one scorer, and the SFT target of its prompt too.

In: responses (of a pool, or a policy's answers to held-out prompts), the split of their prompts. Out: scores.parquet, where
the target of a prompt has the response id `target`. One GPU for large embedding or reward models; CPU for `tiny`. Finished
blocks are kept until the table is written.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfcontrast import cli
from selfcontrast.records import TARGET
from selfcontrast.scoring import Scorer
from selfcontrast.stored_pools import StoredPools, by_prompt

PROMPTS_AT_A_TIME = 128
"""Prompts whose responses are in memory together when the scores are written."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--split", required=True, help="split that the responses answer")
    parser.add_argument(
        "--responses", type=Path, required=True, metavar="MANIFEST", help="of the step gather_pool or respond"
    )
    cli.add_model_flags(parser)
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the scores."""
    split = step.open(args.prompts).table(f"{args.split}.parquet", ["prompt_id", "prompt", "target"])
    responses = step.open(args.responses).path("responses.parquet")
    pools = StoredPools(split["prompt_id"], split["target"], responses, with_target=True)
    counts: Counter[str] = Counter()
    scorer = Scorer.open(step, args)
    scores = scorer.score(pools, split["prompt"], counts)
    n_responses = 0
    texts: set[bytes] = set()
    answers = by_prompt(split["prompt_id"], responses, ["response_id", "text"])
    rows = zip(split["prompt_id"], answers, scores, strict=True)
    columns = ("prompt_id", "response_id", "score")
    with step.table_writer("scores.parquet", columns) as writer:
        while some := list(itertools.islice(rows, PROMPTS_AT_A_TIME)):
            table: dict[str, list[Any]] = {name: [] for name in columns}
            for prompt_id, mine, numbers in some:
                table["prompt_id"] += [prompt_id] * len(numbers)
                table["response_id"] += [*(response_id for response_id, _ in mine), TARGET]
                table["score"] += numbers
                n_responses += len(mine)
                texts.update(_fingerprint(text) for _, text in mine)
            writer.write(table)
    scorer.chunks.remove()
    step.report = {"prompts": len(pools), "responses": n_responses, "distinct_texts": len(texts), **counts}
    step.report |= cli.commit_of(step, args.fetched)


def _fingerprint(text: str) -> bytes:
    """Return 16 bytes that stand for a text: a pool of the paper has gigabytes of them."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


if __name__ == "__main__":
    cli.leave(main())
