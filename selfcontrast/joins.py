"""Joins over the rows of a pool that hold no text and no token as a Python object: rows by key, and tables from shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfcontrast import parquet
from selfcontrast.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy import ndarray

REMEDY = "delete the folder of the shards and run snakemake again"

SHARD_ROWS = 128
"""Rows that are read together of each shard: all shards are open at once."""


def find(values: pa.Array, among: pa.Array) -> ndarray:
    """Return the place of each value among others, -1 where it is not there, ``(values,)``."""
    import numpy as np
    import pyarrow.compute as pc

    places: ndarray = pc.index_in(values, value_set=among).fill_null(-1).to_numpy(zero_copy_only=False)
    return places.astype(np.int64)


class Keys:
    """A number for each pair of a prompt and a response id, ordered by prompt and then by response id as given."""

    def __init__(self, prompt_ids: Sequence[str], response_ids: Sequence[str]) -> None:
        """Take the ids that have a number."""
        import pyarrow as pa

        self._prompt_ids = pa.array(prompt_ids, pa.string())
        self._response_ids = pa.array(response_ids, pa.string())

    def numbers(self, rows: pa.RecordBatch | pa.Table) -> ndarray:
        """Return the number of each row by its ``prompt_id`` and ``response_id``; -1 where one of them is unknown."""
        import numpy as np

        prompt = find(rows["prompt_id"], self._prompt_ids)
        response = find(rows["response_id"], self._response_ids)
        return np.where((prompt < 0) | (response < 0), -1, prompt * len(self._response_ids) + response)

    def name(self, number: int) -> str:
        """Return a key in words."""
        prompt, response = divmod(int(number), len(self._response_ids))
        return f"{self._response_ids[response]} of prompt {self._prompt_ids[prompt]}"


def pick(
    batches: Iterable[pa.RecordBatch], keys: Keys, wanted: ndarray, columns: Sequence[str]
) -> tuple[ndarray, dict[str, list[pa.Array]]]:
    """Return the rows with the wanted keys, in one pass.

    Args:
        wanted: numbers of keys, ascending.

    Returns:
        For each wanted key the row in which it was found (the last one), -1 if in none; and these rows, column by column.
    """
    import numpy as np
    import pyarrow as pa

    row = np.full(len(wanted), -1)
    found: dict[str, list[pa.Array]] = {name: [] for name in columns}
    n = 0
    for batch in batches:
        numbers = keys.numbers(batch)
        place = np.searchsorted(wanted, numbers).clip(max=len(wanted) - 1)
        hit = wanted[place] == numbers
        row[place[hit]] = np.arange(n, n + hit.sum())
        n += int(hit.sum())
        kept = batch.filter(pa.array(hit))
        for name in columns:
            found[name].append(kept[name])
    return row, found


def merge(
    tables: Sequence[Path], places: Sequence[ndarray], cuts: Iterable[int], columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Yield the rows of several tables in the order of their places, piece by piece, with one piece in memory.

    Args:
        places: the place of each row in the whole, for each table; together every number from 0 once.
        cuts: places at which pieces end, ascending; the last is the number of rows.

    Raises:
        InputError: the places of a table do not ascend: it would have to be held as a whole.
    """
    import numpy as np
    import pyarrow as pa

    for path, mine in zip(tables, places, strict=True):
        if (np.diff(mine) <= 0).any():
            raise InputError("a shard is not in the order of the prompts", where=str(path), remedy=REMEDY)
    readers = [_Reader(parquet.read_batches(path, columns, SHARD_ROWS)) for path in tables]
    taken = [0] * len(tables)
    start = 0
    for end in cuts:
        pieces, whereto = [], []
        for i, mine in enumerate(places):
            stop = int(np.searchsorted(mine, end))
            pieces += readers[i].take(stop - taken[i])
            whereto.append(mine[taken[i] : stop])
            taken[i] = stop
        order = np.argsort(np.concatenate(whereto))
        assert len(order) == end - start, "every place is filled once"
        yield pa.Table.from_batches(pieces).take(pa.array(order))
        start = end


class _Reader:
    """Rows of one table from front to back."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._rest: pa.RecordBatch | None = None

    def take(self, n: int) -> list[pa.RecordBatch]:
        """Return the next n rows."""
        taken = []
        while n:
            batch = next(self._batches) if self._rest is None else self._rest
            taken.append(batch[:n])
            self._rest = batch[n:] if n < len(batch) else None
            n -= len(taken[-1])
        return taken
