"""The adaptors on small invented files, the step that runs them, and HH-RLHF on real records."""

from __future__ import annotations

import gzip
import json
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfcontrast import artifacts, cli
from selfcontrast.datasets import hh_rlhf, jsonl, nectar, ultrachat
from selfcontrast.errors import InputError
from selfcontrast.records import BadRecord, Dialogue, Message
from selfcontrast.steps import prompts

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "hh-rlhf" / "harmless-base-test.jsonl.gz"

Record = dict[str, Any]


def lines(*records: object) -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()


def write(folder: Path, content: bytes, name: str = "records.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def write_parquet(folder: Path, *records: Record) -> Path:
    path = folder / "records.parquet"
    pq.write_table(pa.Table.from_pylist(list(records)), path)
    return path


def read(adaptor: ModuleType, path: Path) -> list[Dialogue | BadRecord]:
    return list(adaptor.read(path))


def read_one(adaptor: ModuleType, folder: Path, record: Record) -> Dialogue | BadRecord:
    (found,) = read(adaptor, write(folder, lines(record)))
    return found


def reason(adaptor: ModuleType, folder: Path, record: Record) -> str:
    found = read_one(adaptor, folder, record)
    assert isinstance(found, BadRecord), found
    return found.reason


def problem(adaptor: ModuleType, path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(adaptor, path)
    return str(caught.value)


def misfit(adaptor: ModuleType, folder: Path, good: Record, bad: Record) -> str:
    """Return why a record is left out beside one that is used; alone it would be a file of another layout."""
    assert "the file has another layout" in problem(adaptor, write(folder, lines(bad, bad)))
    first, second = read(adaptor, write(folder, lines(good, bad)))
    assert isinstance(first, Dialogue), first
    assert isinstance(second, BadRecord), second
    assert second.row == 2
    return second.reason


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


# HH-RLHF

EGG = "\n\nHuman: How do I boil an egg?\n\nAssistant: In water.\n\nHuman: How long?\n\nAssistant:"


def test_hh_rlhf_splits_prompt_target_and_rejected(tmp_path: Path) -> None:
    record = {"chosen": f"{EGG} About eight minutes.", "rejected": f"{EGG} I don't know."}
    messages = (user("How do I boil an egg?"), assistant("In water."), user("How long?"))
    expected = Dialogue(messages, "About eight minutes.", ("I don't know.",), 1)
    assert read_one(hh_rlhf, tmp_path, record) == expected


def test_hh_rlhf_is_read_gzipped_or_not_whatever_its_name(tmp_path: Path) -> None:
    content = lines({"chosen": f"{EGG} Eight.", "rejected": f"{EGG} Nine."})
    plain = read(hh_rlhf, write(tmp_path, content, "a.gz"))
    assert read(hh_rlhf, write(tmp_path, gzip.compress(content), "a.jsonl")) == plain


def test_chosen_that_begins_with_the_rejected_answer_is_kept(tmp_path: Path) -> None:
    """Five real records are like this, and some readers stop at them."""
    found = read_one(hh_rlhf, tmp_path, {"chosen": f"{EGG} No. Eight.", "rejected": f"{EGG} No."})
    assert isinstance(found, Dialogue)
    assert (found.target, found.rejected) == ("No. Eight.", ("No.",))


def test_words_human_and_assistant_inside_a_line_are_text(tmp_path: Path) -> None:
    found = read_one(hh_rlhf, tmp_path, {"chosen": f"{EGG} Ask a Human: me.\nAssistant: no.", "rejected": f"{EGG} x"})
    assert isinstance(found, Dialogue)
    assert found.target == "Ask a Human: me.\nAssistant: no."


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (f"{EGG} a", EGG.replace("egg", "ham") + " b", "the prompts of chosen and rejected differ"),
        (f"{EGG} a", "\n\nHuman: How long?\n\nAssistant: b", "the prompts of chosen and rejected differ"),
        (f"{EGG} a", EGG, "an answer is empty"),
        (f"{EGG} \n ", f"{EGG} b", "an answer is empty"),
        (f"{EGG} a", f"{EGG}  a ", "chosen and rejected answer are equal"),
        ("\n\nHuman: a", "\n\nHuman: a", "the dialogue does not end with an answer"),
        (f"{EGG} a", f"{EGG} b\n\nHuman: c", "the dialogue does not end with an answer"),
        ("", "", "the dialogue does not end with an answer"),
        (
            "\n\nHuman: a\n\nHuman: b\n\nAssistant: c",
            "\n\nHuman: a\n\nHuman: b\n\nAssistant: d",
            "two turns of one role in a row",
        ),
        ("\n\nHuman: \n\nAssistant: c", "\n\nHuman: \n\nAssistant: d", "the last user turn is empty"),
        ("\n\nAssistant: c", "\n\nAssistant: d", "the prompt does not end with a user turn"),
        (f"{EGG} a\0", f"{EGG} b", "a text has a NUL character"),
    ],
)
def test_hh_rlhf_names_why_a_record_cannot_be_used(tmp_path: Path, chosen: str, rejected: str, expected: str) -> None:
    assert reason(hh_rlhf, tmp_path, {"chosen": chosen, "rejected": rejected}) == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"chosen": "text", "rejected": f"{EGG} b"}, r"a text does not start with \n\nHuman: or \n\nAssistant:"),
        ({"chosen": f"{EGG} a", "rejected": "other"}, r"a text does not start with \n\nHuman: or \n\nAssistant:"),
        ({"chosen": f"{EGG} a"}, "`rejected` is missing"),
        ({"chosen": f"{EGG} a", "rejected": ["b"]}, "`rejected` is not a text"),
        ({"chosen": None, "rejected": f"{EGG} b"}, "`chosen` is missing"),
    ],
)
def test_hh_rlhf_counts_a_record_of_another_layout(tmp_path: Path, record: Record, expected: str) -> None:
    assert misfit(hh_rlhf, tmp_path, {"chosen": f"{EGG} a", "rejected": f"{EGG} b"}, record) == expected


