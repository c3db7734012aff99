"""The shards of the reference's log-probabilities become one table, or an error that names what is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from selfcontrast import artifacts, cli
from selfcontrast.errors import InputError
from selfcontrast.records import ELSEWHERE, TARGET
from selfcontrast.steps import gather_logps

KEYS = [(p, r) for p in ("a", "b") for r in (TARGET, ELSEWHERE, "sft.0", "sft.1")]


def write_step(manifest: Path, table: str | None, columns: dict[str, Any], inputs: dict[str, str]) -> Path:
    manifest.parent.mkdir(parents=True, exist_ok=True)
    outputs = {}
    if table is not None:
        artifacts.write_table(manifest.parent / table, columns)
        outputs[table] = artifacts.sha256(manifest.parent / table)
    artifacts.write_json(manifest, {"step": "x", "inputs": inputs, "outputs": outputs, "report": {}})
    return manifest


def write_shards(folder: Path, parts: list[list[tuple[str, str]]], **inputs: str) -> argparse.Namespace:
    """Write prompts a and b, a pool of two answers to each, a reference, and shards with the given keys."""
    prompts = write_step(folder / "m/prompts/manifest.json", "pool.parquet", {"prompt_id": ["a", "b"]}, {})
    rows = [k for k in KEYS if k[1].startswith("sft.")]
    columns = {"prompt_id": [k[0] for k in rows], "response_id": [k[1] for k in rows]}
    pool = write_step(folder / "m/pools/sft/manifest.json", "responses.parquet", columns, {})
    reference = write_step(folder / "m/sft/manifest.json", None, {}, {})
    paths = {"m/prompts": prompts, "pools/sft": pool, "m/sft": reference}
    right = {name: artifacts.sha256(path) for name, path in paths.items()} | inputs
    shards = []
    for i, keys in enumerate(parts):
        values = [[-1.0 - KEYS.index(k), -0.5] for k in keys]
        table = {
            "prompt_id": [k[0] for k in keys],
            "response_id": [k[1] for k in keys],
            "logp": [sum(v) for v in values],
            "token_logps": values,
        }
        shards.append(write_step(folder / f"shards/{i}/manifest.json", "shard.parquet", table, right))
    return argparse.Namespace(prompts=prompts, pool=pool, reference=reference, shards=shards)


def gather(args: argparse.Namespace, folder: Path) -> dict[str, list[Any]]:
    gather_logps.work(args, cli.Step({}, folder / "manifest.json"))
    return artifacts.read_table(folder / "logps.parquet")


@pytest.mark.parametrize(
    "parts", [[KEYS], [KEYS[4:], KEYS[:4]], [KEYS[:4], KEYS[4:], []]], ids=["one", "turned", "three"]
)
def test_the_table_is_the_same_for_any_shards(tmp_path: Path, parts: list[list[tuple[str, str]]]) -> None:
    found = gather(write_shards(tmp_path, [p for p in parts if p]), tmp_path)
    assert list(zip(found["prompt_id"], found["response_id"], strict=True)) == KEYS
    assert found["logp"] == [-1.5 - i for i in range(len(KEYS))]
    assert found["token_logps"] == [[-1.0 - i, -0.5] for i in range(len(KEYS))]


def test_a_response_without_a_value_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1, among them sft\.1 of prompt b"):
        gather(write_shards(tmp_path, [KEYS[:-1]]), tmp_path)


@pytest.mark.parametrize("name", ["m/prompts", "pools/sft", "m/sft"])
def test_values_of_another_pool_or_reference_are_stale(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="log-probabilities are stale"):
        gather(write_shards(tmp_path, [KEYS], **{name: "0" * 64}), tmp_path)
