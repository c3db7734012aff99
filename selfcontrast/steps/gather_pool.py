"""Join the shards of a pool into one table in prompt order, and count what is remarkable.

In: shards. Out: responses.parquet. CPU, seconds.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import artifacts, cli
from selfcontrast.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument(
        "--shards", type=Path, nargs="+", required=True, metavar="MANIFEST", help="of the step generate_shard"
    )
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the pool."""
    order = step.open(args.prompts).table("pool.parquet", ["prompt_id", "target"])
    rows = []
    # Not noted as inputs: the pool is the same for any number of shards, and so is its manifest.
    shards = [artifacts.Artifact.open(manifest) for manifest in args.shards]
    for shard in shards:
        made_from = shard.manifest["inputs"]
        if made_from != shards[0].manifest["inputs"] or any(made_from.get(k) != v for k, v in step.inputs.items()):
            raise InputError(
                "a shard of the pool is stale: it belongs to other prompts, or to another policy than the first one",
                where=str(shard.manifest_path),
                remedy="delete that file's folder and run snakemake again",
            )
        table = shard.table("shard.parquet")
        rows += [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    if twice := [key for key, n in Counter((r["prompt_id"], r["response_id"]) for r in rows).items() if n > 1]:
        raise InputError(
            "two shards hold the same response",
            found=f"{len(twice)}, among them {twice[0][1]} of prompt {twice[0][0]}",
            where=str(args.shards[0]),
            remedy="delete the folder shards/ of the pool and run snakemake again",
        )
    place = {prompt_id: i for i, prompt_id in enumerate(order["prompt_id"])}
    if unknown := {r["prompt_id"] for r in rows} - set(place):
        raise InputError(
            "shards hold prompts that are not in the split",
            found=", ".join(sorted(unknown)[:3]),
            remedy="delete the pool's folder and run snakemake again",
        )
    rows.sort(key=lambda r: (place[r["prompt_id"]], int(r["response_id"].rsplit(".", 1)[1])))
    columns = ("prompt_id", "response_id", "text", "response_ids", "finish")
    step.write_table("responses.parquet", {key: [r[key] for r in rows] for key in columns})
    targets = dict(zip(order["prompt_id"], order["target"], strict=True))
    distinct = Counter(pid for pid, _ in {(r["prompt_id"], r["text"]) for r in rows})
    step.report = {
        "prompts": len(place),
        "responses": len(rows),
        "prompts_without_response": len(place) - len(distinct),
        "distinct_texts": sum(distinct.values()),
        "empty": sum(not r["text"].strip() for r in rows),
        "equal_to_target": sum(r["text"].strip() == targets[r["prompt_id"]].strip() for r in rows),
        "cut_by_length": sum(r["finish"] == "length" for r in rows),
    }


if __name__ == "__main__":
    cli.leave(main())
