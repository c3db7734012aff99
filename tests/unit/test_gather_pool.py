"""The shards of a pool become one table in prompt order, or an error that names what is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from selfcontrast import artifacts, cli
from selfcontrast.errors import InputError
from selfcontrast.steps import gather_pool

KEYS = [("a", "sft.0"), ("a", "sft.1"), ("b", "sft.0"), ("b", "sft.1"), ("c", "sft.0"), ("c", "sft.1")]


def write_step(manifest: Path, table: str, columns: dict[str, Any], inputs: dict[str, str]) -> Path:
    artifacts.write_table(manifest.parent / table, columns)
    outputs = {table: artifacts.sha256(manifest.parent / table)}
    artifacts.write_json(manifest, {"step": "x", "inputs": inputs, "outputs": outputs, "report": {}})
    return manifest


def write_shards(folder: Path, parts: list[list[tuple[str, str]]], **inputs_of_last: str) -> argparse.Namespace:
    columns = {"prompt_id": ["a", "b", "c"], "target": ["A", "B", "C"]}
    prompts = write_step(folder / "m/prompts/manifest.json", "pool.parquet", columns, {})
    shards = []
    for i, keys in enumerate(parts, 1):
        table = {
            "prompt_id": [k[0] for k in keys],
            "response_id": [k[1] for k in keys],
            "text": [f"{k[0]}{k[1]}" for k in keys],
            "response_ids": [[3, 2] for _ in keys],
            "finish": ["stop" for _ in keys],
        }
        inputs = {"m/prompts": artifacts.sha256(prompts), "m/sft": "1" * 64}
        inputs |= inputs_of_last if i == len(parts) else {}
        shards.append(write_step(folder / f"{i}-of-{len(parts)}/manifest.json", "shard.parquet", table, inputs))
    return argparse.Namespace(prompts=prompts, shards=shards)


def gather(args: argparse.Namespace, folder: Path) -> list[tuple[str, str]]:
    gather_pool.work(args, cli.Step({}, folder / "manifest.json"))
    found = artifacts.read_table(folder / "responses.parquet")
    return list(zip(found["prompt_id"], found["response_id"], strict=True))


@pytest.mark.parametrize(
    "parts", [[KEYS], [KEYS[4:], KEYS[:4]], [KEYS[:2], [], KEYS[2:]]], ids=["one", "turned", "empty"]
)
def test_the_pool_is_the_same_for_any_shards(tmp_path: Path, parts: list[list[tuple[str, str]]]) -> None:
    assert gather(write_shards(tmp_path, parts), tmp_path) == KEYS


def test_a_corrupt_shard_is_named_with_its_remedy(tmp_path: Path) -> None:
    args = write_shards(tmp_path, [KEYS[:4], KEYS[4:]])
    table = tmp_path / "2-of-2/shard.parquet"
    table.write_bytes(table.read_bytes()[:-9] + b"corrupted")
    with pytest.raises(InputError, match=r"(?s)changed or damaged.*2-of-2/shard.parquet.*run snakemake again"):
        gather(args, tmp_path)


def test_a_manifest_that_was_cut_is_named_with_its_remedy(tmp_path: Path) -> None:
    args = write_shards(tmp_path, [KEYS])
    args.shards[0].write_text("{")
    with pytest.raises(InputError, match=r"(?s)not valid JSON.*1-of-1/manifest.json.*run snakemake again"):
        gather(args, tmp_path)


@pytest.mark.parametrize("name", ["m/prompts", "m/sft"])
def test_a_shard_of_other_prompts_or_of_another_policy_is_stale(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"(?s)shard of the pool is stale.*2-of-2"):
        gather(write_shards(tmp_path, [KEYS[:4], KEYS[4:]], **{name: "0" * 64}), tmp_path)


def test_a_response_in_two_shards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)hold the same response.*1, among them sft\.1 of prompt b"):
        gather(write_shards(tmp_path, [KEYS[:4], KEYS[3:]]), tmp_path)


def test_a_prompt_that_is_not_in_the_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not in the split"):
        gather(write_shards(tmp_path, [[*KEYS, ("d", "sft.0")]]), tmp_path)
