"""The linter on files, encoded splits and studies: known counts, levels, exit codes, and what it says of what it cannot do."""

from __future__ import annotations

import argparse
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from selfcontrast import __main__, artifacts, cli, plugins
from selfcontrast.artifacts import Artifact
from selfcontrast.errors import InputError
from selfcontrast.linting import guessing, words
from selfcontrast.linting.across import HeldOut, LengthSkew, Overlap
from selfcontrast.linting.findings import Finding, Row, Unusable, excerpt, to_text, to_tsv
from selfcontrast.linting.passes import check_encoded, check_licence, check_records, check_templates, run_checks
from selfcontrast.linting.reading import benchmark_items
from selfcontrast.linting.text_checks import merits
from selfcontrast.records import Dialogue, Message
from selfcontrast.rendering import Renderer
from selfcontrast.steps import encode, prompts
from selfcontrast.steps import lint as lint_step
from selfcontrast.world.checkpoint import build_tokenizer
from selfcontrast.world.layouts import write_records

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
REAL = DATA / "hh-rlhf" / "harmless-base-test.jsonl.gz"
SELF_INSTRUCT = DATA / "self-instruct" / "user_oriented_instructions.jsonl"
MT_BENCH = DATA / "mt-bench" / "question.jsonl"


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    artifacts.write_jsonl(path, records)
    return path


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {f.check: f for f in findings}


def row(prompt: str, target: str, rejected: tuple[str, ...] = (), place: str = "row 1") -> Row:
    return Row(place, Dialogue((Message("user", prompt),), target, rejected, 1))


# Direction


def read_last_as_best(path: Path) -> Any:
    """Take the answer listed last as the chosen one, although rank 1 is the best: the preference is turned round."""
    for number, record in artifacts.read_jsonl(path):
        answers = [a["answer"] for a in record["answers"]]
        yield Dialogue((Message("user", "Name a prime."),), answers[-1], tuple(answers[:-1]), number)


def nectar_records(n: int) -> list[dict[str, Any]]:
    answers = [{"answer": "7", "rank": 1.0}, {"answer": "nine", "rank": 2}, {"answer": "8", "rank": 3}]
    return [{"prompt": f"\n\nHuman: {i}?\n\nAssistant: ", "answers": answers} for i in range(n)]


def test_an_adaptor_that_turns_ranks_round_is_an_error_in_every_row(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "nectar.jsonl", nectar_records(4))
    turned = SimpleNamespace(read=read_last_as_best, LICENCE="MIT")
    found = by_check(check_records([path], turned))["direction"]  # type: ignore[arg-type]
    assert (found.level, found.count, found.total) == ("error", 4, 4)
    assert "direction" not in by_check(check_records([path], plugins.load("datasets", "nectar")))


@pytest.mark.parametrize(("wrong", "level"), [(1, "warning"), (2, "error")])
def test_wrong_rows_are_an_error_beyond_one_in_a_hundred(tmp_path: Path, wrong: int, level: str) -> None:
    """Of 100 rows one is tolerated with a warning; two are not."""
    records = [
        {"prompt": f"{i}", "response": "a", "rejected": "b", "score_chosen": 1 + (i >= wrong), "score_rejected": 1.5}
        for i in range(100)
    ]
    found = by_check(check_records([write_jsonl(tmp_path / "r", records)], plugins.load("datasets", "jsonl")))
    assert (found["direction"].level, found["direction"].count) == (level, wrong)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"score_chosen": 8, "score_rejected": 3.5}, (8, [3.5])),
        ({"chosen_rating": 2, "rejected_rating": 4}, (2, [4])),
        ({"rank_chosen": 1, "rank_rejected": 3}, (-1, [-3])),
        ({"score_chosen": True, "score_rejected": False}, None),
        ({"score_chosen": 8}, None),
        (
            {"completions": [{"response": " yes", "overall_score": 7.5}, {"response": "no ", "overall_score": 9}]},
            (7.5, [9]),
        ),
        (
            {"answers": [{"answer": "yes", "rank": 2}, {"answer": "yes", "rank": 1}, {"answer": "no", "rank": 1}]},
            (-1, [-1]),
        ),
        ({"answers": [{"answer": "other", "rank": 1}]}, None),
        ({"answers": ["yes", "no"]}, None),
    ],
)
def test_merits_are_read_from_pairs_of_fields_and_from_lists(record: dict[str, Any], expected: Any) -> None:
    """More is better, so that ranks are negative; where a text occurs twice, the reading that excuses the row counts."""
    r = Row("row 1", Dialogue((Message("user", "?"),), "yes", ("no",), 1), record)
    assert merits(r) == expected


