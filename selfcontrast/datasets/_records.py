"""Reading records and checking dialogues: what every adaptor needs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from selfcontrast.errors import InputError
from selfcontrast.fields import MisfitError, field
from selfcontrast.lines import read_values
from selfcontrast.records import BadRecord, Dialogue, Message
from selfcontrast.texts import fault_of, is_blank

Convert = Callable[[Any, int], Dialogue | BadRecord]
"""Turns a record and its row into a dialogue, or the reason why there is none; raises ``MisfitError`` for another layout."""

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLE = {"Human": "user", "Assistant": "assistant"}


def read_dialogues(path: Path, convert: Convert) -> Iterator[Dialogue | BadRecord]:
    """Yield one dialogue, or the reason why there is none, for each record of a file.

    A field that is missing or of another type makes one bad record, unless no record of the file has the layout.

    Raises:
        InputError: the file cannot be read, or has another layout: ``convert`` finds fields missing in every record.
    """
    _check_layout(path, convert)
    for row, record in read_records(path):
        found = converted(convert, record, row)
        yield BadRecord(found.reason, row) if isinstance(found, MisfitError) else found


def converted(convert: Convert, record: Any, row: int) -> Dialogue | BadRecord | MisfitError:
    """Return what becomes of one record; a ``MisfitError`` if it is not of the layout."""
    try:
        if not isinstance(record, dict):
            raise MisfitError("the record is not a JSON object", type(record).__name__)
        return convert(record, row)
    except MisfitError as misfit:
        return misfit


def _check_layout(path: Path, convert: Convert) -> None:
    """Raise InputError if the file has records and none of them has the layout; reads until the first that has it."""
    first: tuple[int, MisfitError] | None = None
    reasons: Counter[str] = Counter()
    for row, record in read_records(path):
        found = converted(convert, record, row)
        if not isinstance(found, MisfitError):
            return
        first = first or (row, found)
        reasons[found.reason] += 1
    if first is not None:
        row, misfit = first
        counts = "; ".join(f"{reason} in {n} of {reasons.total()} records" for reason, n in reasons.most_common(3))
        raise InputError(
            "the file has another layout: none of its records has the fields that the adaptor reads",
            found=f"{counts}. In the first: {misfit}",
            where=f"{path}, row {row}",
            remedy="check that the adaptor fits the file",
        )


def read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (row, record) of a file of parquet or JSON lines (gzipped or not), a batch at a time; rows count from 1.

    The kind is told by the first bytes, not by the name. A line of JSON may hold something else than an object.

    Raises:
        InputError: the file is missing or damaged, is of another kind, or gives a key or a column twice.
    """
    if not path.is_file():
        raise InputError("a data file is missing", where=str(path), remedy="check the path in the study file")
    with path.open("rb") as stream:
        is_parquet = stream.read(4) == b"PAR1"
    yield from _read_parquet(path) if is_parquet else read_values(path)


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        _check_columns(pq.read_schema(path), path)
        # By default a reader takes a whole row group into memory, which may be the whole file.
        for batch in pq.ParquetFile(path, buffer_size=1 << 18, pre_buffer=False).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                row += 1
                yield row, record
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise InputError(
            "a parquet file is damaged", found=str(error), where=f"{path}, after row {row}", remedy="fetch it again"
        ) from None


def _check_columns(fields: Any, path: Path) -> None:
    """Raise InputError if two columns, or two fields of a nested one, share a name: a record would keep the last alone."""
    import pyarrow as pa

    names = [f.name for f in fields]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(
            "a parquet file has two columns of one name", found=twice[0], where=str(path), remedy="rename one of them"
        )
    for kind in (f.type for f in fields):
        inner = kind
        while any(
            is_kind(inner) for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        ):
            inner = inner.value_type
        if pa.types.is_struct(inner):
            _check_columns(list(inner), path)


def messages_field(record: dict[str, Any], key: str) -> list[Message]:
    """Return a list of ``{role, content}`` as messages.

    Raises:
        MisfitError: it is something else, or missing.
    """
    messages = []
    for turn in field(record, key, list):
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("role"), str)
            or not isinstance(turn.get("content"), str)
        ):
            raise MisfitError(f"`{key}` has a turn without the texts `role` and `content`", repr(turn)[:80])
        messages.append(Message(turn["role"], turn["content"]))
    return messages


def split_turns(text: str) -> list[Message] | None:
    r"""Return the turns of a ``\\n\\nHuman: ... \\n\\nAssistant: ...`` transcript, stripped; None if it starts otherwise."""
    head, *parts = _TURN.split(text)
    if not is_blank(head):
        return None
    return [Message(_ROLE[role], content.strip()) for role, content in zip(parts[::2], parts[1::2], strict=True)]


def check_dialogue(
    prompt: Sequence[Message], target: str, rejected: Sequence[str], *, row: int
) -> Dialogue | BadRecord:
    """Return a dialogue with stripped answers, or why the record cannot be used."""
    turns = [m for i, m in enumerate(prompt) if not (i == 0 and m.role == "system")]
    texts = [m.content for m in prompt] + [target, *rejected]
    roles = [m.role for m in turns]
    if faults := list(filter(None, map(fault_of, texts))):
        return BadRecord(faults[0], row)
    if not turns or roles[-1] != "user":
        return BadRecord("the prompt does not end with a user turn", row)
    if any(a == b for a, b in zip(roles, roles[1:], strict=False)):
        return BadRecord("two turns of one role in a row", row)
    if not set(roles) <= {"user", "assistant"}:
        return BadRecord("unknown role", row)
    if is_blank(turns[-1].content):
        return BadRecord("the last user turn is empty", row)
    if is_blank(target) or any(map(is_blank, rejected)):
        return BadRecord("an answer is empty", row)
    if any(r.strip() == target.strip() for r in rejected):
        return BadRecord("chosen and rejected answer are equal", row)
    return Dialogue(tuple(prompt), target.strip(), tuple(r.strip() for r in rejected), row)
