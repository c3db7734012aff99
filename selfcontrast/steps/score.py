"""Score every response of a table with one scorer, and the SFT target of its prompt too.

In: responses (of a pool, or a policy's answers to held-out prompts), the split of their prompts. Out: scores.parquet, where
the target of a prompt has the response id `target`. One GPU for large embedding or reward models; CPU for `tiny`.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import cli, plugins
from selfcontrast.stored_pools import StoredPools


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--split", required=True, help="split that the responses answer")
    parser.add_argument(
        "--responses", type=Path, required=True, metavar="MANIFEST", help="of the step gather_pool or respond"
    )
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the scores."""
    spec = step.spec
    split = step.open(args.prompts).table(f"{args.split}.parquet", ["prompt_id", "prompt", "target"])
    responses = step.open(args.responses).path("responses.parquet")
    pools = StoredPools(split["prompt_id"], split["target"], responses, with_target=True)
    scorer = plugins.load("scorers", spec["kind"])
    scores = scorer.score(pools, split["prompt"], scorer.Params(**spec["params"]))
    n_responses = 0
    texts: set[bytes] = set()
    with step.table_writer("scores.parquet", ("prompt_id", "response_id", "score")) as writer:
        for pool, row in zip(pools, scores, strict=True):
            ids = [a.response_id for a in pool.answers]
            numbers = [float(s) for s in row]
            writer.write({"prompt_id": [pool.prompt_id] * len(ids), "response_id": ids, "score": numbers})
            n_responses += len(ids) - 1
            texts.update(_fingerprint(a.text) for a in pool.answers[:-1])
    step.report = {"prompts": len(pools), "responses": n_responses, "distinct_texts": len(texts)}


def _fingerprint(text: str) -> bytes:
    """Return 16 bytes that stand for a text: a pool of the paper has gigabytes of them."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


if __name__ == "__main__":
    cli.leave(main())