# Skew


def test_skew_gives_the_geometric_mean_ratio_and_wilcoxons_p_value() -> None:
    """Lengths 3 and 1 words, so (3 + 1) / (1 + 1) = 2 in each of 40 rows; half as long in the other direction."""
    for target, rejected, ratio, count in (("a b c", "a", "2.00", 40), ("a", "a b c", "0.50", 0)):
        (found,) = run_checks([row(f"{i}", target, (rejected,)) for i in range(40)], [LengthSkew()])
        p = stats.wilcoxon([math.log(float(ratio))] * 40).pvalue
        assert found.what.startswith(f"chosen answers have {ratio} times the words of rejected ones (p = {p:.2g})")
        assert (found.level, found.count, found.total) == ("warning", count, 40)


def test_of_several_rejected_answers_the_geometric_mean_counts() -> None:
    """(7 + 1) against sqrt((1 + 1) * (7 + 1)) = 4 gives 2."""
    rows = [row(f"{i}", "a b c d e f g", ("a", "a b c d e f g")) for i in range(40)]
    assert run_checks(rows, [LengthSkew()])[0].what.startswith("chosen answers have 2.00 times")


def test_lengths_that_differ_by_chance_or_in_few_rows_are_no_skew() -> None:
    alternating = [row(f"{i}", "a b" if i % 2 else "a", ("a" if i % 2 else "a b",)) for i in range(100)]
    assert run_checks(alternating, [LengthSkew()]) == []
    assert run_checks([row(f"{i}", "a b c d", ("a",)) for i in range(19)], [LengthSkew()]) == []


# Overlap

SENTENCE = "the quick brown fox jumps over the lazy dog while seven cats watch from a wall"


def overlap(held_out: list[tuple[str, list[str], list[str]]], *rows: Row) -> list[Finding]:
    return run_checks(rows, [Overlap(HeldOut.index("test", held_out))])


def test_thirteen_words_in_a_row_count_and_twelve_do_not() -> None:
    """The held-out text has 16 words; case and punctuation do not matter."""
    held_out = [("row 9", ["What is shown?"], [SENTENCE])]
    thirteen = "Well: " + " ".join(SENTENCE.split()[2:15]).upper().replace("DOG", "dog,") + "!"
    assert overlap(held_out, row("q", " ".join(SENTENCE.split()[2:14]))) == []
    (found,) = overlap(held_out, row("q", "nothing"), row("q", thirteen, place="row 2"))
    assert (found.count, found.total, found.example) == (1, 1, "row 2 has 13 words of row 9")


def test_texts_of_8_to_12_words_count_as_a_whole() -> None:
    held_out = [("a", ["one two three four five six seven eight"], []), ("b", ["entirely different"], [])]
    assert overlap(held_out, row("one two three four five six seven", "x")) == []
    (found,) = overlap(held_out, row("q", "zero one two three four five six seven eight nine"))
    assert (found.count, found.total) == (1, 2)


def test_a_short_prompt_counts_only_as_the_whole_prompt_and_a_short_answer_never() -> None:
    held_out = [("a", ["Name a prime."], ["Seven."])]
    assert overlap(held_out, row("Please name a prime.", "Seven.")) == []
    dialogue = Dialogue(
        (Message("user", "Name a prime."), Message("assistant", "7"), Message("user", "More")), "11", (), 1
    )
    assert overlap(held_out, Row("row 1", dialogue)) == []
    assert overlap(held_out, row("name a PRIME", "11"))[0].count == 1


def test_every_item_with_a_shared_phrase_counts_once() -> None:
    held_out = [(f"{i}", [f"{SENTENCE} {i}"], []) for i in range(5)] + [("x", ["something else"], [])]
    (found,) = overlap(held_out, row("q", SENTENCE), row("q", SENTENCE))
    assert (found.count, found.total) == (5, 6)


LETTERS = st.lists(st.sampled_from("abc"), max_size=12)


