"""Join the shards of a pool into one table in prompt order, and count what is remarkable.

In: shards. Out: responses.parquet. CPU, seconds.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfcontrast import artifacts, cli, joins, parquet
from selfcontrast.errors import InputError
from selfcontrast.records import UNREADABLE
from selfcontrast.texts import is_blank

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
    opened = _open(args.shards, step)
    shards = [shard.path("shard.parquet") for shard in opened]
    by_shard, prompt = _places(shards, split["prompt_id"].combine_chunks())
    counts: Counter[str] = Counter()
    pieces = np.arange(PROMPTS_AT_A_TIME, len(split) + PROMPTS_AT_A_TIME, PROMPTS_AT_A_TIME)
    cuts = [int(c) for c in np.unique(np.searchsorted(prompt, pieces)) if c]
    start = 0
    with step.table_writer("responses.parquet", COLUMNS) as writer:
        for rows, end in zip(joins.merge(shards, by_shard, cuts, COLUMNS), cuts, strict=True):
            writer.write(rows)
            targets = split["target"].take(prompt[start:end]).to_pylist()
            counts += _count(prompt[start:end].tolist(), rows["text"].to_pylist(), targets, rows["finish"].to_pylist())
            start = end
    n_answered = len(np.unique(prompt))
    step.report = {
        "prompts": len(split),
        "responses": len(prompt),
        "prompts_without_response": len(split) - n_answered,
        **{key: counts[key] for key in COUNTED},
    }
    if unreadable := sum(shard.manifest.get("report", {}).get(UNREADABLE, 0) for shard in opened):
        step.report[UNREADABLE] = unreadable


def _open(manifests: Sequence[Path], step: cli.Step) -> list[artifacts.Artifact]:
    """Return the shards.

    They are not noted as inputs: the pool is the same for any number of shards, and so is its manifest.
    """
    shards = [artifacts.Artifact.open(manifest) for manifest in manifests]
    for shard in shards:
        step.join_template(shard.manifest.get("template_sha256"), where=str(shard.manifest_path))
        made_from = shard.manifest["inputs"]
        if made_from != shards[0].manifest["inputs"] or any(made_from.get(k) != v for k, v in step.inputs.items()):
            raise InputError(
                "a shard of the pool is stale: it belongs to other prompts, or to another policy than the first one",
                where=str(shard.manifest_path),
                remedy="delete that file's folder and run snakemake again",
            )
    return shards


def _places(shards: Sequence[Path], prompt_ids: pa.Array) -> tuple[list[ndarray], ndarray]:
    """Return the place in the pool of each row of each shard, and the place in the split of each row's prompt."""
    import numpy as np

    prompts, numbers = ([np.zeros(0, np.int64)] for _ in range(2))
    sizes: list[int] = []
    unknown: set[str] = set()
    names: dict[int, str] = {}
    for path in shards:
        sizes.append(0)
        for batch in parquet.read_batches(path, ["prompt_id", "response_id"]):
            prompts.append(joins.find(batch["prompt_id"], prompt_ids))
            unknown.update(batch["prompt_id"].filter(prompts[-1] < 0).to_pylist())
            ids = batch["response_id"].dictionary_encode()
            counted = {name: int(name.rsplit(".", 1)[1]) for name in ids.dictionary.to_pylist()}
            names |= {n: name for name, n in counted.items()}
            numbers.append(np.array(list(counted.values()))[ids.indices.to_numpy()])
            sizes[-1] += len(batch)
    if unknown:
        raise InputError(
            "shards hold prompts that are not in the split",
            found=", ".join(sorted(unknown)[:3]),
            remedy="delete the pool's folder and run snakemake again",
        )
    prompt, number = np.concatenate(prompts), np.concatenate(numbers)
    order = np.lexsort([number, prompt])
    prompt, number = prompt[order], number[order]
    if (twice := np.flatnonzero((np.diff(prompt) == 0) & (np.diff(number) == 0))).size:
        raise InputError(
            "two shards hold the same response",
            found=f"{len(twice)}, among them {names[int(number[twice[0]])]} of prompt {prompt_ids[prompt[twice[0]]]}",
            where=str(shards[0]),
            remedy=joins.REMEDY,
        )
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return np.split(places, np.cumsum(sizes)[:-1]), prompt


def _count(prompts: list[int], texts: list[str], targets: list[str], finish: list[str]) -> Counter[str]:
    """Count what is remarkable among whole prompts."""
    return Counter(
        distinct_texts=len(set(zip(prompts, texts, strict=True))),
        empty=sum(map(is_blank, texts)),
        equal_to_target=sum(t.strip() == target.strip() for t, target in zip(texts, targets, strict=True)),
        cut_by_length=sum(f == "length" for f in finish),
    )


if __name__ == "__main__":
    cli.leave(main())
