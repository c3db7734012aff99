"""Files that somebody else wrote: keys given twice, texts that show nothing, and what a file is that should hold JSON lines."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfcontrast import artifacts, calibration, strict_json
from selfcontrast.datasets import jsonl, nectar, ultrachat
from selfcontrast.errors import InputError
from selfcontrast.judging.questions import read_answers, read_questions
from selfcontrast.judging.replies import Replies
from selfcontrast.lines import read_jsonl, read_lines_or_array
from selfcontrast.linting.findings import FINE, Row
from selfcontrast.linting.reading import benchmark_items
from selfcontrast.linting.text_checks import empty_text
from selfcontrast.records import Answer, BadRecord, Dialogue, Message, PromptPool
from selfcontrast.selections import paper, ranked, target
from selfcontrast.texts import is_blank

# Keys that are given twice

GOOD = b'{"prompt": "a", "response": "b"}\n'


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b'{"prompt": "a", "response": "b", "response": "c"}', "response"),
        (b'{"prompt": "a", "response": "b", "response": "b"}', "response"),
        (b'{"prompt": "a", "r\\u0065sponse": "b", "response": "c"}', "response"),
        (b'{"messages": [{"role": "user", "content": "a", "role": "assistant"}], "response": "b"}', "role"),
        (b'{"prompt": "a", "response": "b", "meta": [{"x": {"id": 1, "id": 2}}]}', "id"),
    ],
    ids=["values differ", "values agree", "one escaped", "in a turn", "in a field that nobody reads"],
)
def test_a_key_given_twice_is_named_with_its_row(tmp_path: Path, line: bytes, key: str) -> None:
    path = tmp_path / "records.jsonl"
    for content in (GOOD + line, gzip.compress(GOOD + line, mtime=0)):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            list(jsonl.read(path))
        assert f'the key "{key}" is given twice' in str(caught.value)
        assert f"{path}, row 2" in str(caught.value)


def test_a_key_in_two_objects_is_no_duplicate() -> None:
    text = '{"a": {"b": 1}, "b": [{"b": 2}, {"b": 3}], "A": 4}'
    assert strict_json.loads(text) == json.loads(text)


@pytest.mark.parametrize("layout", ["lines", "array"])
def test_question_files_refuse_it_too(tmp_path: Path, layout: str) -> None:
    row = '{"question_id": 1, "category": "x", "turns": ["a"], "turns": ["b"]}'
    path = tmp_path / "question.jsonl"
    path.write_text(f"[{row}]" if layout == "array" else row)
    for read in (
        lambda: read_questions(path, "mt_bench"),
        lambda: read_answers(path, "mt_bench"),
        lambda: list(benchmark_items(path)),
    ):
        with pytest.raises(InputError, match='the key "turns" is given twice'):
            read()


def test_other_json_files_refuse_it_too(tmp_path: Path) -> None:
    path = tmp_path / "m" / "a" / "annotations.json"
    path.parent.mkdir(parents=True)
    path.write_text('[{"preference": 1, "preference": 2}]')
    with pytest.raises(InputError, match='the key "preference" is given twice'):
        calibration.read_judged(tmp_path)
    with pytest.raises(InputError, match='the key "preference" is given twice'):
        artifacts.read_json(path)
    replies = tmp_path / "replies.jsonl"
    replies.write_text('{"key": "k", "usd": 0, "reply": 1, "reply": 2}\n')
    with pytest.raises(InputError, match='the key "reply" is given twice'):
        Replies(replies)


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, names=["prompt", "response", "response"]), path)
    with pytest.raises(InputError, match=r"two columns of one name\n  found: response"):
        list(jsonl.read(path))
    turn = pa.StructArray.from_arrays(
        [pa.array(["user"]), pa.array(["a"]), pa.array(["b"])], ["role", "content", "role"]
    )
    pq.write_table(pa.table({"messages": pa.ListArray.from_arrays([0, 1], turn)}), path)
    with pytest.raises(InputError, match=r"two columns of one name\n  found: role"):
        list(ultrachat.read(path))


# Texts that show nothing

INVISIBLE = {
    "zero width space": "\u200b",
    "byte order mark": "\ufeff",
    "word joiner": "\u2060",
    "soft hyphen": "\u00ad",
    "Mongolian vowel separator": "\u180e",
    "left-to-right mark": "\u200e",
    "bell": "\x07",
    "line separator": "\u2028",
    "ideographic space": "\u3000",
    "variation selector": "\ufe0f",
    "variation selector of the supplement": "\U000e0100",
    "tag": "\U000e0041",
    "Braille blank": "\u2800",
    "Hangul filler": "\u3164",
    "half-width Hangul filler": "\uffa0",
    "combining grapheme joiner": "\u034f",
    "nothing": "",
    "several": " \u200b\n\ufeff\u2800\t",
}


@pytest.mark.parametrize("text", INVISIBLE.values(), ids=INVISIBLE)
def test_an_answer_or_question_of_invisible_characters_is_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "records.jsonl"
    rows = [
        ({"prompt": "a", "response": text}, "an answer is empty"),
        ({"prompt": "a", "response": "b", "rejected": ["c", text]}, "an answer is empty"),
        ({"prompt": text, "response": "b"}, "the last user turn is empty"),
    ]
    artifacts.write_jsonl(path, [row for row, _ in rows])
    assert list(jsonl.read(path)) == [BadRecord(reason, i) for i, (_, reason) in enumerate(rows, 1)]
    assert is_blank(text)
    assert not is_blank(f"{text}7{text}")


@pytest.mark.parametrize("text", ["7", "é", "\u0301", "👍🏽", "❤\ufe0f", "👩\u200d💻", "\u200b.", "ᅟ가", "⠁", "�"])
def test_a_text_with_anything_to_see_is_not(text: str) -> None:
    assert not is_blank(text)


def test_every_control_format_and_space_character_is_invisible() -> None:
    wanted = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) in ("Cc", "Cf", "Zs", "Zl", "Zp")]
    assert all(map(is_blank, wanted))
    assert all(is_blank(c) for c in map(chr, range(0x110000)) if c.isspace())


def test_white_space_was_and_is_the_only_thing_that_strip_takes() -> None:
    """What counted as empty before still does: `strip` leaves nothing of a text only if it is blank."""
    assert is_blank("".join(c for c in map(chr, range(0x110000)) if not c.strip()))


def test_selections_and_lint_count_an_invisible_answer_as_empty() -> None:
    answers = (Answer("p.0", "\u200b", 0.1), Answer("p.1", "visible", 0.9))
    pool = PromptPool("x", "target", answers)
    found = target.candidates(pool, n=1, rng=random.Random(0), params=target.Params(pool="p"))
    assert (found.rejected, found.left_out["empty"]) == (("p.1",), 1)
    for empty in ("official", "drop_first"):
        assert paper.candidate_positions(["\u200b", "b"], [0, 1], k=1, mode="alldedup", empty=empty) == [1]
    found = ranked.candidates(pool, n=1, rng=random.Random(0), params=ranked.Params(pool="p", scorer="s"))
    assert (found.rejected, found.left_out["empty"]) == ((), 1)
    row = Row("row 1", Dialogue((Message("user", "?"),), "\u2060", (), 1))
    assert empty_text(row) == "the chosen answer is empty"
    assert empty_text(Row("row 1", Dialogue((Message("user", "?"),), "7", (), 1))) == FINE


def test_an_invisible_character_does_not_close_an_open_answer(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    answers = [{"answer": "7", "rank": 1}, {"answer": "9", "rank": 2}]
    artifacts.write_jsonl(path, [{"prompt": "\n\nHuman: Name a prime.\n\nAssistant:\u200b", "answers": answers}])
    (found,) = nectar.read(path)
    assert isinstance(found, Dialogue)


# What a file is

TWO = GOOD + GOOD
ARRAY = b'[{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}]'


def parquet_bytes(folder: Path) -> bytes:
    pq.write_table(pa.table({"prompt": ["a"]}), folder / "p")
    return (folder / "p").read_bytes()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (ARRAY, "one JSON array, and not JSON lines"),
        (b"\xef\xbb\xbf \n" + ARRAY, "one JSON array, and not JSON lines"),
        (json.dumps(json.loads(ARRAY), indent=1).encode(), "one JSON array, and not JSON lines"),
        (gzip.compress(ARRAY, mtime=0), "one JSON array, and not JSON lines"),
        (b"[]", "one JSON array, and not JSON lines"),
        (json.dumps({"data": []}, indent=1).encode(), "JSON with records over several lines"),
        (b"prompt,response\na,b\n", "no JSON; it looks like a table of comma-separated values"),
        (b"prompt\tresponse\na\tb\n", "no JSON; it looks like a table of tab-separated values"),
        (bz2.compress(TWO), "compressed with bzip2"),
        (lzma.compress(TWO), "compressed with xz"),
        (b"\x28\xb5\x2f\xfd\x04\x58", "compressed with zstd"),
        (gzip.compress(gzip.compress(TWO, mtime=0), mtime=0), "compressed twice with gzip"),
        (b"PK\x03\x04\x14\0", "a zip archive"),
        (TWO.decode().encode("utf-16"), "text in UTF-16"),
        (TWO.decode().encode("utf-16-le"), "text in UTF-16"),
        (TWO.decode().encode("utf-16-be"), "text in UTF-16"),
        (TWO.decode().encode("utf-32"), "text in UTF-32"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html>\n<html>", "a web page"),
        (b"SQLite format 3\0\1\2", "an SQLite database"),
        (b"<?xml version='1.0'?>\n<a b='1,2'/>\n", "XML, and not JSON"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF file"),
        (b"\x80\x04\x95\0\0\0\0", "binary"),
        (b"\4\0\0\0\0\0\x20\x41\1\0\0\0a\0\0\0\0\1\0\0\0b", "binary"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "records"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(jsonl.read(path))
    assert f"a file of records is {sentence}" in str(caught.value)
    assert "cut off" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "".join(f"\x1e{json.dumps({'prompt': 'a, b', 'response': 'c'})}\n" for _ in range(2)),  # RFC 7464
        "Access to this data set is restricted, you must log in.\n",
        "- prompt: a, b\n  response: c\n",
        "data = {'prompt': 'a', 'response': 'b'}\n",
    ],
)
def test_a_text_with_commas_is_not_called_a_table(tmp_path: Path, content: str) -> None:
    path = tmp_path / "records"
    path.write_text(content)
    with pytest.raises(InputError, match="a record is not valid JSON") as caught:
        list(jsonl.read(path))
    assert "table" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[{"instruction": "caf\xe9"}]', "a file is not text in UTF-8"),
        ("[null]", "an entry of a JSON array is not an object\n  found: null"),
        ("7", "a record is not a JSON object\n  found: a number"),
    ],
)
def test_what_is_wrong_with_a_file_of_questions_is_said_in_words(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "questions.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=re.escape(sentence)):
        read_questions(path, "alpaca_eval")


def test_gzipped_parquet_is_told_from_text(tmp_path: Path) -> None:
    path = tmp_path / "records"
    path.write_bytes(gzip.compress(parquet_bytes(tmp_path), mtime=0))
    with pytest.raises(InputError, match="a file of records is a parquet file"):
        list(jsonl.read(path))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (TWO + b'{"prompt": "a", "resp', "the last record is not valid JSON: it is cut off"),
        (TWO + b'{"prompt": "a",', "the last record is not valid JSON: it is cut off"),
        (TWO + b'{"prompt": "a",\n"response": "b"}\n' + TWO, "a record is not valid JSON: it does not end on its line"),
        (b"{'prompt': 'a'}\n", "a record is not valid JSON\n"),
        (TWO + b"prompt,response\n", "a record is not valid JSON\n"),
    ],
)
def test_cut_off_is_said_of_a_last_line_that_ends_early(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "records"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_jsonl(path))
    assert sentence in str(caught.value)
    assert ("cut off" in str(caught.value)) == ("cut off" in sentence)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n  \n"])
def test_arrays_and_lines_of_a_benchmark_give_the_same_records(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "questions"
    found = []
    for content in (start + ARRAY, start + b"\n".join(json.dumps(r).encode() for r in json.loads(ARRAY))):
        path.write_bytes(content)
        found.append([record for _, record in read_lines_or_array(path)])
    assert found[0] == found[1] == json.loads(ARRAY)