@settings(deadline=None, derandomize=True)
@given(LETTERS, LETTERS, st.sets(st.integers(1, 4)))
def test_hashes_are_equal_where_the_words_are(first: list[str], second: list[str], lengths: set[int]) -> None:
    hashes = [{n: h.tolist() for n, h in words.ngrams(w, lengths)} for w in (first, second)]
    assert [set(h) for h in hashes] == [{n for n in lengths if n <= len(w)} for w in (first, second)]
    for n in hashes[0].keys() & hashes[1].keys():
        grams = [[tuple(w[i : i + n]) for i in range(len(w) - n + 1)] for w in (first, second)]
        assert [[a == b for b in hashes[1][n]] for a in hashes[0][n]] == [[a == b for b in grams[1]] for a in grams[0]]


# Templates and licences


def test_stages_with_another_template_are_an_error() -> None:
    assert check_templates({"encode": "a", "base model": "a"}) == []
    (found,) = check_templates({"encode": "a", "base model": "b", "sft/model": "a"})
    assert (found.level, found.count, found.total, found.example) == ("error", 1, 3, "base model")


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        *((licence, None) for licence in ("MIT", "Apache-2.0", "CC BY 4.0", "CC-BY-SA-4.0", "yours")),
        *((licence, "no commercial use") for licence in ("CC BY-NC 4.0", "CC-BY-NC-SA-4.0", "non-commercial only")),
        ("see the card of x", "read it"),
    ],
)
def test_only_a_licence_that_needs_a_look_is_noted(licence: str, expected: str | None) -> None:
    found = check_licence(SimpleNamespace(LICENCE=licence))  # type: ignore[arg-type]
    assert [f.what.startswith(expected or "-") for f in found] == ([] if expected is None else [True])


# Files


def test_records_that_the_adaptor_leaves_out_are_counted_by_reason() -> None:
    found = run_checks([Unusable("row 3", "no"), row("a", "b"), Unusable("row 5", "no"), Unusable("row 6", "why")], [])
    assert [(f.what.rpartition(": ")[2], f.count, f.total, f.example) for f in found] == [
        ("no", 2, 4, "row 3"),
        ("why", 1, 4, "row 6"),
    ]


def test_of_several_files_an_example_names_its_own_by_what_tells_them_apart(tmp_path: Path) -> None:
    """The four subsets of HH-RLHF each have a train.jsonl.gz."""
    fine = {"prompt": "Name a prime.", "response": "7", "rejected": "9"}
    for folder in ("helpful", "harmless"):
        (tmp_path / folder).mkdir()
        rows = [fine, fine | {"response": ""}] if folder == "helpful" else [fine]
        write_jsonl(tmp_path / folder / "train.jsonl", rows)
    files = [tmp_path / folder / "train.jsonl" for folder in ("harmless", "helpful")]
    found = by_check(check_records(files, plugins.load("datasets", "jsonl")))
    assert found["unusable"].example == "helpful/train.jsonl row 2"
    assert found["repeated"].example.startswith("helpful/train.jsonl row 1:")


@pytest.mark.parametrize(("bad", "level"), [(5, "warning"), (6, "error")])
def test_a_file_of_which_most_records_are_left_out_is_the_wrong_file(bad: int, level: str) -> None:
    rows = [*(Unusable(f"row {i}", "no") for i in range(bad)), *(row(f"{i}", "b") for i in range(10 - bad))]
    found = run_checks(rows, [])
    assert [f.level for f in found] == [level]


@pytest.mark.parametrize(("reversed_", "level"), [(1, "warning"), (2, "error")])
def test_pairs_that_ultrafeedback_has_the_wrong_way_round_are_an_error(
    tmp_path: Path, reversed_: int, level: str
) -> None:
    """The adaptor leaves such pairs out, so that no other check sees them; of 100 one is tolerated."""

    def turns(i: int, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"Is {i} a prime?"}, {"role": "assistant", "content": answer}]

    records = [
        {
            "chosen": turns(i, "yes"),
            "rejected": turns(i, "no"),
            "score_chosen": 1.0 if i < reversed_ else 9.0,
            "score_rejected": 5.0,
        }
        for i in range(100)
    ]
    path = write_jsonl(tmp_path / "r", records)
    found = by_check(check_records([path], plugins.load("datasets", "ultrafeedback")))["unusable"]
    assert (found.level, found.count, found.example) == (level, reversed_, "row 1")


def guess(*paths: Path) -> guessing.Fit:
    return guessing.best_of(guessing.try_adaptors(paths), "here")