# UltraChat

PICNIC = [
    {"content": "Plan a picnic.", "role": "user"},
    {"content": "Sure: bread.", "role": "assistant"},
    {"content": "And if it rains?", "role": "user"},
    {"content": " Move indoors.\n", "role": "assistant"},
]


def chat(messages: object) -> Record:
    return {"prompt": "Plan a picnic.", "prompt_id": "3f", "messages": messages}


def test_ultrachat_takes_the_last_answer_as_the_target(tmp_path: Path) -> None:
    expected = Dialogue(
        (user("Plan a picnic."), assistant("Sure: bread."), user("And if it rains?")), "Move indoors.", (), 1
    )
    assert read(ultrachat, write_parquet(tmp_path, chat(PICNIC))) == [expected]
    assert read_one(ultrachat, tmp_path, chat(PICNIC)) == expected


def test_ultrachat_keeps_a_system_turn_at_the_start(tmp_path: Path) -> None:
    found = read_one(ultrachat, tmp_path, chat([{"content": "Be brief.", "role": "system"}, *PICNIC]))
    assert isinstance(found, Dialogue)
    assert found.messages[0] == Message("system", "Be brief.")
    assert len(found.messages) == 4


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], "the dialogue does not end with an answer"),
        (PICNIC[:3], "the dialogue does not end with an answer"),
        (PICNIC[3:], "the prompt does not end with a user turn"),
        ([PICNIC[0], PICNIC[1], PICNIC[3]], "the prompt does not end with a user turn"),
        ([PICNIC[0], PICNIC[2], PICNIC[3]], "two turns of one role in a row"),
        ([PICNIC[0], {"content": "x", "role": "tool"}, *PICNIC[2:]], "unknown role"),
        ([PICNIC[0], {"content": "x", "role": "system"}, *PICNIC[2:]], "unknown role"),
        ([{"content": " ", "role": "user"}, PICNIC[3]], "the last user turn is empty"),
        ([PICNIC[0], {"content": "", "role": "assistant"}], "an answer is empty"),
        ([{"content": "a\0", "role": "user"}, PICNIC[3]], "a text has a NUL character"),
    ],
)
def test_ultrachat_names_why_a_record_cannot_be_used(tmp_path: Path, messages: list[Record], expected: str) -> None:
    assert reason(ultrachat, tmp_path, chat(messages)) == expected


