"""Join the shards of the reference's log-probabilities into one table, one row for each response of the pool.

In: shards, the split pool, the pool, the reference. Out: logps.parquet, keyed by (prompt, response). CPU, seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import artifacts, cli
from selfcontrast.errors import InputError
from selfcontrast.records import ELSEWHERE, TARGET

COLUMNS = ("prompt_id", "response_id", "logp", "token_logps")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--pool", type=Path, required=True, metavar="MANIFEST", help="of the step gather_pool")
    parser.add_argument("--reference", type=Path, required=True, metavar="MANIFEST", help="of the frozen policy")
    parser.add_argument(
        "--shards", type=Path, nargs="+", required=True, metavar="MANIFEST", help="of the step ref_logps"
    )
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the table, in the order of prompts and pool."""
    prompts = step.open(args.prompts).table("pool.parquet", ["prompt_id"])["prompt_id"]
    pool = step.open(args.pool).table("responses.parquet", ["prompt_id", "response_id"])
    step.open(args.reference)
    answers: dict[str, list[str]] = {prompt_id: [TARGET, ELSEWHERE] for prompt_id in prompts}
    for prompt_id, response_id in zip(pool["prompt_id"], pool["response_id"], strict=True):
        answers[prompt_id].append(response_id)
    found: dict[tuple[str, str], tuple[float, list[float]]] = {}
    for manifest in args.shards:
        # Not noted as inputs: the table is the same for any number of shards, and so is its manifest.
        shard = artifacts.Artifact.open(manifest)
        step.join_template(shard.manifest.get("template_sha256"), where=str(manifest))
        if shard.manifest["inputs"] != step.inputs:
            raise InputError(
                "log-probabilities are stale: they belong to other prompts, another pool or another reference",
                where=str(manifest),
                remedy="delete that file's folder and run snakemake again",
            )
        rows = zip(*shard.table("shard.parquet", list(COLUMNS)).values(), strict=True)
        found |= {(prompt_id, response_id): (logp, tokens) for prompt_id, response_id, logp, tokens in rows}
    keys = [(prompt_id, response_id) for prompt_id, ids in answers.items() for response_id in ids]
    if missing := [k for k in keys if k not in found]:
        raise InputError(
            "responses have no log-probability",
            found=f"{len(missing)}, among them {missing[0][1]} of prompt {missing[0][0]}",
            where=str(args.shards[0]),
            remedy="delete that file's folder and run snakemake again",
        )
    columns = zip(*((*k, *found[k]) for k in keys), strict=True)
    step.write_table("logps.parquet", dict(zip(COLUMNS, (list(c) for c in columns), strict=True)))
    step.report = {"responses": len(keys)}


if __name__ == "__main__":
    cli.leave(main())