@pytest.mark.parametrize("layout", ["hh_rlhf", "nectar", "ultrachat"])
def test_the_adaptor_is_guessed_from_the_records(tmp_path: Path, layout: str) -> None:
    write_records(tmp_path / "records", layout=layout, dialogues=3, seed=0)
    found = guess(tmp_path / "records")
    assert (found.name, found.of_layout, found.records) == (layout, 3, 3)


def test_an_adaptor_that_finds_a_dialogue_goes_before_one_that_leaves_the_record_out(tmp_path: Path) -> None:
    """UltraChat's adaptor can read messages whose answer stands beside them, but finds no answer in any record."""
    record = {"messages": [{"role": "user", "content": "Name a prime."}], "response": "7"}
    assert guess(write_jsonl(tmp_path / "r", [record])).name == "jsonl"


ODD_ROWS = [
    {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"prompt": None, "response": None},
    {"prompt": "", "response": ""},
    {},
]


@pytest.mark.parametrize("odd", ODD_ROWS)
@pytest.mark.parametrize("place", [0, 20, 40])
def test_one_odd_record_decides_nothing_wherever_it_stands(tmp_path: Path, odd: dict[str, Any], place: int) -> None:
    rows = [{"prompt": f"Name prime {i}.", "response": "7", "rejected": "9"} for i in range(40)]
    rows.insert(place, odd)
    found = guess(write_jsonl(tmp_path / "r", rows))
    assert (found.name, found.with_rejected, found.records) == ("jsonl", 40, 41)


def test_a_few_pairs_among_many_dialogues_do_not_decide_either(tmp_path: Path) -> None:
    """Of 40 records 3 have another layout with rejected answers: most records count."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write_jsonl(tmp_path / "r", [ODD_ROWS[0]] * 3 + [{"messages": turns}] * 37)
    assert guess(path).name == "ultrachat"


def test_all_files_and_all_parts_of_them_are_tried(tmp_path: Path) -> None:
    """The first file has 10 records of one layout, the second 3,000 of another; about one in four is tried."""
    write_records(tmp_path / "a.jsonl", layout="hh_rlhf", dialogues=10, seed=0)
    write_records(tmp_path / "b.jsonl", layout="nectar", dialogues=3000, seed=0)
    tried = guessing.try_adaptors([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    best = guessing.best_of(tried, "here")
    assert (best.name, tried.total) == ("nectar", 3010)
    assert 500 <= best.records <= 1000
    assert 0.99 < best.of_layout / best.records < 1


@pytest.mark.parametrize(
    ("n", "kept", "step"), [(0, 0, 1), (1, 1, 1), (10, 10, 1), (11, 6, 2), (20, 10, 2), (21, 6, 4)]
)
def test_a_sample_is_spread_at_equal_distances(n: int, kept: int, step: int) -> None:
    found, total = guessing.spread(range(n), 10)
    assert (len(found), total) == (kept, n)
    assert found == list(range(0, n, step))


def test_lint_says_how_many_records_fit_and_what_would_fit_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of UltraFeedback also have `messages`, which UltraChat's adaptor reads; its pairs go first."""
    turns = [{"role": "user", "content": "Is 7 a prime?"}, {"role": "assistant", "content": "yes"}]
    worse = [turns[0], {"role": "assistant", "content": "no"}]
    rows = [{"messages": turns, "chosen": turns, "rejected": worse, "score_chosen": 9, "score_rejected": 1}] * 40
    rows[0] = {**rows[0], "score_chosen": 0}
    path = write_jsonl(tmp_path / "r", rows)
    lint(str(path))
    out = capsys.readouterr().out
    assert (
        "adaptor: ultrafeedback, guessed (--adaptor names another): 40 of 40 records have its layout, 39 can be used, "
        "39 of them with rejected answers\n" in out
    )
    assert (
        "ultrachat would fit too: 40 of 40 records have its layout, 40 can be used, 0 of them with rejected answers"
        in out
    )
    lint(str(write_jsonl(tmp_path / "own", [GOOD] * 39 + [{"prompt": "a", "response": None}])), "--adaptor", "jsonl")
    assert "adaptor: jsonl: 39 of 40 records have its layout, 39 can be used" in capsys.readouterr().out


def test_lint_with_the_wrong_adaptor_says_which_one_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(str(write_jsonl(tmp_path / "own", [GOOD] * 4)), "--adaptor", "ultrachat") == 2
    out, err = capsys.readouterr()
    assert "jsonl would fit too: 4 of 4 records have its layout, 4 can be used" in out
    assert "the file has another layout" in err
    assert "`messages` is missing in 4 of 4 records" in err