@pytest.mark.parametrize(
    "turn", [{"role": "user"}, {"role": "user", "content": 3}, {"role": 1, "content": "x"}, "text", None]
)
def test_ultrachat_counts_turns_that_are_none(tmp_path: Path, turn: object) -> None:
    expected = "`messages` has a turn without the texts `role` and `content`"
    assert misfit(ultrachat, tmp_path, chat(PICNIC), chat([turn])) == expected


@pytest.mark.parametrize(
    ("messages", "expected"), [(None, "`messages` is missing"), ("text", "`messages` is not a list")]
)
def test_ultrachat_counts_records_without_turns(tmp_path: Path, messages: object, expected: str) -> None:
    assert misfit(ultrachat, tmp_path, chat(PICNIC), chat(messages)) == expected


# Nectar

PRIME = "\n\nHuman: Name a prime.\n\nAssistant: "


def ranked(*answers: tuple[str, object], prompt: str = PRIME) -> Record:
    return {"prompt": prompt, "answers": [{"answer": a, "model": "m", "rank": r} for a, r in answers], "turns": 1}


@pytest.mark.parametrize(
    "answers",
    [
        [("7", 1), ("9", 2), ("10", 3)],
        [("10", 3), ("7", 1), ("9", 2)],
        [("9", 2.0), ("10", 3.0), ("7", 1.0)],
    ],
    ids=["in order", "best in the middle", "floats, best last"],
)
def test_rank_1_is_the_best_answer_wherever_it_stands(tmp_path: Path, answers: list[tuple[str, object]]) -> None:
    """A published adaptor sorts the ranks the wrong way round and prefers the worst answer."""
    expected = Dialogue((user("Name a prime."),), "7", ("9", "10"), 1)
    assert read_one(nectar, tmp_path, ranked(*answers)) == expected
    assert read(nectar, write_parquet(tmp_path, ranked(*answers))) == [expected]


def test_nectar_keeps_the_history(tmp_path: Path) -> None:
    found = read_one(nectar, tmp_path, ranked(("7", 1), ("9", 2), prompt=f"\n\nHuman: Hi\n\nAssistant: Hello.{PRIME}"))
    assert isinstance(found, Dialogue)
    assert found.messages == (user("Hi"), assistant("Hello."), user("Name a prime."))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (ranked(("7", 2), ("9", 3)), "the ranks do not name one best answer"),
        (ranked(("7", 0), ("9", 1)), "the ranks do not name one best answer"),
        (ranked(("7", 1), ("9", 1.0)), "the ranks do not name one best answer"),
        (ranked(), "the ranks do not name one best answer"),
        (ranked(("7", 1), ("9\n\nHuman: more", 2)), "an answer has turns of its own"),
        (ranked(("7 Assistant: 8", 1), ("9", 2)), "an answer has turns of its own"),
        (ranked(("7", 1), prompt="\n\nHuman: Name a prime."), "the prompt does not end with an open answer"),
        (ranked(("7", 1), prompt=f"{PRIME}7"), "the prompt does not end with an open answer"),
        (ranked(("7", 1), prompt=""), "the prompt does not end with an open answer"),
        (ranked(("7", 1), ("7 ", 2)), "chosen and rejected answer are equal"),
        (ranked(("7", 1), ("", 2)), "an answer is empty"),
        (ranked(("7", 1), ("9\0", 2)), "a text has a NUL character"),
        (ranked(("7", 1), prompt=f"\n\nHuman: Hi{PRIME}"), "two turns of one role in a row"),
    ],
)
def test_nectar_names_why_a_record_cannot_be_used(tmp_path: Path, record: Record, expected: str) -> None:
    assert reason(nectar, tmp_path, record) == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (ranked(("7", "1")), "`rank` is not a number"),
        (ranked(("7", True)), "`rank` is not a number"),
        (ranked(("7", 1), ("9", math.nan)), "`rank` is not a number"),
        (ranked(("7", 1), ("9", 10**400)), "`rank` is not a number"),
        (ranked(("7", None)), "`rank` is missing"),
        ({"prompt": PRIME, "answers": [{"answer": "7"}]}, "`rank` is missing"),
        ({"prompt": PRIME, "answers": ["7"]}, "`rank` is missing"),
        ({"prompt": PRIME, "answers": [None]}, "`rank` is missing"),
        ({"prompt": PRIME, "answers": [{"rank": 1, "answer": 7}]}, "`answer` is not a text"),
        ({"prompt": PRIME}, "`answers` is missing"),
        ({"prompt": PRIME, "answers": {}}, "`answers` is not a list"),
        (ranked(("7", 1), prompt="Name a prime."), r"`prompt` does not start with \n\nHuman:"),
    ],
)
def test_nectar_counts_a_record_of_another_layout(tmp_path: Path, record: Record, expected: str) -> None:
    assert misfit(nectar, tmp_path, ranked(("7", 1), ("9", 2)), record) == expected


