"""Rows by key, tables from shards and rows of tokens, against lists and dicts; and parquet that is written piece by piece."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcontrast import artifacts, joins, parquet
from selfcontrast.errors import InputError
from selfcontrast.ragged import Ragged

COLUMNS = ("prompt_id", "response_id", "text", "response_ids", "logp", "token_logps")


def rows_of(n: int, seed: int = 0) -> dict[str, list[Any]]:
    """Return n rows of three to a prompt, with texts and lists of any length, empty ones too."""
    rng = random.Random(seed)
    return {
        "prompt_id": [f"p{i // 3}" for i in range(n)],
        "response_id": [f"sft.{i % 3}" for i in range(n)],
        "text": ["ü" * rng.randrange(4) for _ in range(n)],
        "response_ids": [[rng.randrange(2**31) for _ in range(rng.randrange(4))] for _ in range(n)],
        "logp": [-rng.random() for _ in range(n)],
        "token_logps": [[-1.5] * rng.randrange(3) for _ in range(n)],
    }


def part(columns: dict[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
    return {name: [values[i] for i in rows] for name, values in columns.items()}


# Parquet in pieces


@pytest.mark.parametrize("n", [1, 6, 7, 8, 20])
@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_pieces_give_the_bytes_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, size: int) -> None:
    """Row groups of 7 rows; the pieces are written as columns, and as Arrow that was read from a file."""
    monkeypatch.setattr(parquet, "ROW_GROUP", 7)
    columns = rows_of(n)
    artifacts.write_table(tmp_path / "whole", columns)
    with artifacts.table_writer(tmp_path / "columns", COLUMNS) as writer:
        for i in range(0, n, size):
            writer.write(part(columns, list(range(n))[i : i + size]))
    with artifacts.table_writer(tmp_path / "arrow", COLUMNS) as writer:
        for batch in parquet.read_batches(tmp_path / "whole", COLUMNS, size):
            assert len(batch) <= size
            writer.write(pa.Table.from_batches([batch]))
    assert (tmp_path / "columns").read_bytes() == (tmp_path / "whole").read_bytes()
    assert (tmp_path / "arrow").read_bytes() == (tmp_path / "whole").read_bytes()
    metadata = pq.ParquetFile(tmp_path / "whole").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [7] * (n // 7) + [n % 7] * (
        n % 7 > 0
    )


def test_small_table_has_the_bytes_that_it_had_without_row_groups(tmp_path: Path) -> None:
    """The control is one row more than a row group holds."""
    for n, same in ((1000, True), (parquet.ROW_GROUP, True), (parquet.ROW_GROUP + 1, False)):
        columns = {"prompt_id": [f"p{i}" for i in range(n)], "n": list(range(n))}
        artifacts.write_table(tmp_path / "x", columns)
        pq.write_table(pa.table(columns), tmp_path / "plain", compression="zstd")
        assert ((tmp_path / "x").read_bytes() == (tmp_path / "plain").read_bytes()) is same
        assert artifacts.read_table(tmp_path / "x") == columns


def test_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    artifacts.write_table(tmp_path / "x", {"text": ["old"]})
    with pytest.raises(ZeroDivisionError), artifacts.table_writer(tmp_path / "x", ["text"]) as writer:
        writer.write({"text": ["new"]})
        raise ZeroDivisionError
    assert artifacts.read_table(tmp_path / "x") == {"text": ["old"]}
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_writer_without_rows_leaves_a_table_without_rows(tmp_path: Path) -> None:
    with artifacts.table_writer(tmp_path / "x", COLUMNS):
        pass
    assert artifacts.read_table(tmp_path / "x") == {name: [] for name in COLUMNS}
    assert list(parquet.read_batches(tmp_path / "x", COLUMNS)) == []


@pytest.mark.parametrize("content", [None, b"PAR1 no more"])
def test_file_that_cannot_be_read_in_pieces_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"missing|damaged") as error:
        next(parquet.read_batches(path, ["text"]))
    assert str(path) in str(error.value)


# Keys


def test_keys_ascend_by_prompt_and_then_by_response_and_unknown_ones_are_minus_one() -> None:
    keys = joins.Keys(["b", "a"], ["target", "sft.10", "sft.2"])
    batch = pa.record_batch(
        {
            "prompt_id": ["b", "b", "a", "a", "c", "b"],
            "response_id": ["target", "sft.2", "sft.10", "target", "target", "sft.3"],
        }
    )
    assert keys.numbers(batch).tolist() == [0, 2, 4, 3, -1, -1]
    assert [keys.name(n) for n in (2, 3)] == ["sft.2 of prompt b", "target of prompt a"]


@given(
    wanted=st.sets(st.integers(0, 19), min_size=1),
    stored=st.lists(st.integers(0, 24), unique=True),
    size=st.integers(1, 9),
)
def test_picked_rows_are_those_of_a_dict(wanted: set[int], stored: list[int], size: int) -> None:
    """Keys are 10 prompts x 2 responses; what is stored holds others too, and lacks some."""
    keys = joins.Keys([f"p{i}" for i in range(10)], ["r0", "r1"])
    columns = {
        "prompt_id": [f"p{k // 2}" for k in stored],
        "response_id": [f"r{k % 2}" for k in stored],
        "logp": [float(k) for k in stored],
    }
    schema = pa.schema([("prompt_id", pa.string()), ("response_id", pa.string()), ("logp", pa.float64())])
    batches = pa.table(columns, schema=schema).to_batches(size)
    rows, found = joins.pick(batches, keys, np.array(sorted(wanted)), ["logp"])
    values = [v for column in found["logp"] for v in column.to_pylist()]
    assert [values[r] if r >= 0 else None for r in rows] == [float(k) if k in stored else None for k in sorted(wanted)]
    assert len(values) == len(wanted & set(stored)), "nothing else is kept"


# Tables from shards


@settings(max_examples=30, deadline=None)
@given(
    owner=st.lists(st.integers(0, 2), min_size=1, max_size=40), cuts=st.sets(st.integers(1, 40)), size=st.integers(1, 5)
)
def test_merged_shards_are_the_whole_in_order(
    tmp_path_factory: pytest.TempPathFactory, owner: list[int], cuts: set[int], size: int
) -> None:
    """Rows are dealt to three shards, some of which may be empty, and cut anywhere."""
    folder, n = tmp_path_factory.mktemp("shards"), len(owner)
    columns = rows_of(n)
    places = [[i for i in range(n) if owner[i] == shard] for shard in range(3)]
    paths = [folder / f"{shard}.parquet" for shard in range(3)]
    for path, mine in zip(paths, places, strict=True):
        artifacts.write_table(path, part(columns, mine))
    ends = sorted({c for c in cuts if c < n} | {n})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joins, "SHARD_ROWS", size)
        pieces = list(joins.merge(paths, [np.array(p, np.int64) for p in places], ends, COLUMNS))
    assert [len(p) for p in pieces] == np.diff([0, *ends]).tolist()
    assert pa.concat_tables(pieces).to_pydict() == columns


def test_shard_that_is_not_in_order_is_refused(tmp_path: Path) -> None:
    artifacts.write_table(tmp_path / "x", rows_of(2))
    with pytest.raises(InputError, match="not in the order of the prompts"):
        next(joins.merge([tmp_path / "x"], [np.array([1, 0])], [2], COLUMNS))


# Rows of different lengths


@given(rows=st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)), data=st.data(), cut=st.integers(0, 10))
def test_ragged_rows_are_those_of_lists(rows: list[list[int]], data: st.DataObject, cut: int) -> None:
    """From several chunks, one of them a slice of another."""
    whole = pa.array(rows, pa.list_(pa.int32()))
    ragged = Ragged([whole[:cut], whole[cut:]])
    assert [r.tolist() for r in map(ragged.__getitem__, range(len(ragged)))] == rows
    assert ragged.lengths.tolist() == [len(r) for r in rows]
    if rows:
        order = data.draw(st.lists(st.integers(0, len(rows) - 1)))
        taken = ragged.take(np.array(order, np.int64))
        assert [taken[i].tolist() for i in range(len(taken))] == [rows[i] for i in order]
        assert taken.lengths.tolist() == [len(rows[i]) for i in order]