@pytest.mark.parametrize("length", ["0", "-1"])
def test_a_length_of_no_tokens_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], length: str) -> None:
    """0 was taken for no length at all."""
    assert lint(str(write_jsonl(tmp_path / "own", [GOOD])), "--max-length", length) == 2
    assert "--max-length is a number of tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [{"question": "?"}],
            "of 1 records `jsonl`: `prompt` and `messages` are missing in 1; `hh_rlhf`: `chosen` is missing in 1;",
        ),
        ([{"prompt": "a", "response": 7}] * 3, "of 3 records `jsonl`: `response` is not a text in 3;"),
        ([{"prompt": "a", "response": None}], "of 1 records `jsonl`: `response` is missing in 1;"),
        ([7, 8], "of 2 records `jsonl`: the record is not a JSON object in 2;"),
        (
            [{"chosen": [], "rejected": []}],  # as TRL's sets without scores are: `hh_rlhf` was called the nearest
            "`ultrafeedback`: `score_chosen` is missing in 1",
        ),
    ],
)
def test_records_that_fit_no_adaptor_are_told_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Any], sentence: str
) -> None:
    assert lint(str(write_jsonl(tmp_path / "r", rows))) == 2
    message = capsys.readouterr().err
    assert "no adaptor fits the records" in message
    assert sentence in message
    assert 'that of `jsonl` is for any data: {"prompt": "...", "response": "..."' in message


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "there is no record to check\n  found: 0 bytes\n"),
        (gzip.compress(b"", mtime=0), "found: 20 bytes\n"),  # blank lines were said to be in it
        (b"\n \n", "found: 3 bytes, blank lines alone"),
        (json.dumps([{"prompt": "a", "response": "b"}]).encode(), "is one JSON array, and not JSON lines"),
        (b"prompt,response\na,b\n", "it looks like a table of comma-separated values"),
    ],
)
def test_a_file_without_records_is_called_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, sentence: str
) -> None:
    (tmp_path / "r").write_bytes(content)
    for flags in ([], ["--adaptor", "jsonl"]):
        assert lint(str(tmp_path / "r"), *flags) == 2
        message = capsys.readouterr().err
        assert sentence in message
        assert "no adaptor fits" not in message
        assert "cut off" not in message


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"turns": ["a", "b"]}\n', "row 1"),
        ('[{"instruction": "a", "output": "b"}]', "entry 1"),
        (' [{"prompt": "a"}]', "entry 1"),
    ],
)
def test_benchmarks_are_read_as_lines_or_as_one_array(tmp_path: Path, text: str, place: str) -> None:
    (tmp_path / "f").write_text(text)
    ((label, asked, _),) = benchmark_items(tmp_path / "f")
    assert (label, asked[0]) == (place, "a")