# JSON lines of one's own


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "a", "response": " b\n"}, Dialogue((user("a"),), "b", (), 1)),
        ({"prompt": "a", "response": "b", "rejected": "c"}, Dialogue((user("a"),), "b", ("c",), 1)),
        ({"prompt": "a", "response": "b", "rejected": ["c", "d"]}, Dialogue((user("a"),), "b", ("c", "d"), 1)),
        ({"prompt": "a", "response": "b", "rejected": None}, Dialogue((user("a"),), "b", (), 1)),
        ({"prompt": "a", "response": "b", "note": 3}, Dialogue((user("a"),), "b", (), 1)),
        ({"messages": PICNIC[:1], "response": "b"}, Dialogue((user("Plan a picnic."),), "b", (), 1)),
    ],
)
def test_jsonl_reads_prompt_or_messages_with_any_number_of_rejected(
    tmp_path: Path, record: Record, expected: Dialogue
) -> None:
    assert read_one(jsonl, tmp_path, record) == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "", "response": "b"}, "the last user turn is empty"),
        ({"prompt": "a", "response": " "}, "an answer is empty"),
        ({"prompt": "a", "response": "b", "rejected": ["c", ""]}, "an answer is empty"),
        ({"prompt": "a", "response": "b", "rejected": ["c", "b"]}, "chosen and rejected answer are equal"),
        ({"messages": PICNIC[:2], "response": "b"}, "the prompt does not end with a user turn"),
        ({"messages": [], "response": "b"}, "the prompt does not end with a user turn"),
        ({"prompt": "a", "response": "b", "rejected": "\0"}, "a text has a NUL character"),
        ({"prompt": "a\ud83d", "response": "b"}, "a text has half a surrogate pair"),
        ({"prompt": "a", "response": "b", "rejected": "\ude00"}, "a text has half a surrogate pair"),
    ],
)
def test_jsonl_names_why_a_record_cannot_be_used(tmp_path: Path, record: Record, expected: str) -> None:
    path = write(tmp_path, json.dumps(record).encode())  # escaped, as JSON lines often are
    assert read(jsonl, path) == [BadRecord(expected, 1)]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"response": "b"}, "`prompt` and `messages` are missing"),
        ({"prompt": None, "messages": None, "response": "b"}, "`prompt` and `messages` are missing"),
        ({"prompt": "a"}, "`response` is missing"),
        ({"prompt": "a", "response": None}, "`response` is missing"),
        ({"prompt": "a", "response": 7}, "`response` is not a text"),
        ({"prompt": 3, "response": "b"}, "`prompt` is not a text"),
        ({"prompt": "a", "response": "b", "rejected": 3}, "`rejected` is not a text or a list"),
        ({"prompt": "a", "response": "b", "rejected": ["c", 3]}, "`rejected` is not a list of texts"),
        ({"prompt": "a", "response": "b", "rejected": ["c", None]}, "`rejected` is not a list of texts"),
        ({"messages": "a", "response": "b"}, "`messages` is not a list"),
        ({"messages": [None], "response": "b"}, "`messages` has a turn without the texts `role` and `content`"),
        ("text", "the record is not a JSON object"),
        (None, "the record is not a JSON object"),
        (["a", "b"], "the record is not a JSON object"),
    ],
)
def test_jsonl_counts_a_record_with_a_missing_key_or_a_wrong_type(
    tmp_path: Path, record: Record, expected: str
) -> None:
    assert misfit(jsonl, tmp_path, {"prompt": "a", "response": "b"}, record) == expected


