"""Parquet files: written in row groups of one size, read as lists, as Arrow, or a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 4_096
"""Rows of a row group: what a reader has to hold at least, and a writer collects."""

BATCH_ROWS = 4_096
"""Rows that are read together."""

BUFFER_BYTES = 1 << 18
"""Bytes of a column that are read ahead: without a limit, a reader takes the whole row group at once."""


def write(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of equal length; types follow the values, but for lists of token ids and of log-probabilities."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def holds_ids(name: str, values: Sequence[Any]) -> bool:
        return name.endswith("ids") and all(isinstance(v, list) for v in values)

    kinds = {n: _kind(n) if n == "token_logps" or holds_ids(n, values) else None for n, values in columns.items()}
    table = pa.table({name: pa.array(values, type=kinds[name]) for name, values in columns.items()})
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)


def schema(columns: Sequence[str]) -> pa.Schema:
    """Return the types of columns, which follow their names."""
    import pyarrow as pa

    return pa.schema([(name, _kind(name)) for name in columns])


class Writer:
    """Writes rows as they come; the bytes are those of ``write``, however the rows were divided.

    Types are those of ``schema``.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Open the file; ``close`` must be called in the end."""
        import pyarrow.parquet as pq

        self._schema = schema(columns)
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._held: list[pa.Table] = []
        self._n_held = 0

    def write(self, rows: pa.Table | Mapping[str, Any]) -> None:
        """Add rows, as a table or as columns by name."""
        import pyarrow as pa

        if not isinstance(rows, pa.Table):
            rows = pa.table({f.name: pa.array(rows[f.name], f.type) for f in self._schema})
        self._held.append(rows.select(self._schema.names).cast(self._schema))
        self._n_held += rows.num_rows
        if self._n_held >= ROW_GROUP:
            held = pa.concat_tables(self._held)
            whole = self._n_held // ROW_GROUP * ROW_GROUP
            for start in range(0, whole, ROW_GROUP):
                self._put(held[start : start + ROW_GROUP])
            self._held, self._n_held = [held[whole:]], self._n_held - whole

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        import pyarrow as pa

        try:
            if self._n_held:
                self._put(pa.concat_tables(self._held))
        finally:
            self._file.close()

    def _put(self, rows: pa.Table) -> None:
        self._file.write_table(rows.combine_chunks(), row_group_size=ROW_GROUP)


def _kind(name: str) -> pa.DataType:
    import pyarrow as pa

    if name == "token_logps":
        return pa.list_(pa.float32())
    if name.endswith("ids"):
        return pa.list_(pa.int32())
    if name == "rejected":
        return pa.list_(pa.string())
    return pa.float64() if name in ("score", "logp") else pa.string()


def read(path: Path, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Return columns as lists."""
    table = read_arrow(path, columns)
    return {name: table.column(name).to_pylist() for name in table.column_names}


def read_arrow(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return columns as Arrow: a tenth of the memory of lists of numbers."""
    import pyarrow.parquet as pq

    with _readable(path):
        return pq.read_table(path, columns=list(columns) if columns else None)


def read_batches(path: Path, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Yield columns, at most ``rows`` rows at a time; of the file no more than a few pages of each column is held."""
    import pyarrow.parquet as pq

    with _readable(path), pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
        yield from file.iter_batches(rows, columns=list(columns))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise InputError(
            "a file is missing", where=str(path), remedy="run snakemake again; it makes what is missing"
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            "a parquet file is damaged", found=str(error), where=str(path), remedy="delete it and run snakemake again"
        ) from None