def test_a_benchmark_without_prompts_names_its_fields(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no prompt[\s\S]*found: idea"):
        list(benchmark_items(write_jsonl(tmp_path / "f", [{"idea": "a"}])))


def lint(*args: str) -> int:
    return __main__.main(["lint", *args])


GOOD = {"prompt": "Name a prime.", "response": "7", "rejected": "nine", "score_chosen": 2, "score_rejected": 1}


def test_exit_code_tells_errors_from_none_and_from_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", [GOOD])
    bad = write_jsonl(tmp_path / "bad.jsonl", [{**GOOD, "score_chosen": 0}])
    assert lint(str(good)) == 0
    out = capsys.readouterr().out
    assert "adaptor: jsonl, guessed" in out
    assert "nothing found" in out
    assert lint(str(bad), "--adaptor", "jsonl") == 1
    out = capsys.readouterr().out
    assert "guessed" not in out
    assert "1 error, 0 warnings, 0 info" in out
    for missing in (str(tmp_path / "none"), "none.jsonl"):
        assert lint(missing) == 2
        assert "a data file is missing" in capsys.readouterr().err
    assert lint("nostudy") == 2
    assert "there is no study `nostudy`" in capsys.readouterr().err
    assert lint("smoke", "--adaptor", "jsonl") == 2
    assert "a study names its own" in capsys.readouterr().err
    monkeypatch.setattr(__main__, "RESULTS", tmp_path)
    assert lint("smoke") == 2
    assert "the study has no records yet" in capsys.readouterr().err
    assert lint(str(good), "--against", str(tmp_path / "none.jsonl")) == 2


def test_a_tokenizer_adds_the_checks_of_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pocket world's tokenizer has the context in its model's config.json; `--max-length` goes before it."""
    write_records(tmp_path / "records", layout="hh_rlhf", dialogues=30, seed=0)
    build_tokenizer(max_length=128).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"max_position_embeddings": 128}))
    assert lint(str(tmp_path / "records")) == 0
    assert "BOS, EOS and truncation are not checked" in capsys.readouterr().out
    assert lint(str(tmp_path / "records"), "--model", str(tmp_path / "model")) == 0
    assert "truncated" not in capsys.readouterr().out
    assert lint(str(tmp_path / "records"), "--model", str(tmp_path / "model"), "--max-length", "20") == 0
    assert "the prompt with one of its answers is longer than the context" in capsys.readouterr().out
    assert lint(str(tmp_path / "records"), "--tokenizer", str(tmp_path / "model")) == 0
    assert "the length of the context is not known" in capsys.readouterr().out


def test_examples_are_one_short_printable_line() -> None:
    assert excerpt("a\n\tb  c") == "a b c"
    assert excerpt("\x1b[31mred") == "\ufffd[31mred"
    assert len(excerpt("x" * 500)) == 60


def test_tables_put_errors_first() -> None:
    findings = [Finding("info", "a", "x", 1, 3), Finding("error", "b", "y", 2, 4, "row 1: z")]
    assert to_tsv(findings) == (
        "level\tcheck\twhat\tcount\tshare\texample\nerror\tb\ty\t2\t0.5\trow 1: z\ninfo\ta\tx\t1\t0.333333\t\n"
    )
    assert to_text(findings).splitlines()[1].split() == ["error", "b", "y", "2", "50.00", "%", "row", "1:", "z"]


# Encoded splits and the step


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the frame of a step from watching the parent of pytest, and from changing its environment."""
    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)


def encode_records(records: Path, adaptor: str) -> argparse.Namespace:
    """Read 60 records and encode them by the two steps before `lint`; return the flags of `lint`, and its spec."""
    root = records.parent
    build_tokenizer(max_length=128).save_pretrained(root / "model")
    base = {"template": "tokenizer", "max_length": 128, "trust_remote_code": False}
    splits = {"sft": 30, "pool": 10, "validation": 5, "test": 10}

    def run(step: Any, key: str, spec: dict[str, Any], *flags: str) -> Path:
        artifacts.write_json(root / key / "spec.json", spec)
        manifest = root / key / "manifest.json"
        assert step.main(["--spec", str(root / key / "spec.json"), "--out", str(manifest), *flags]) == 0
        return manifest

    spec = {"adaptor": adaptor, "bad_records": "error", "sha256": None}
    dialogues = run(prompts, "hh/prompts", spec, "--records", str(records))
    flags = ["--dialogues", str(dialogues), "--base", str(root / "model"), "--room", "24"]
    spec = {**base, "splits": splits, "long_prompts": "drop", "bad_records": "error", "seed": 1}
    return argparse.Namespace(
        records=[records],
        dialogues=dialogues,
        prompts=run(encode, "hh/pocket/prompts", spec, *flags),
        base=str(root / "model"),
        against=[],
        needs={},
        graded=[],
        folder=root / "hh" / "pocket" / "lint",
        spec={**base, "adaptor": adaptor, "errors": "stop"},
    )


def check_flags(flags: argparse.Namespace) -> list[Finding]:
    renderer = Renderer(build_tokenizer(max_length=128), "tokenizer")
    return check_encoded(Artifact.open(flags.prompts), Artifact.open(flags.dialogues), renderer, max_length=128)


@pytest.fixture
def encoded(tmp_path: Path, in_process: None) -> argparse.Namespace:
    """Return the flags of the step for 60 dialogues of the pocket world."""
    write_records(tmp_path / "records", layout="hh_rlhf", dialogues=60, seed=0)
    return encode_records(tmp_path / "records", "hh_rlhf")


def run_step(encoded: argparse.Namespace) -> cli.Step:
    encoded.folder.mkdir(parents=True, exist_ok=True)
    step = cli.Step(encoded.spec, encoded.folder / "manifest.json")
    lint_step.work(encoded, step)
    return step