# One row without a field, and a field that no row has


@pytest.mark.parametrize("place", [0, 1500, 2999])
def test_one_null_among_many_rows_is_one_bad_record_wherever_it_stands(tmp_path: Path, place: int) -> None:
    rows = [{"prompt": f"{i}", "response": None if i == place else "b"} for i in range(3000)]
    for path in (write(tmp_path, lines(*rows)), write_parquet(tmp_path, *rows)):
        found = read(jsonl, path)
        assert [f for f in found if isinstance(f, BadRecord)] == [BadRecord("`response` is missing", place + 1)]
        assert [f.row for f in found] == list(range(1, 3001))


def test_a_field_that_only_the_last_row_has_is_no_other_layout(tmp_path: Path) -> None:
    found = read(jsonl, write(tmp_path, lines(*[{"prompt": "a"}] * 2500, {"prompt": "a", "response": "b"})))
    assert Counter(type(f) for f in found) == {BadRecord: 2500, Dialogue: 1}


@pytest.mark.parametrize("value", [{}, {"response": None}, {"response": 7}])
def test_a_field_that_no_row_has_is_another_layout(tmp_path: Path, value: Record) -> None:
    path = write(tmp_path, lines(*[{"prompt": "a", **value}] * 2000))
    found = problem(jsonl, path)
    assert "the file has another layout" in found
    assert "`response` is " in found
    assert " in 2000 of 2000 records" in found
    assert f"{path}, row 1" in found
    assert "check that the adaptor fits the file" in found


# Characters and lines


ODD = "one\u2028two\u2029three\u0085four\x0bfive\x1csix\rseven\U0001f95aeight"


@pytest.mark.parametrize("compress", [False, True])
def test_odd_line_ends_inside_a_text_survive(tmp_path: Path, compress: bool) -> None:
    """Python's own notion of a line ends at U+2028, U+0085 and others; that of JSON lines at the line feed alone."""
    content = lines({"prompt": ODD, "response": ODD + "!", "rejected": ODD}, {"prompt": "a", "response": "b"})
    first, second = read(jsonl, write(tmp_path, gzip.compress(content) if compress else content))
    assert first == Dialogue((user(ODD),), ODD + "!", (ODD,), 1)
    assert second == Dialogue((user("a"),), "b", (), 2)


def test_odd_line_ends_survive_parquet(tmp_path: Path) -> None:
    (found,) = read(jsonl, write_parquet(tmp_path, {"prompt": ODD, "response": ODD + "!"}))
    assert found == Dialogue((user(ODD),), ODD + "!", (), 1)


def test_blank_lines_windows_line_ends_and_a_byte_order_mark_are_tolerated_and_rows_count_on(tmp_path: Path) -> None:
    record = json.dumps({"prompt": "a", "response": "b"}).encode()
    found = read(jsonl, write(tmp_path, b"\xef\xbb\xbf" + record + b"\r\n\r\n  \n" + record))
    assert [(f.row, type(f)) for f in found] == [(1, Dialogue), (4, Dialogue)]


# Damaged files


