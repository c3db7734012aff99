"""From files to rows: records through an adaptor, encoded splits, and the held-out texts of benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from selfcontrast.artifacts import Artifact, read_jsonl
from selfcontrast.datasets._records import read_records
from selfcontrast.errors import InputError
from selfcontrast.lines import read_lines_or_array
from selfcontrast.linting.findings import Row, Tokens, Unusable
from selfcontrast.records import BadRecord, Dialogue, Message
from selfcontrast.sources import names_of

if TYPE_CHECKING:
    from selfcontrast.rendering import Renderer

PROMPT_KEYS = ("instruction", "prompt", "question", "turns", "text")
OTHER_KEYS = ("output", "reference", "answer", "target", "response", "ground_truth")


def record_rows(
    paths: Sequence[Path], adaptor: ModuleType, renderer: Renderer | None = None
) -> Iterator[Row | Unusable]:
    """Yield each record of the files as a row, or the reason why the adaptor leaves it out."""
    names = [f"{name} " for name in names_of(paths)] if len(paths) > 1 else [""]
    for path, name in zip(paths, names, strict=True):
        for item, record in _with_records(adaptor.read(path), read_records(path)):
            place = f"{name}row {item.row}"
            if isinstance(item, BadRecord):
                yield Unusable(place, item.reason)
            else:
                yield Row(place, item, record, _tokens(item, renderer) if renderer else None)


def _with_records(
    items: Iterable[Dialogue | BadRecord], records: Iterator[tuple[int, dict[str, Any]]]
) -> Iterator[tuple[Dialogue | BadRecord, dict[str, Any]]]:
    """Yield what an adaptor made together with the record it comes from: both count rows, and both ascend."""
    number = 0
    record: dict[str, Any] = {}
    for item in items:
        while number < item.row:
            number, record = next(records, (item.row + 1, {}))
        yield item, record if number == item.row else {}


def _tokens(dialogue: Dialogue, renderer: Renderer) -> Tokens:
    answers = (dialogue.target, *dialogue.rejected)
    return Tokens(renderer.prompt_ids(dialogue.messages), [renderer.response_ids(a) for a in answers])


def split_rows(encoded: Artifact, split: str, renderer: Renderer) -> Iterator[Row]:
    """Yield the rows of an encoded split with the ids that training reads; rejected answers are rendered anew."""
    for _, r in read_records(encoded.path(f"{split}.parquet")):
        dialogue = Dialogue((Message("user", r["prompt"]),), r["target"], tuple(r["rejected"]), 0)
        answers = [r["target_ids"], *(renderer.response_ids(text) for text in r["rejected"])]
        yield Row(f"{split}, prompt {r['prompt_id']}", dialogue, tokens=Tokens(r["prompt_ids"], answers))


def split_members(encoded: Artifact, splits: Sequence[str]) -> dict[int, str]:
    """Return the split of each prompt; prompt ids are hexadecimal numbers, and as numbers they take less memory."""
    return {
        int(r["prompt_id"], 16): split for split in splits for _, r in read_records(encoded.path(f"{split}.parquet"))
    }


def dialogue_rows(dialogues: Artifact, members: dict[int, str], splits: Sequence[str]) -> Iterator[Row]:
    """Yield the whole dialogues of some splits, in the order of their file."""
    for _, r in read_jsonl(dialogues.path("dialogues.jsonl.gz")):
        split = members.get(int(r["prompt_id"], 16))
        if split in splits:
            messages = tuple(Message(m["role"], m["content"]) for m in r["messages"])
            yield Row(f"{split}, row {r['row']}", Dialogue(messages, r["target"], tuple(r["rejected"]), r["row"]))


def held_out_items(rows: Iterable[Row]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield rows as items of a held-out collection: what is asked, and what is answered."""
    for row in rows:
        messages = row.dialogue.messages
        asked = [m.content for m in messages if m.role == "user"]
        yield row.place, asked, [m.content for m in messages if m.role == "assistant"] + [row.dialogue.target]


def benchmark_items(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the items of a benchmark's file: JSON lines or one JSON array, with one of PROMPT_KEYS and perhaps OTHER_KEYS.

    MT-Bench's question.jsonl has ``turns``, AlpacaEval's files have ``instruction`` and ``output``, Arena-Hard's ``prompt``.
    """
    for place, record in read_lines_or_array(path):
        prompts = [text for key in PROMPT_KEYS for text in _texts(record.get(key))]
        if not prompts:
            raise InputError(
                "a benchmark's record has no prompt",
                expected=f"one of the fields {', '.join(PROMPT_KEYS)}",
                found=", ".join(record),
                where=f"{path}, {place}",
            )
        yield place, prompts, [text for key in OTHER_KEYS for text in _texts(record.get(key))]


def _texts(value: Any) -> list[str]:
    """Return a text or a list of texts as a list; nothing for anything else."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, str)]