def test_step_writes_a_table_and_counts_its_levels(encoded: argparse.Namespace) -> None:
    step = run_step(encoded)
    lines = (encoded.folder / "findings.tsv").read_text().splitlines()
    assert lines[0] == "level\tcheck\twhat\tcount\tshare\texample"
    assert step.report["findings"]["error"] == 0
    assert sum(step.report["findings"].values()) == len(lines) - 1


def test_step_looks_for_the_questions_on_which_arms_are_evaluated(encoded: argparse.Namespace, tmp_path: Path) -> None:
    members = artifacts.read_table(encoded.prompts.parent / "sft.parquet")["prompt_id"]
    _, trained = next(
        row
        for row in artifacts.read_jsonl(encoded.dialogues.parent / "dialogues.jsonl.gz")
        if row[1]["prompt_id"] in members
    )
    question = trained["messages"][-1]["content"]
    encoded.against = [
        write_jsonl(tmp_path / "question.jsonl", [{"turns": [question]}, {"turns": ["Something else?"]}])
    ]
    run_step(encoded)
    lines = (encoded.folder / "findings.tsv").read_text().splitlines()
    (found,) = [line.split("\t") for line in lines if "`question.jsonl`" in line]
    assert found[:2] + found[3:5] == ["warning", "overlap", "1", "0.5"]


def test_step_stops_at_another_template_unless_the_study_says_report(encoded: argparse.Namespace) -> None:
    """The model's tokenizer is changed behind the back of the splits."""
    config = Path(encoded.base, "tokenizer_config.json")
    template = Path(encoded.base, "chat_template.jinja")
    assert template.is_file(), sorted(p.name for p in config.parent.iterdir())
    template.write_text(template.read_text() + " ")
    with pytest.raises(InputError, match=r"error +template[\s\S]*set `lint: report`"):
        run_step(encoded)
    assert not (encoded.folder / "findings.tsv").exists()
    encoded.spec["errors"] = "report"
    assert run_step(encoded).report["findings"]["error"] == 1


@pytest.fixture
def unannotated(tmp_path: Path, in_process: None) -> argparse.Namespace:
    """Return the flags of the step for 60 dialogues without a rejected answer."""
    rows = [{"prompt": f"p{i}", "response": "yes"} for i in range(60)]
    return encode_records(write_jsonl(tmp_path / "mine.jsonl", rows), "jsonl")


def test_step_stops_for_an_arm_without_data_even_where_findings_are_only_reported(
    unannotated: argparse.Namespace,
) -> None:
    unannotated.spec["errors"] = "report"
    assert run_step(unannotated).report["findings"]["error"] == 0
    unannotated.needs = {"dpo-annotated-n1": [1, 1]}
    with pytest.raises(InputError, match="no rejected answers in 10 prompts of the split `pool`"):
        run_step(unannotated)


def test_step_stops_at_prompts_that_cannot_be_graded(unannotated: argparse.Namespace) -> None:
    unannotated.graded = ["test"]
    with pytest.raises(InputError, match="the grader knows only prompts of the pocket world"):
        run_step(unannotated)


@pytest.fixture
def spoil(encoded: argparse.Namespace) -> Callable[..., None]:
    """Return a function that changes the first row of an encoded split, and its manifest with it."""

    def change(split: str, **values: Any) -> None:
        path = encoded.prompts.parent / f"{split}.parquet"
        columns = artifacts.read_table(path)
        for key, value in values.items():
            columns[key][0] = value(columns[key][0]) if callable(value) else value
        artifacts.write_table(path, columns)
        manifest = artifacts.read_json(encoded.prompts)
        manifest["outputs"][path.name] = artifacts.sha256(path)
        artifacts.write_json(encoded.prompts, manifest)

    return change


@pytest.mark.parametrize(
    ("check", "level", "change"),
    [
        ("bos", "error", {"prompt_ids": lambda ids: ids[1:]}),
        ("bos", "error", {"prompt_ids": lambda ids: [ids[0], *ids]}),
        ("bos_inside", "warning", {"prompt_ids": lambda ids: [*ids, ids[0]]}),
        ("eos", "error", {"target_ids": lambda ids: ids[:-1]}),
        ("eos", "error", {"target_ids": lambda ids: [*ids, ids[-1]]}),
        ("eos", "error", {"target_ids": lambda ids: [ids[-1], *ids]}),
        ("long_prompt", "warning", {"prompt_ids": lambda ids: [*ids, *[ids[1]] * 128]}),
    ],
)
@pytest.mark.parametrize("split", ["sft", "test"])
def test_one_wrong_id_among_the_ids_that_training_reads_is_found(
    encoded: argparse.Namespace, spoil: Callable[..., None], split: str, check: str, level: str, change: dict[str, Any]
) -> None:
    assert check not in by_check(check_flags(encoded))
    spoil(split, **change)
    after = by_check(check_flags(encoded))[check]
    assert (after.level, after.count, after.total) == (level, 1, 45)
    assert after.example.startswith(f"{split}, prompt ")