GOOD = {"prompt": "a", "response": "b"}


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        (b'{"prompt": "a", "respo', "not valid JSON"),
        (b'{"prompt": "a", "response": "b"', "not valid JSON"),
        (b"prompt,response", "not valid JSON"),
        (b'{"prompt": "\xff", "response": "b"}', "not text in UTF-8"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
    ],
    ids=["cut in a key", "cut at the end", "csv", "not UTF-8", "huge number", "deep nesting"],
)
def test_malformed_line_is_named_with_file_and_row(tmp_path: Path, bad: bytes, part: str) -> None:
    path = write(tmp_path, lines(GOOD, GOOD) + bad + b"\n" + lines(GOOD))
    found = problem(jsonl, path)
    assert part in found
    assert f"{path}, row 3" in found
    assert "fix or remove the row" in found


def test_truncated_gzip_is_named_with_file_and_last_row(tmp_path: Path) -> None:
    content = b"".join(lines({"prompt": f"{i} {i * i}", "response": "b"}) for i in range(2000))
    path = write(tmp_path, gzip.compress(content)[:-2000])
    reader, rows = jsonl.read(path), 0
    with pytest.raises(InputError) as caught:
        for rows, _ in enumerate(reader, 1):  # noqa: B007
            pass
    assert 0 < rows < 2000
    assert "a data file is damaged" in str(caught.value)
    assert f"{path}, after row {rows}" in str(caught.value)


def test_gzip_with_changed_bytes_is_damaged(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(lines(*[GOOD] * 50)))
    content[-6] ^= 0xFF  # the checksum
    assert "a data file is damaged" in problem(jsonl, write(tmp_path, bytes(content)))


def parquet_bytes(folder: Path) -> bytes:
    messages = [
        [{"content": f"question é {i}", "role": "user"}, {"content": f"answer ü {i}", "role": "assistant"}]
        for i in range(300)
    ]
    path = folder / "good.parquet"
    pq.write_table(pa.table({"messages": messages}), path, compression="none")
    return path.read_bytes()


def test_truncated_parquet_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path, parquet_bytes(tmp_path)[:-100], "records.parquet")
    found = problem(ultrachat, path)
    assert "a parquet file is damaged" in found
    assert f"{path}, after row 0" in found


def test_parquet_with_overwritten_bytes_is_damaged(tmp_path: Path) -> None:
    content = parquet_bytes(tmp_path)
    path = write(tmp_path, content[:40] + b"\xff" * 200 + content[240:], "records.parquet")
    assert "a parquet file is damaged" in problem(ultrachat, path)


def test_parquet_text_that_is_not_utf8_is_damaged(tmp_path: Path) -> None:
    content = parquet_bytes(tmp_path)
    place = content.index("question é 7".encode()) + len("question ")
    path = write(tmp_path, content[:place] + b"\xff\xff" + content[place + 2 :], "records.parquet")
    assert "a parquet file is damaged" in problem(ultrachat, path)


def test_parquet_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, {"prompt": "a", "text": "b"})
    found = problem(ultrachat, path)
    assert "`messages` is missing; found prompt, text" in found
    assert f"{path}, row 1" in found


@pytest.mark.parametrize("adaptor", [hh_rlhf, ultrachat, nectar, jsonl])
def test_missing_file_is_named(tmp_path: Path, adaptor: ModuleType) -> None:
    found = problem(adaptor, tmp_path / "none.jsonl")
    assert "a data file is missing" in found
    assert str(tmp_path / "none.jsonl") in found


