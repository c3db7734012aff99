"""Dialogues that do not fit into memory: sorted on disk, written in parts, with the result of doing it in memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcontrast import artifacts
from selfcontrast.errors import InputError
from selfcontrast.records import Message
from selfcontrast.seeds import derive_seed
from selfcontrast.sorting import PLACE, SortedRows
from selfcontrast.steps import encode

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = pa.schema({"name": pa.string(), "ids": pa.list_(pa.int32())})

# The order of rows

places = st.integers(0, 2**63 - 1) | st.sampled_from([0, 1, 2**57 - 1, 2**57, 2**62, 2**63 - 1])


@given(drawn=st.lists(places, max_size=40), bounds=st.tuples(st.integers(0, 45), st.integers(0, 45)))
@settings(max_examples=40, deadline=None)
def test_rows_come_back_by_place_and_then_by_name(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[int], bounds: tuple[int, int]
) -> None:
    rows = [{"name": f"{i * 7919 % 101:03}", "ids": [i, 2 * i], PLACE: place} for i, place in enumerate(drawn)]
    with SortedRows(tmp_path_factory.mktemp("rows") / "x", SCHEMA, tie="name") as kept:
        for row in rows:
            kept.add(row)
    assert len(kept) == len(rows)
    start, stop = sorted(bounds)
    found = [row for part in kept.between(start, stop) for row in part.to_pylist()]
    expected = sorted(rows, key=lambda r: (r[PLACE], r["name"]))[start:stop]
    assert found == [{"name": r["name"], "ids": r["ids"]} for r in expected]


def test_places_at_both_ends_of_their_range_fill_the_first_and_the_last_file(tmp_path: Path) -> None:
    with SortedRows(tmp_path / "x", SCHEMA, tie="name") as kept:
        for name, place in (("last", 2**63 - 1), ("first", 0)):
            kept.add({"name": name, "ids": [], PLACE: place})
    assert [part.column("name").to_pylist() for part in kept.between(0, 2)] == [["first"], ["last"]]


def test_nothing_is_left_of_a_block_that_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), artifacts.scratch(tmp_path / "rows") as folder:  # noqa: SIM117 - the order counts
        with SortedRows(folder, SCHEMA, tie="name") as kept:
            kept.add({"name": "a", "ids": [1], PLACE: 3})
            raise RuntimeError
    assert list(tmp_path.iterdir()) == []


# The step encode


class Words:
    """A renderer whose tokens are the lengths of words; 0 is unknown."""

    trains_apart = False
    tokenizer = SimpleNamespace(unk_token_id=0)

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        return [1, *(len(word) for m in messages for word in m.content.split(" "))]

    def response_ids(self, text: str) -> list[int]:
        return [*(len(word) for word in text.split(" ")), 2]


def write_dialogues(path: Path, n: int, *, words: int = 4) -> list[dict[str, Any]]:
    rng = random.Random(n)

    def text(count: int) -> str:
        return " ".join("x" * rng.randint(0, 9) for _ in range(count))

    records = [
        {
            "prompt_id": f"{i * 2654435761 % 2**32:016x}",
            "messages": [{"role": "user", "content": text(rng.randint(1, 2 * words))}],
            "target": text(words),
            "rejected": [text(words)] * (i % 3),
            "file": "records",
            "row": i,
        }
        for i in range(n)
    ]
    artifacts.write_jsonl(path, records, compress=True)
    return records


SPEC = {"seed": 7, "max_length": 13, "long_prompts": "drop"}


def test_order_counts_and_ids_are_those_of_sorting_in_memory(tmp_path: Path) -> None:
    """Of 500 prompts of 1 to 8 words; 13 tokens hold BOS, 7 words, and a response of 4 words and EOS."""
    records = write_dialogues(tmp_path / "d.jsonl.gz", 500)
    rows, tally = encode.encode(tmp_path / "d.jsonl.gz", Words(), SPEC, room=5, folder=tmp_path / "rows")
    kept = [r for r in records if len(r["messages"][0]["content"].split(" ")) <= 7]
    kept.sort(key=lambda r: (derive_seed(7, r["prompt_id"]), r["prompt_id"]))
    found = [row for part in rows.between(0, len(rows)) for row in part.to_pylist()]
    assert 0 < len(kept) < 500
    assert [row["prompt_id"] for row in found] == [r["prompt_id"] for r in kept]
    for row, record in zip(found, kept, strict=True):
        question = record["messages"][0]["content"]
        assert row["prompt"] == question
        assert row["prompt_ids"] == [1, *map(len, question.split(" "))]
        assert (row["target"], row["rejected"]) == (record["target"], record["rejected"])
        assert row["target_ids"] == [*map(len, record["target"].split(" ")), 2]
    assert tally.dropped == {encode.TOO_LONG: 500 - len(kept)}
    assert tally.longest_prompt == 8
    assert tally.unknown_tokens == sum((row["prompt_ids"] + row["target_ids"]).count(0) for row in found) > 0


def test_dialogue_that_is_too_long_is_named_by_file_and_row(tmp_path: Path) -> None:
    records = write_dialogues(tmp_path / "d.jsonl.gz", 50)
    first = next(r["row"] for r in records if len(r["messages"][0]["content"].split(" ")) == 8)
    spec = {**SPEC, "long_prompts": "error"}
    with pytest.raises(InputError, match=rf"does not fit(.|\n)*where: row {first} of records"):
        encode.encode(tmp_path / "d.jsonl.gz", Words(), spec, room=5, folder=tmp_path / "rows")


def test_splits_take_held_out_prompts_first_and_pool_is_the_beginning_of_sft() -> None:
    sizes = {"sft": 10, "pool": 4, "validation": 2, "test": 3}
    bounds = encode.split_bounds(20, sizes, where="x", dropped=encode.Tally().dropped)
    assert bounds == {"sft": (5, 15), "pool": (5, 9), "validation": (3, 5), "test": (0, 3)}
    assert list(bounds) == ["sft", "pool", "validation", "test"]


# Memory

MEASURE = """if True:
    import json, random, sys
    from pathlib import Path
    from types import SimpleNamespace
    from selfcontrast import artifacts
    from selfcontrast.steps import encode

    folder, n, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

    class Words:
        trains_apart = False
        tokenizer = SimpleNamespace(unk_token_id=0)
        def prompt_ids(self, messages):
            return [int(word) for m in messages for word in m.content.split(" ")]
        def response_ids(self, text):
            return [int(word) for word in text.split(" ")]

    def dialogues():
        rng = random.Random(0)
        words = [str(rng.randint(300, 30_000)) for _ in range(20_000)]
        def text():
            start = rng.randrange(len(words) - 150)
            return " ".join(words[start : start + 150])
        for i in range(n):
            yield {"prompt_id": f"{rng.getrandbits(64):016x}", "messages": [{"role": "user", "content": text()}],
                   "target": text(), "rejected": [], "file": "f", "row": i}

    path = folder / "dialogues.jsonl.gz"
    artifacts.write_jsonl(path, dialogues(), compress=True)
    import pyarrow.parquet
    spec = {"seed": 7, "max_length": 1000, "long_prompts": "error"}
    if how == "lists":
        rows = list(encode._encoded(path, Words(), spec, 1, encode.Tally()))
    else:
        rows, _ = encode.encode(path, Words(), spec, room=1, folder=folder / "rows")
        with artifacts.table_writer(folder / "sft.parquet", encode._columns(Words())) as writer:
            for part in rows.between(0, n):
                writer.write(part)
    assert len(rows) == n
    # Not ru_maxrss, which begins at the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def peak_mib(folder: Path, n: int, how: str) -> float:
    """Return the peak memory of a process that tokenises n dialogues of 300 tokens and writes them as one split."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), str(n), how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.fixture(scope="module")
def growth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, float]]:
    """Return by how many MiB the peak grows from 5,000 to 20,000 dialogues, on disk and, as the control, in lists."""
    folder = tmp_path_factory.mktemp("memory")
    peaks = {(how, n): peak_mib(folder / f"{how}{n}", n, how) for how in ("disk", "lists") for n in (5_000, 20_000)}
    print(json.dumps({f"{how} {n}": round(mib) for (how, n), mib in peaks.items()}))
    yield {how: peaks[how, 20_000] - peaks[how, 5_000] for how in ("disk", "lists")}


@pytest.mark.slow
def test_memory_of_encode_hardly_grows_with_the_dialogues(growth: dict[str, float]) -> None:
    """15,000 dialogues more, of 300 token ids and 1.6 kB of text each, are some 200 MiB of Python objects.

    What may grow is the part that is sorted together, a 64th of the rows.
    """
    assert growth["lists"] > 150
    assert growth["disk"] < growth["lists"] / 5