def test_prompts_that_were_too_long_to_encode_are_reported(encoded: argparse.Namespace) -> None:
    """5 of 60 are said to have been dropped: 5 of 65 with those that are there."""
    manifest = artifacts.read_json(encoded.prompts)
    manifest["report"]["dropped"] = {"too long": 5}
    artifacts.write_json(encoded.prompts, manifest)
    assert [(f.count, f.total) for f in check_flags(encoded) if f.check == "truncated"] == [(5, 65)]


def test_a_held_out_prompt_whose_twin_is_trained_on_overlaps(tmp_path: Path, in_process: None) -> None:
    """30 prompts of 14 words, each also in capitals: a test prompt overlaps if and only if its twin is in `sft`."""
    texts = [" ".join(f"w{i}x{j}" for j in range(14)) for i in range(30)]
    records = [{"prompt": t, "response": "The cat."} for text in texts for t in (text, text.upper())]
    flags = encode_records(write_jsonl(tmp_path / "records", records), "jsonl")
    splits = Artifact.open(flags.prompts)
    asked = {split: splits.table(f"{split}.parquet")["prompt"] for split in ("sft", "test")}
    twins = {prompt.lower() for prompt in asked["sft"]} & {prompt.lower() for prompt in asked["test"]}
    assert 0 < len(twins) < 10
    (found,) = [f for f in check_flags(flags) if f.check == "overlap" and "`test`" in f.what]
    assert (found.count, found.total) == (len(twins), 10)


# Real data


@pytest.mark.skipif(not REAL.is_file(), reason="real data not found beside the project")
def test_the_known_counts_of_real_hh_rlhf_come_out() -> None:
    """What is known of the 2,312 rows, from reading their texts without an adaptor.

    5 have differing prompts, 4 an empty answer, 4 two turns of one role (in both of their texts, hence 8 texts); there are
    2,310 distinct prompts; in 5 rows one text begins with the other: the 4 with an empty answer, and row 1610.
    """
    findings = check_records([REAL], plugins.load("datasets", "hh_rlhf"))
    left_out = {f.what.rpartition(": ")[2]: f.count for f in findings if f.check == "unusable"}
    assert left_out == {
        "the prompts of chosen and rejected differ": 5,
        "an answer is empty": 4,
        "two turns of one role in a row": 4,
    }
    assert {f.total for f in findings if f.check == "unusable"} == {2312}
    found = by_check(findings)
    assert (found["repeated"].count, found["repeated"].total) == (2, 2312 - 13)
    assert (found["prefix"].count, found["prefix"].example[:8]) == (1, "row 1610")
    assert found["skew"].level == "warning"
    assert found["direction"].level == "info"
    assert not {f.level for f in findings} & {"error"}


@pytest.mark.skipif(
    not (MT_BENCH.is_file() and SELF_INSTRUCT.is_file()), reason="real data not found beside the project"
)
def test_a_question_of_mt_bench_put_into_real_instructions_is_found(tmp_path: Path) -> None:
    """252 instructions that share nothing with MT-Bench, and the same with its first question among them."""
    records = [
        {"prompt": r["instruction"], "response": r["instances"][0]["output"] or "-"}
        for _, r in artifacts.read_jsonl(SELF_INSTRUCT)
    ]
    (label, asked, _), *_ = benchmark_items(MT_BENCH)
    held_out = [HeldOut.index("mt-bench", benchmark_items(MT_BENCH))]
    jsonl = plugins.load("datasets", "jsonl")
    clean = check_records([write_jsonl(tmp_path / "a", records)], jsonl, held_out=held_out)
    assert "overlap" not in by_check(clean)
    records.append({"prompt": f"Please: {asked[0]}", "response": "Aloha"})
    found = by_check(check_records([write_jsonl(tmp_path / "b", records)], jsonl, held_out=held_out))["overlap"]
    assert (found.count, found.total, label) == (1, 80, "row 1")
    assert found.example.endswith("words of row 1")
