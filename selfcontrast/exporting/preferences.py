"""The groups of an arm as a preference set: TRL's conversational layout in parquet, with a dataset card."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast import joins
from selfcontrast.artifacts import read_jsonl, sha256
from selfcontrast.errors import InputError
from selfcontrast.exporting.folder import Export
from selfcontrast.exporting.preference_card import preference_card
from selfcontrast.exporting.targets import Target
from selfcontrast.records import TARGET
from selfcontrast.sweep import pool_of

if TYPE_CHECKING:
    from numpy import ndarray

PAIRS, GROUPS = Path("pairs", "train.parquet"), Path("groups", "train.parquet")
EXTRA = ("score", "margin", "weight")
"""What a record of groups may say of each negative beside its id."""

ROWS = 4_096
"""Rows of a row group."""

Row = dict[str, Any]


def fill_preferences(target: Target, export: Export, folder: Path) -> None:
    """Write pairs, groups and the card of the groups that an arm was trained on.

    Raises:
        InputError: a response of a group is not in the pool.
    """
    layout, arm = target.layout, target.arm
    prompts = export.note(target.open(layout.prompts), target.root)
    dialogues = export.note(target.open(target.root / target.dataset / "prompts" / "manifest.json"), target.root)
    pool = export.note(target.open(layout.pool(pool_of(target.study, arm.selection))), target.root)
    groups = export.note(target.open(layout.groups(arm.selection, arm.n, target.seed)), target.root)
    records = [record for _, record in read_jsonl(groups.path("groups.jsonl"))]
    wanted = {r["prompt_id"] for r in records}
    messages = {
        r["prompt_id"]: r["messages"]
        for _, r in read_jsonl(dialogues.path("dialogues.jsonl.gz"))
        if r["prompt_id"] in wanted
    }
    split = prompts.table("pool.parquet", ["prompt_id", "target"])
    targets = dict(zip(split["prompt_id"], split["target"], strict=True))
    texts = _Texts(records, pool.batches("responses.parquet", ["prompt_id", "response_id", "text"]), targets)
    made = (_group(record, messages[record["prompt_id"]], texts) for record in records)
    n_pairs = _write(folder, made, [key for key in EXTRA if any(r.get(key) is not None for r in records)])
    export.counts |= {
        "pairs": n_pairs,
        "groups": len(records),
        "prompts of the pool without a group": len(targets) - len(records),
    }
    files = {path.as_posix(): sha256(folder / path) for path in (PAIRS, GROUPS)}
    licence = str(dialogues.manifest["report"].get("licence", ""))
    card = preference_card(target, export, files, pool=pool, groups=groups, licence=licence)
    (folder / "README.md").write_text(card, encoding="utf-8")


class _Texts:
    """The texts of the responses that groups name; those of the pool stay in Arrow."""

    def __init__(self, records: Sequence[Row], pool: Iterable[Any], targets: dict[str, str]) -> None:
        import numpy as np
        import pyarrow as pa

        self._targets = targets
        named = [(r["prompt_id"], i) for r in records for i in (r["chosen"], *r["rejected"]) if i != TARGET]
        prompt_ids, ids = (list(dict.fromkeys(part)) for part in (zip(*named, strict=True) if named else ((), ())))
        self._prompt = {p: n for n, p in enumerate(prompt_ids)}
        self._response = {r: n for n, r in enumerate(ids)}
        self._wanted: ndarray = np.unique([self._number(*key) for key in named])
        self._row, found = joins.pick(pool, joins.Keys(prompt_ids, ids), self._wanted, ["text"])
        self._found = pa.chunked_array(found["text"], pa.string())

    def _number(self, prompt_id: str, response_id: str) -> int:
        return self._prompt[prompt_id] * len(self._response) + self._response[response_id]

    def of(self, prompt_id: str, response_id: str) -> str:
        """Return one text, or raise InputError."""
        import numpy as np

        if response_id == TARGET:
            return self._targets[prompt_id]
        row = self._row[np.searchsorted(self._wanted, self._number(prompt_id, response_id))]
        if row < 0:
            raise InputError(
                "a response of a group is not in the pool",
                found=f"{response_id} of prompt {prompt_id}",
                remedy="run snakemake again",
            )
        return str(self._found[int(row)].as_py())


def _group(record: Row, messages: list[Row], texts: _Texts) -> Row:
    def answer(response_id: str) -> list[Row]:
        return [{"role": "assistant", "content": texts.of(record["prompt_id"], response_id)}]

    return {
        "prompt": messages,
        "chosen": answer(record["chosen"]),
        "rejected": [answer(i) for i in record["rejected"]],
        "prompt_id": record["prompt_id"],
        "chosen_id": record["chosen"],
        "rejected_id": record["rejected"],
        **{key: record.get(key) for key in EXTRA},
    }


def _write(folder: Path, groups: Iterable[Row], extra: Sequence[str]) -> int:
    """Write groups and their pairs, and return how many pairs there are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    text, number = pa.string(), pa.float64()

    def schema(of_negatives: Any) -> pa.Schema:
        one = {"prompt": messages, "chosen": messages, "rejected": of_negatives(messages)}
        ids = {"prompt_id": text, "chosen_id": text, "rejected_id": of_negatives(text)}
        return pa.schema([*{**one, **ids, **{key: of_negatives(number) for key in extra}}.items()])

    n_pairs = 0
    schemas = {PAIRS: schema(lambda kind: kind), GROUPS: schema(pa.list_)}
    for path in schemas:
        (folder / path).parent.mkdir()
    with (
        pq.ParquetWriter(folder / PAIRS, schemas[PAIRS], compression="zstd") as pairs_file,
        pq.ParquetWriter(folder / GROUPS, schemas[GROUPS], compression="zstd") as groups_file,
    ):
        for rows in _pieces(groups):
            pairs = [pair for row in rows for pair in _pairs(row, extra)]
            groups_file.write_table(pa.Table.from_pylist([_listed(row, extra) for row in rows], schemas[GROUPS]))
            pairs_file.write_table(pa.Table.from_pylist(pairs, schemas[PAIRS]))
            n_pairs += len(pairs)
    return n_pairs


def _pieces(rows: Iterable[Row]) -> Iterator[list[Row]]:
    piece: list[Row] = []
    for row in rows:
        piece.append(row)
        if len(piece) == ROWS:
            yield piece
            piece = []
    if piece:
        yield piece


def _listed(row: Row, extra: Sequence[str]) -> Row:
    """Return a group with one value of each further key for every negative."""
    n = len(row["rejected"])
    values = {key: row[key] if isinstance(row[key], list) else [row[key]] * n for key in extra}
    return {**{k: v for k, v in row.items() if k not in EXTRA}, **values}


def _pairs(row: Row, extra: Sequence[str]) -> list[Row]:
    """Return one row for each negative of a group."""
    row = _listed(row, extra)
    split = ("rejected", "rejected_id", *extra)
    return [{**row, **{key: row[key][i] for key in split}} for i in range(len(row["rejected"]))]