# The step


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step run in this process without watching its parent or bounding the threads of later tests."""
    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)


def arguments(folder: Path, records: Path, *, adaptor: str = "jsonl", bad_records: str = "error") -> list[str]:
    artifacts.write_json(folder / "spec.json", {"adaptor": adaptor, "bad_records": bad_records, "sha256": None})
    out = folder / "out" / "manifest.json"
    return ["--spec", str(folder / "spec.json"), "--records", str(records), "--out", str(out)]


@pytest.mark.usefixtures("run_here")
def test_step_counts_a_missing_field_or_names_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, lines(GOOD, {"prompt": "x", "response": None}, {"prompt": "y", "response": 7}))
    assert prompts.main(arguments(tmp_path, path, bad_records="drop")) == 0
    report = artifacts.read_json(tmp_path / "out" / "manifest.json")["report"]
    assert (report["records"], report["kept"]) == (3, 1)
    assert report["dropped"] == {"`response` is missing": 1, "`response` is not a text": 1}
    assert prompts.main(arguments(tmp_path, path)) == 2
    message = capsys.readouterr().err
    assert "a record cannot be used: `response` is missing" in message
    assert f"{path}, row 2" in message


MIXED = [
    {"prompt": "a", "response": "b", "rejected": "c"},
    {"prompt": "a", "response": "other"},
    {"prompt": "x", "response": ""},
    {"prompt": "x", "response": "\0"},
    {"prompt": "", "response": "y"},
    {"prompt": ODD, "response": ODD + "!"},
    {"prompt": "y", "response": " "},
]


@pytest.mark.usefixtures("run_here")
def test_step_with_drop_counts_what_it_leaves_out_by_reason(tmp_path: Path) -> None:
    path = write(tmp_path, lines(*MIXED))
    assert prompts.main(arguments(tmp_path, path, bad_records="drop")) == 0
    manifest = artifacts.Artifact.open(tmp_path / "out" / "manifest.json")
    dropped = {
        "a text has a NUL character": 1,
        "an answer is empty": 2,
        "the last user turn is empty": 1,
        "the prompt occurs in an earlier record": 1,
    }
    assert manifest.manifest["report"] == {"records": 7, "kept": 2, "dropped": dropped, "licence": "yours"}
    assert manifest.manifest["inputs"] == {"records": artifacts.sha256(path)}
    first, second = (record for _, record in artifacts.read_jsonl(manifest.path("dialogues.jsonl.gz")))
    assert (first["target"], first["rejected"], first["row"]) == ("b", ["c"], 1)
    assert second["messages"] == [{"role": "user", "content": ODD}]
    assert (second["target"], second["row"]) == (ODD + "!", 6)
    assert first["prompt_id"] != second["prompt_id"]


@pytest.mark.usefixtures("run_here")
def test_step_writes_the_same_bytes_again(tmp_path: Path) -> None:
    path = write(tmp_path, lines(*MIXED))
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert prompts.main(arguments(tmp_path / name, path, bad_records="drop")) == 0
        written.append([(tmp_path / name / "out" / f).read_bytes() for f in ("dialogues.jsonl.gz", "manifest.json")])
    assert written[0] == written[1]


@pytest.mark.usefixtures("run_here")
def test_repeated_prompts_do_not_stop_the_step(tmp_path: Path) -> None:
    assert prompts.main(arguments(tmp_path, write(tmp_path, lines(*MIXED[:2])))) == 0
    report = artifacts.read_json(tmp_path / "out" / "manifest.json")["report"]
    assert report["dropped"] == {"the prompt occurs in an earlier record": 1}


def test_step_with_error_stops_with_a_message_and_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, lines(*MIXED))
    command = [sys.executable, "-m", "selfcontrast.steps.prompts", *arguments(tmp_path, path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "InputError: a record cannot be used: an answer is empty" in done.stderr
    assert f"{path}, row 3" in done.stderr
    assert "set `bad_records: drop`" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("run_here")
@pytest.mark.parametrize("bad_records", ["error", "drop"])
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (lines(GOOD) + b'{"prompt', ["not valid JSON", "row 2"]),
        (lines({"prompt": "a"}, {"prompt": "b"}), ["another layout", "`response` is missing", "row 1"]),
        (gzip.compress(lines(GOOD))[:-4], ["a data file is damaged"]),
        (b"", ["the data set is empty", "no record"]),
    ],
    ids=["cut off", "no such field", "gzip", "empty"],
)
def test_damaged_file_stops_the_step_whatever_bad_records_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad_records: str, content: bytes, parts: list[str]
) -> None:
    """`drop` leaves out records that cannot be used, not a file that cannot be read."""
    path = write(tmp_path, content)
    assert prompts.main(arguments(tmp_path, path, bad_records=bad_records)) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in ["InputError: ", str(path), *parts]), message
    assert "Traceback" not in message
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("run_here")
def test_data_set_without_a_usable_record_stops_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, lines({"prompt": "a", "response": ""}, {"prompt": "b", "response": ""}))
    assert prompts.main(arguments(tmp_path, path, bad_records="drop")) == 2
    message = capsys.readouterr().err
    assert "the data set is empty" in message
    assert "2 records dropped: an answer is empty" in message
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("run_here")
def test_failed_rerun_takes_the_old_manifest_away(tmp_path: Path) -> None:
    """Otherwise the next step would go on with the outputs of other records."""
    path = write(tmp_path, lines(GOOD))
    assert prompts.main(arguments(tmp_path, path)) == 0
    path.write_bytes(b"{")
    assert prompts.main(arguments(tmp_path, path)) == 2
    assert not (tmp_path / "out" / "manifest.json").exists()


# Real records


def turns(text: str) -> list[str]:
    return re.findall(r"\n\n(Human|Assistant):", text)


def has_neighbours_of_one_role(text: str) -> bool:
    roles = turns(text)
    return any(a == b for a, b in zip(roles, roles[1:], strict=False))


@pytest.mark.skipif(not REAL.is_file(), reason="the real HH-RLHF records are not at ../shared/data/hh-rlhf")
def test_every_real_hh_rlhf_record_is_kept_or_counted() -> None:
    """Independent counts: 5 rows whose prompts differ, 4 with an empty last answer, 8 with turns of one role in a row.

    Of the 8, 4 have prompts that differ too and count as those (the fifth such row repeats a role on its rejected side
    alone). So 5 + 4 + 4 rows go and 2299 stay.
    """
    with gzip.open(REAL, "rt", encoding="utf-8", newline="\n") as stream:
        records = [json.loads(line) for line in stream]
    sides = [[r[side].rpartition("\n\nAssistant:") for side in ("chosen", "rejected")] for r in records]
    differ = {i for i, (chosen, rejected) in enumerate(sides, 1) if chosen[0] != rejected[0]}
    empty = {i for i, pair in enumerate(sides, 1) if not all(answer.strip() for _, _, answer in pair)}
    one_role = {i for i, r in enumerate(records, 1) if has_neighbours_of_one_role(r["chosen"])}
    assert (len(records), len(differ), len(empty), len(one_role)) == (2312, 5, 4, 8)

    found = read(hh_rlhf, REAL)
    rows: dict[str, set[int]] = {}
    for bad in (f for f in found if isinstance(f, BadRecord)):
        rows.setdefault(bad.reason, set()).add(bad.row)
    assert [f.row for f in found] == list(range(1, 2313))
    assert rows == {
        "the prompts of chosen and rejected differ": differ,
        "an answer is empty": empty,
        "two turns of one role in a row": one_role - differ,
    }
    kept = [f for f in found if isinstance(f, Dialogue)]
    assert len(kept) == 2312 - len(differ | empty | one_role) == 2299
    lengths = Counter(len(d.messages) for d in kept)
    assert min(lengths) == 1
    for dialogue in kept:
        (chosen_prompt, _, answer), (_, _, rejected) = sides[dialogue.row - 1]
        assert (dialogue.target, dialogue.rejected) == (answer.strip(), (rejected.strip(),))
        assert len(dialogue.messages) == len(turns(chosen_prompt))


@pytest.mark.usefixtures("run_here")
@pytest.mark.skipif(not REAL.is_file(), reason="the real HH-RLHF records are not at ../shared/data/hh-rlhf")
def test_step_accounts_for_every_real_record(tmp_path: Path) -> None:
    """2310 of the 2312 prompts are unique; both repetitions are among the usable records."""
    assert prompts.main(arguments(tmp_path, REAL, adaptor="hh_rlhf", bad_records="drop")) == 0
    report = artifacts.read_json(tmp_path / "out" / "manifest.json")["report"]
    assert report["records"] == report["kept"] + sum(report["dropped"].values()) == 2312
    assert report["kept"] == 2297
    assert report["dropped"] == {
        "an answer is empty": 4,
        "the prompt occurs in an earlier record": 2,
        "the prompts of chosen and rejected differ": 5,
        "two turns of one role in a row": 4,
    }
