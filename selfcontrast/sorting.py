"""Rows in a random but fixed order, sorted on disk: memory holds a small part of them, however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import pyarrow as pa

PLACE = "place"
"""Column by which rows are sorted: a whole number below 2**63, spread evenly, as `derive_seed` gives it."""

_BITS = 6  # rows go to 2**6 files by the first bits of their place: one of them is in memory at a time
_ROWS_TOGETHER = 1024  # that are in memory as Python objects


class SortedRows:
    """Collects rows, then gives them back by their place; rows with the same place by ``tie``.

    Rows are added in a ``with`` block, and read after it.

    Args:
        folder: is made, and holds the rows; whoever gives it removes it.
        schema: columns of the rows, without the place.
        tie: column of texts that are unique.
    """

    def __init__(self, folder: Path, schema: pa.Schema, *, tie: str) -> None:
        import pyarrow as pa

        folder.mkdir(parents=True)
        self._paths = [folder / f"{i:02}.arrow" for i in range(1 << _BITS)]
        self._schema = schema.append(pa.field(PLACE, pa.int64()))
        self._by = [(PLACE, "ascending"), (tie, "ascending")]
        self._counts = [0] * len(self._paths)
        self._held: list[Mapping[str, Any]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Open the files."""
        import pyarrow as pa

        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._writers = [
            self._stack.enter_context(pa.ipc.new_stream(str(path), self._schema, options=options))
            for path in self._paths
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        with self._stack:
            self._put_down()

    def __len__(self) -> int:
        """Return the number of rows, once the block has ended."""
        return sum(self._counts)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row, with all columns and its place."""
        self._held.append(row)
        if len(self._held) == _ROWS_TOGETHER:
            self._put_down()

    def _put_down(self) -> None:
        import pyarrow as pa

        parts: dict[int, list[Mapping[str, Any]]] = {}
        for row in self._held:
            parts.setdefault(row[PLACE] >> (63 - _BITS), []).append(row)
        for i, part in parts.items():
            self._writers[i].write_batch(pa.RecordBatch.from_pylist(part, schema=self._schema))
            self._counts[i] += len(part)
        self._held = []

    def between(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the rows from number ``start`` up to ``stop`` of the whole order, some at a time, without their place."""
        import pyarrow as pa

        first = 0
        for path, count in zip(self._paths, self._counts, strict=True):
            if count and start < first + count and first < stop:
                with pa.ipc.open_stream(str(path)) as stream:
                    part = stream.read_all().sort_by(self._by).drop_columns(PLACE)
                skipped = max(0, start - first)
                yield part.slice(skipped, stop - first - skipped)
            first += count
