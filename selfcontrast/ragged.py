"""Rows of numbers of different lengths (token ids, log-probabilities), held in few arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy import ndarray


class Ragged:
    """Rows of numbers; four bytes a token, where a list takes thirty-six.

    Attributes:
        lengths: numbers in each row, ``(rows,)``.
    """

    def __init__(self, columns: Iterable[pa.ListArray]) -> None:
        """Take over the rows of Arrow's columns of lists, one behind the other; their numbers are not copied."""
        import numpy as np

        self._parts: list[ndarray] = []
        lengths = [np.zeros(0, np.int64)]
        for column in columns:
            self._parts.append(column.flatten().to_numpy(zero_copy_only=False))
            lengths.append(column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))
        rows = [len(n) for n in lengths[1:]]
        self.lengths = np.concatenate(lengths)
        self._part = np.repeat(np.arange(len(rows), dtype=np.int32), rows)
        self._start = np.concatenate([np.zeros(0, np.int64), *(n.cumsum() - n for n in lengths[1:])])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def __getitem__(self, row: int) -> ndarray:
        """Return the numbers of a row, as a view."""
        start = self._start[row]
        numbers: ndarray = self._parts[self._part[row]][start : start + self.lengths[row]]
        return numbers

    def take(self, rows: ndarray) -> Ragged:
        """Return these rows in this order; their numbers are not copied."""
        taken = Ragged(())
        taken._parts, taken._part = self._parts, self._part[rows]
        taken._start, taken.lengths = self._start[rows], self.lengths[rows]
        return taken
