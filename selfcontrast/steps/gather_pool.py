"""Join the shards of a pool into one table in prompt order, and count what is remarkable.

In: shards. Out: responses.parquet. CPU, seconds.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfcontrast import artifacts, cli, joins, parquet
from selfcontrast.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy import ndarray

COLUMNS = ("prompt_id", "response_id", "text", "response_ids", "finish")
COUNTED = ("distinct_texts", "empty", "equal_to_target", "cut_by_length")
PROMPTS_AT_A_TIME = 128
"""Prompts whose responses are in memory together."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument(
        "--shards", type=Path, nargs="+", required=True, metavar="MANIFEST", help="of the step generate_shard"
    )
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the pool. Texts and tokens pass through a few prompts at a time; of every row only its place is held."""
    import numpy as np

    split = step.open(args.prompts).arrow("pool.parquet", ["prompt_id", "target"])
    # Not noted as inputs: the pool is the same for any number of shards, and so is its manifest.
    shards: list[Path] = []
    first: dict[str, str] = {}
    for manifest in args.shards:
        shard = artifacts.Artifact.open(manifest)
        _check_origin(shard, step.inputs if not shards else first)
        first = shard.manifest["inputs"]
        step.join_template(shard.manifest.get("template_sha256"), where=str(manifest))
        shards.append(shard.path("shard.parquet"))
    prompts, numbers = _keys(shards, split["prompt_id"].combine_chunks())
    order = np.lexsort([np.concatenate(numbers), np.concatenate(prompts)])
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    prompt = np.concatenate(prompts)[order]  # of each row of the pool
    if (same := (np.diff(prompt) == 0) & (np.diff(np.concatenate(numbers)[order]) == 0)).any():
        raise InputError(
            "shards hold a response twice",
            found=f"{same.sum()} responses, among them one to prompt {split['prompt_id'][prompt[same.argmax()]]}",
            where=str(args.shards[0]),
            remedy=joins.REMEDY,
        )
    counts: Counter[str] = Counter()
    pieces = np.arange(PROMPTS_AT_A_TIME, len(split) + PROMPTS_AT_A_TIME, PROMPTS_AT_A_TIME)
    cuts = [int(c) for c in np.unique(np.searchsorted(prompt, pieces)) if c]
    start = 0
    with step.table_writer("responses.parquet", COLUMNS) as writer:
        by_shard = np.split(places, np.cumsum([len(p) for p in prompts])[:-1])
        for rows, end in zip(joins.merge(shards, by_shard, cuts, COLUMNS), cuts, strict=True):
            writer.write(rows)
            targets = split["target"].take(prompt[start:end]).to_pylist()
            counts += _count(prompt[start:end].tolist(), rows["text"].to_pylist(), targets, rows["finish"].to_pylist())
            start = end
    n_answered = len(np.unique(prompt))
    step.report = {
        "prompts": len(split),
        "responses": len(order),
        "prompts_without_response": len(split) - n_answered,
        **{key: counts[key] for key in COUNTED},
    }


def _check_origin(shard: artifacts.Artifact, expected: Mapping[str, str]) -> None:
    """Raise InputError if a shard was made from another state of an input."""
    if any(shard.manifest["inputs"].get(name, digest) != digest for name, digest in expected.items()):
        raise InputError(
            "a shard of the pool is stale: it belongs to other prompts, or to another policy than the first one",
            where=str(shard.manifest_path),
            remedy="delete that file's folder and run snakemake again",
        )


def _keys(shards: Sequence[Path], prompt_ids: pa.Array) -> tuple[list[ndarray], list[ndarray]]:
    """Return the place of its prompt and its own number, for each row of each shard."""
    import numpy as np

    prompts, numbers = [], []
    unknown: set[str] = set()
    for path in shards:
        found, counted = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for batch in parquet.read_batches(path, ["prompt_id", "response_id"]):
            found.append(joins.find(batch["prompt_id"], prompt_ids))
            unknown.update(batch["prompt_id"].filter(found[-1] < 0).to_pylist())
            ids = batch["response_id"].dictionary_encode()
            number = np.array([int(i.rsplit(".", 1)[1]) for i in ids.dictionary.to_pylist()])
            counted.append(number[ids.indices.to_numpy()])
        prompts.append(np.concatenate(found))
        numbers.append(np.concatenate(counted))
    if unknown:
        raise InputError(
            "shards hold prompts that are not in the split",
            found=", ".join(sorted(unknown)[:3]),
            remedy="delete the pool's folder and run snakemake again",
        )
    return prompts, numbers


def _count(prompts: list[int], texts: list[str], targets: list[str], finish: list[str]) -> Counter[str]:
    """Count what is remarkable among whole prompts."""
    return Counter(
        distinct_texts=len(set(zip(prompts, texts, strict=True))),
        empty=sum(not t.strip() for t in texts),
        equal_to_target=sum(t.strip() == target.strip() for t, target in zip(texts, targets, strict=True)),
        cut_by_length=sum(f == "length" for f in finish),
    )


if __name__ == "__main__":
    cli.leave(main())
