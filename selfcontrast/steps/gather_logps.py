"""Join the shards of the reference's log-probabilities into one table, one row for each response of the pool.

In: shards, the split pool, the pool, the reference. Out: logps.parquet, keyed by (prompt, response). CPU, seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfcontrast import artifacts, cli, joins
from selfcontrast.errors import InputError
from selfcontrast.records import ELSEWHERE, TARGET

if TYPE_CHECKING:
    from numpy import ndarray

COLUMNS = ("prompt_id", "response_id", "logp", "token_logps")
ROWS_AT_A_TIME = 4_096
"""Rows that are in memory together."""


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
    import numpy as np

    prompts = step.open(args.prompts).table("pool.parquet", ["prompt_id"])["prompt_id"]
    pool = step.open(args.pool)
    step.open(args.reference)
    response_ids = {TARGET: 0, ELSEWHERE: 1}
    for batch in pool.batches("responses.parquet", ["response_id"]):
        response_ids |= dict.fromkeys(batch["response_id"].unique().to_pylist())
    keys = joins.Keys(prompts, list(response_ids))
    expected = _expected(pool, keys, len(prompts), len(response_ids))
    order = np.argsort(expected)
    shards, places = [], []
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
        shards.append(shard.path("shard.parquet"))
        found = [keys.numbers(b) for b in shard.batches("shard.parquet", ["prompt_id", "response_id"])]
        numbers = np.concatenate([np.zeros(0, np.int64), *found])
        places.append(order[np.searchsorted(expected, numbers, sorter=order).clip(max=len(order) - 1)])
        if (expected[places[-1]] != numbers).any():
            raise InputError(
                "a shard holds responses that are not in the pool", where=str(manifest), remedy=joins.REMEDY
            )
    times = np.bincount(np.concatenate(places), minlength=len(expected))
    if len(missing := expected[times == 0]):
        raise InputError(
            "responses have no log-probability",
            found=f"{len(missing)}, among them {keys.name(missing[0])}",
            where=str(args.shards[0]),
            remedy="delete that file's folder and run snakemake again",
        )
    if len(double := expected[times > 1]):
        raise InputError(
            "shards hold a response twice",
            found=f"{len(double)}, among them {keys.name(double[0])}",
            where=str(args.shards[0]),
            remedy=joins.REMEDY,
        )
    cuts = [*range(ROWS_AT_A_TIME, len(expected), ROWS_AT_A_TIME), len(expected)]
    with step.table_writer("logps.parquet", COLUMNS) as writer:
        for rows in joins.merge(shards, places, cuts, COLUMNS):
            writer.write(rows)
    step.report = {"responses": len(expected)}


def _expected(pool: artifacts.Artifact, keys: joins.Keys, n_prompts: int, n_ids: int) -> ndarray:
    """Return the keys of the table in its order: for each prompt its target, the one that follows, and its responses."""
    import numpy as np

    batches = pool.batches("responses.parquet", ["prompt_id", "response_id"])
    responses = np.concatenate([np.zeros(0, np.int64), *(keys.numbers(b) for b in batches)])
    own = np.arange(n_prompts) * n_ids
    together = np.concatenate([own, own + 1, responses])
    ordered: ndarray = together[np.argsort(together // n_ids, kind="stable")]
    return ordered


if __name__ == "__main__":
    cli.leave(main())
