"""Files of JSON that somebody else may have written: lines, or one array; gzipped or not, with duplicate keys refused."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from selfcontrast import file_kinds, strict_json
from selfcontrast.errors import InputError
from selfcontrast.fields import kind_of

FIX = "fix or remove the row"

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (row, line) of a text file, gzipped or not; rows count from 1, blank lines are passed over.

    Lines end at a line feed alone: U+2028 and its like are legal inside a JSON string.

    Raises:
        InputError: the file is missing, damaged, or no text in UTF-8; the message says what it is instead.
    """
    row = 0
    try:
        with _open(path) as stream:
            for row, line in enumerate(stream, 1):
                if row == 1:
                    if kind := file_kinds.other_kind(line[: file_kinds.HEAD]):
                        _refuse(path, kind)
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                if line.strip():
                    yield row, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            "a data file is damaged", found=str(error), where=f"{path}, after row {row}", remedy="fetch it again"
        ) from None


def read_values(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (row, value) of a file of JSON values, one a line."""
    for row, line in read_lines(path):
        try:
            value = strict_json.loads(line)
        except strict_json.DuplicateKeyError as error:
            raise InputError(
                "a record gives a key twice, so that one of its values would be lost",
                found=str(error),
                where=f"{path}, row {row}",
                remedy=FIX,
            ) from None
        except ValueError as error:
            _not_json(path, row, line, error)
        if isinstance(value, list) and [r for r, _ in _first(path, 2)] == [row]:
            _refuse(path, file_kinds.ARRAY)
        yield row, value


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row, record) of a file of JSON objects, one a line."""
    for row, record in read_values(path):
        if not isinstance(record, dict):
            raise InputError(
                "a record is not a JSON object",
                found=kind_of(record),
                where=f"{path}, row {row}",
                remedy=FIX,
            )
        yield row, record


def read_lines_or_array(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, record) of JSON lines or of one JSON array, as files of benchmarks are; places are as in ``row 12``.

    Raises:
        InputError: it is neither, or an entry of the array is not an object.
    """
    if not _is_array(path):
        yield from ((f"row {row}", record) for row, record in read_jsonl(path))
        return
    with _open(path) as stream:
        content = stream.read()
    try:
        records = strict_json.loads(content.removeprefix(_BYTE_ORDER_MARK))
    except UnicodeDecodeError as error:
        raise InputError(
            "a file is not text in UTF-8", found=str(error), where=str(path), remedy="convert the file to UTF-8"
        ) from None
    except ValueError as error:
        what = "gives a key twice" if isinstance(error, strict_json.DuplicateKeyError) else "is not valid JSON"
        raise InputError(f"a file {what}", found=str(error), where=str(path), remedy="fix the file") from None
    for i, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise InputError(
                "an entry of a JSON array is not an object",
                found=kind_of(record),
                where=f"{path}, entry {i}",
                remedy="fix or remove the entry",
            )
        yield f"entry {i}", record


def _is_array(path: Path) -> bool:
    for _, line in read_lines(path):
        return line.lstrip().startswith(b"[")
    return False


def _open(path: Path) -> IO[bytes]:
    if not path.is_file():
        raise InputError("a data file is missing", where=str(path), remedy="check the path in the study file")
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path, "rb")) if is_gzip else path.open("rb")


def _refuse(path: Path, kind: file_kinds.Kind) -> NoReturn:
    raise InputError(
        f"a file of records is {kind.name}",
        expected="parquet, or JSON lines in UTF-8, gzipped or not",
        where=str(path),
        remedy=kind.remedy,
    )


def _first(path: Path, n: int) -> list[tuple[int, bytes]]:
    return [found for _, found in zip(range(n), read_lines(path), strict=False)]


def _not_json(path: Path, row: int, line: bytes, error: ValueError) -> NoReturn:
    """Raise InputError for a line that is not JSON, with the most that can truly be said of it."""
    (first, _), *_ = _first(path, 1)
    if row == first and (kind := file_kinds.other_layout(line)):
        _refuse(path, kind)
    if isinstance(error, UnicodeDecodeError):
        raise InputError(
            "a record is not text in UTF-8",
            found=str(error),
            where=f"{path}, row {row}",
            remedy="convert the file to UTF-8, or fix or remove the row",
        ) from None
    length = len(line.decode("utf-8", "replace").rstrip())
    ends_early = getattr(error, "pos", -1) >= length or "Unterminated" in str(error)
    is_last = not any(r > row for r, _ in read_lines(path))
    if ends_early and is_last:
        what = "the last record is not valid JSON: it is cut off"
    elif ends_early:
        what = "a record is not valid JSON: it does not end on its line"
    else:
        what = "a record is not valid JSON"
    raise InputError(what, found=str(error), where=f"{path}, row {row}", remedy=FIX) from None
