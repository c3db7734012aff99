"""Reading records and checking dialogues: what every adaptor needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfcontrast.artifacts import read_jsonl
from selfcontrast.errors import InputError
from selfcontrast.records import BadRecord, Dialogue, Message

_TURN = re.compile(r"\n\n(Human|Assistant):")
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_ROLE = {"Human": "user", "Assistant": "assistant"}


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row, record) of a file of parquet or JSON lines (gzipped or not), a batch at a time; rows count from 1.

    The kind is told by the first bytes, not by the name.
    """
    if not path.is_file():
        raise InputError("a data file is missing", where=str(path), remedy="check the path in the study file")
    with path.open("rb") as stream:
        is_parquet = stream.read(4) == b"PAR1"
    yield from _read_parquet(path) if is_parquet else read_jsonl(path)


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        # By default a reader takes a whole row group into memory, which may be the whole file.
        for batch in pq.ParquetFile(path, buffer_size=1 << 18, pre_buffer=False).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                row += 1
                yield row, record
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise InputError(
            "a parquet file is damaged", found=str(error), where=f"{path}, after row {row}", remedy="fetch it again"
        ) from None


def field(record: Any, key: str, kind: type | tuple[type, ...], *, path: Path, row: int) -> Any:
    """Return ``record[key]`` after checking that it is there and of the right type."""
    if not isinstance(record, dict) or key not in record:
        found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise InputError(
            f"a record has no `{key}`",
            found=found,
            where=f"{path}, row {row}",
            remedy="check that the adaptor fits the file",
        )
    if not isinstance(record[key], kind):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(
            f"`{key}` has the wrong type",
            expected=names,
            found=type(record[key]).__name__,
            where=f"{path}, row {row}",
            remedy="check that the adaptor fits the file",
        )
    return record[key]


def messages_field(record: dict[str, Any], key: str, *, path: Path, row: int) -> list[Message]:
    """Return a list of ``{role, content}`` as messages."""
    turns = field(record, key, list, path=path, row=row)
    messages = []
    for turn in turns:
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("role"), str)
            or not isinstance(turn.get("content"), str)
        ):
            raise InputError(
                f"`{key}` has a turn without the texts `role` and `content`",
                found=repr(turn)[:80],
                where=f"{path}, row {row}",
                remedy="mend or remove the row",
            )
        messages.append(Message(turn["role"], turn["content"]))
    return messages


def split_turns(text: str) -> list[Message] | None:
    r"""Return the turns of a ``\\n\\nHuman: ... \\n\\nAssistant: ...`` transcript, stripped; None if it starts otherwise."""
    head, *parts = _TURN.split(text)
    if head.strip():
        return None
    return [Message(_ROLE[role], content.strip()) for role, content in zip(parts[::2], parts[1::2], strict=True)]


def check_dialogue(
    prompt: Sequence[Message], target: str, rejected: Sequence[str], *, row: int
) -> Dialogue | BadRecord:
    """Return a dialogue with stripped answers, or why the record cannot be used."""
    turns = [m for i, m in enumerate(prompt) if not (i == 0 and m.role == "system")]
    texts = [m.content for m in prompt] + [target, *rejected]
    roles = [m.role for m in turns]
    if any("\0" in text for text in texts):
        return BadRecord("a text has a NUL character", row)
    if any(_HALF_PAIR.search(text) for text in texts):
        return BadRecord("a text has half a surrogate pair", row)
    if not turns or roles[-1] != "user":
        return BadRecord("the prompt does not end with a user turn", row)
    if any(a == b for a, b in zip(roles, roles[1:], strict=False)):
        return BadRecord("two turns of one role in a row", row)
    if not set(roles) <= {"user", "assistant"}:
        return BadRecord("unknown role", row)
    if not turns[-1].content.strip():
        return BadRecord("the last user turn is empty", row)
    if not target.strip() or any(not r.strip() for r in rejected):
        return BadRecord("an answer is empty", row)
    if any(r.strip() == target.strip() for r in rejected):
        return BadRecord("chosen and rejected answer are equal", row)
    return Dialogue(tuple(prompt), target.strip(), tuple(r.strip() for r in rejected), row)
