"""Files in the layouts of AlpacaEval, MT-Bench and Arena-Hard; the 80 questions of MT-Bench from file to table of scores."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from judge_server import FaultyServer, completion

from selfcontrast import __main__, plugins
from selfcontrast.artifacts import read_json, read_jsonl
from selfcontrast.errors import InputError
from selfcontrast.judging.cases import Case, Judged, summarise
from selfcontrast.judging.client import Connection, ask
from selfcontrast.judging.formats import Entry, write_formats
from selfcontrast.judging.panel import NO_ANSWER, NO_VERDICT, Panel, judge
from selfcontrast.judging.questions import read_answers, read_baseline, read_questions, with_references
from selfcontrast.judging.replies import Replies

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MT_BENCH = DATA / "mt-bench"
NAMES = {"generator": "arm", "baseline": "base", "judge": "tester"}


def noise(text: str) -> float:
    """Return a number in (0, 1) that follows from a text."""
    return (int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) + 0.5) / 2**32


def with_logprobs(body: dict[str, Any]) -> dict[str, Any]:
    """Prefer the first output with a probability that follows from the prompt."""
    p = 0.98 * noise(body["messages"][-1]["content"])
    top = [
        {"token": "m", "logprob": math.log(p)},
        {"token": "M", "logprob": math.log(0.98 - p)},
        {"token": "Both", "logprob": -5.0},
    ]
    top.sort(key=lambda t: -t["logprob"])
    token = {"token": top[0]["token"], "logprob": top[0]["logprob"], "bytes": None, "top_logprobs": top}
    return {**completion(top[0]["token"], logprobs={"content": [token]}), "object": "chat.completion", "created": 0}


def judged_by(kind: str, params: dict[str, Any], cases: list[Case], answer: Any, replies: Replies) -> list[Judged]:
    module = plugins.load("judges", kind)
    panel = Panel(module, module.Params(**params), "judge")
    with FaultyServer(answer) as server:
        connection = Connection(server.url, in_flight=32)
        return judge(
            cases, panel, replies, lambda r: ask(r, connection, replies, needs_logprobs=module.NEEDS_LOGPROBS) and None
        )


@pytest.fixture
def replies(tmp_path: Path):
    opened = Replies(tmp_path / "replies.jsonl")
    yield opened
    opened.close()


# AlpacaEval


def pairs(n: int) -> list[Case]:
    return [Case((f"instruction {i}\u2028",), (f"answer {i}",), (f"baseline {i}",)) for i in range(n)]


def test_alpaca_files(replies: Replies, tmp_path: Path) -> None:
    cases = [*pairs(3), Case(("unanswered",), (None,), ("baseline",))]
    judged = judged_by("alpaca_eval", {"prompt": "own"}, cases, with_logprobs, replies)
    write_formats(tmp_path, "alpaca_eval", [Entry(str(i), j, "koala") for i, j in enumerate(judged)], replies, **NAMES)
    assert judged[3].null == NO_ANSWER
    outputs = read_json(tmp_path / "model_outputs.json")
    assert outputs[0] == {
        "dataset": "koala",
        "instruction": "instruction 0\u2028",
        "output": "answer 0",
        "generator": "arm",
    }
    assert len(outputs) == 3
    assert len(read_json(tmp_path / "reference_outputs.json")) == 4
    annotations = read_json(tmp_path / "annotations.json")
    assert [a["preference"] for a in annotations] == [1 + j.score.value for j in judged[:3]]
    assert annotations[0]["raw_completion"]["logprobs"]["content"][0]["top_logprobs"]
    assert annotations[0].keys() == {
        *("instruction", "output_1", "generator_1", "dataset", "output_2", "generator_2", "annotator", "preference"),
        "raw_completion",
    }


def test_alpaca_eval_reads_our_files_and_finds_our_rate(replies: Replies, tmp_path: Path) -> None:
    pytest.importorskip("alpaca_eval")
    import alpaca_eval.utils
    from alpaca_eval.metrics import get_winrate

    def some_unparsed(body: dict[str, Any]) -> dict[str, Any]:
        return with_logprobs(body) if noise(str(body)) > 0.1 else completion("neither", logprobs=None)

    params = {"prompt": "own"}
    module = plugins.load("judges", "alpaca_eval")
    panel = Panel(module, module.Params(**params), "judge")
    with FaultyServer(some_unparsed) as server:
        judged = judge(pairs(60), panel, replies, lambda r: ask(r, Connection(server.url), replies) and None)
    write_formats(tmp_path, "alpaca_eval", [Entry(str(i), j) for i, j in enumerate(judged)], replies, **NAMES)
    theirs = get_winrate(alpaca_eval.utils.load_or_convert_to_dataframe(tmp_path / "annotations.json"))
    ours = summarise([j.score for j in judged])
    assert ours.nulls > 0
    assert theirs["n_total"] == ours.n
    assert theirs["win_rate"] == pytest.approx(100 * ours.value)
    assert theirs["standard_error"] == pytest.approx(100 * ours.se)


def test_preferences_are_those_of_alpaca_evals_own_annotator(
    replies: Replies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its annotator `weighted_alpaca_eval_gpt4_turbo` and ours ask one judge: equal prompts, orders and preferences."""
    pytest.importorskip("alpaca_eval")
    from alpaca_eval.annotators import PairwiseAnnotator

    alike = [Case((f"alike {i}",), ("the same",), ("the same",)) for i in range(4)]  # a draw, whatever the judge says
    judged = judged_by("alpaca_eval", {}, pairs(40) + alike, with_logprobs, replies)
    write_formats(tmp_path, "alpaca_eval", [Entry(str(i), j) for i, j in enumerate(judged)], replies, **NAMES)
    with FaultyServer(with_logprobs) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        annotator = PairwiseAnnotator(annotators_config="weighted_alpaca_eval_gpt4_turbo", caching_path=None)
        theirs = annotator.annotate_head2head(
            outputs_1=read_json(tmp_path / "reference_outputs.json"),
            outputs_2=read_json(tmp_path / "model_outputs.json"),
        )
    found = {row["instruction"]: row["preference"] for row in theirs}
    for j in judged:
        assert j.score.value is not None
        assert found[j.case.turns[0]] == pytest.approx(1 + j.score.value, abs=1e-9)


@pytest.mark.parametrize("kind", ["pairwise", "arena_hard"])
def test_half_an_emoji_in_a_reply_does_not_end_the_job(kind: str, replies: Replies, tmp_path: Path) -> None:
    """A reply that was cut inside a surrogate pair is valid JSON and no valid text; it is paid, and stays as it came."""
    module = plugins.load("judges", kind)
    said = "\ud83d [[A>B]] [[A]]"
    judged = judged_by(kind, {}, pairs(2), lambda body: completion(said), replies)
    write_formats(tmp_path, module.FILES, [Entry(str(i), j) for i, j in enumerate(judged)], replies, **NAMES)
    assert replies.raw(judged[0].keys[0][0])["choices"][0]["message"]["content"] == said
    written = "".join(path.read_text(encoding="utf-8") for path in sorted(tmp_path.glob("a*.json*")))
    assert "? [[A>B]]" in written


# Arena-Hard


def test_arena_files_name_the_verdicts_as_they_were_said(replies: Replies, tmp_path: Path) -> None:
    """The judge always likes the answer `good` much better; in the first game the baseline is A."""

    def prefer_good(body: dict[str, Any]) -> dict[str, Any]:
        first = re.search(r"\[Start of answer A\]\n(.*)\n", body["messages"][-1]["content"])
        assert first is not None
        return completion("[[A>>B]]" if first[1] == "good" else "[[B>>A]]")

    judged = judged_by("arena_hard", {}, [Case(("q",), ("good",), ("bad",), category="coding")], prefer_good, replies)
    write_formats(tmp_path, "arena_hard", [Entry("uid1", judged[0])], replies, **NAMES)
    ((_, row),) = read_jsonl(tmp_path / "arm.jsonl")
    assert [g["score"] for g in row["games"]] == ["B>>A", "A>>B"]
    assert (row["uid"], row["model"], row["baseline"], row["category"]) == ("uid1", "arm", "base", "coding")
    assert judged[0].score.value == 1.0


# Questions


@pytest.mark.parametrize(
    ("layout", "record"),
    [("mt_bench", {"question_id": 1}), ("arena_hard", {"uid": "a"}), ("alpaca_eval", {"output": "x"}), ("mt_bench", {"turns": None, "question_id": 1, "category": "a"})],
)  # fmt: skip
def test_record_of_another_layout_is_named(layout: str, record: dict, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(InputError, match="row 1"):
        read_questions(path, layout)


def test_baseline_must_answer_the_same_questions(tmp_path: Path) -> None:
    questions, baseline = tmp_path / "q.json", tmp_path / "b.json"
    questions.write_text(json.dumps([{"instruction": i, "dataset": "koala"} for i in "abc"]))
    rows = [{"instruction": i, "output": "x"} for i in "abd"]
    baseline.write_text(json.dumps(rows))
    read = read_questions(questions, "alpaca_eval")
    assert [q.source for q in read] == ["koala"] * 3
    with pytest.raises(InputError, match=r"1 missing \['c'\], 1 of other questions \['d'\]"):
        read_baseline(baseline, "alpaca_eval", read)
    baseline.write_text(json.dumps([*rows[:2], {"instruction": "c", "output": ""}]))
    assert read_baseline(baseline, "alpaca_eval", read)["c"] == ("",)
    baseline.write_text(json.dumps([*rows, rows[0]]))
    with pytest.raises(InputError, match="occurs twice"):
        read_answers(baseline, "alpaca_eval")


def test_arena_question_with_a_line_separator_is_one(tmp_path: Path) -> None:
    path = tmp_path / "question.jsonl"
    rows = [{"uid": str(i), "prompt": f"a\u2028b\u0085{i}", "category": "c", "subcategory": "s"} for i in range(3)]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    assert [q.turns for q in read_questions(path, "arena_hard")] == [(r["prompt"],) for r in rows]


MT = {"question_id": 81, "category": "writing", "turns": ["a", "b"]}
ARENA = {"uid": "x", "category": "arena-hard-v0.1", "prompt": "a"}
ALPACA = {"instruction": "a", "dataset": "koala"}
MT_ANSWER = {"question_id": 81, "choices": [{"index": 0, "turns": ["a", "b"]}]}
ARENA_ANSWER = {"uid": "x", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
ALPACA_ANSWER = {"instruction": "a", "output": "b"}
PARTS = [{"type": "text", "text": "a"}]


def write_rows(path: Path, rows: list[Any], *, array: bool) -> Path:
    path.write_text(json.dumps(rows) if array else "".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize(
    ("layout", "good", "change", "reason"),
    [
        ("mt_bench", MT, {"turns": "ab"}, "`turns` is not a list"),
        ("mt_bench", MT, {"turns": None}, "`turns` is missing"),
        ("mt_bench", MT, {"turns": []}, "`turns` has no turn"),
        ("mt_bench", MT, {"turns": ["a", None]}, "`turns` is not a list of texts"),
        ("mt_bench", MT, {"turns": ["a", PARTS]}, "`turns` is not a list of texts"),
        ("mt_bench", MT, {"turns": [{"content": "a"}]}, "`turns` is not a list of texts"),
        ("mt_bench", MT, {"turns": ["a", 3]}, "`turns` is not a list of texts"),
        ("mt_bench", MT, {"turns": ["a", " \u200b"]}, "a turn is empty"),
        ("mt_bench", MT, {"reference": "ab"}, "`reference` is not a list"),
        ("mt_bench", MT, {"reference": ["a", None]}, "`reference` is not a list of texts"),
        ("mt_bench", MT, {"reference": ["a"]}, "`reference` does not have one text for each turn"),
        ("mt_bench", MT, {"category": None}, "`category` is missing"),
        ("mt_bench", MT, {"category": 3}, "`category` is not a text"),
        ("mt_bench", MT, {"question_id": None}, "`question_id` is missing"),
        ("mt_bench", MT, {"question_id": True}, "`question_id` is not a text or a number"),
        ("mt_bench", MT, {"question_id": 81.5}, "`question_id` is not a whole number or a text"),
        ("mt_bench", MT, {"question_id": " "}, "`question_id` is not a whole number or a text"),
        ("arena_hard", ARENA, {"prompt": None}, "`prompt` is missing"),
        ("arena_hard", ARENA, {"prompt": PARTS}, "`prompt` is not a text"),
        ("arena_hard", ARENA, {"prompt": ""}, "`prompt` is empty"),
        ("arena_hard", ARENA, {"uid": []}, "`uid` is not a text or a number"),
        ("arena_hard", ARENA, {"category": ["a"]}, "`category` is not a text"),
        ("arena_hard", ARENA, {"subcategory": 3}, "`subcategory` is not a text"),
        ("alpaca_eval", ALPACA, {"instruction": None}, "`instruction` is missing"),
        ("alpaca_eval", ALPACA, {"instruction": PARTS}, "`instruction` is not a text"),
        ("alpaca_eval", ALPACA, {"instruction": "\ufeff"}, "`instruction` is empty"),
        ("alpaca_eval", ALPACA, {"dataset": 3}, "`dataset` is not a text"),
        ("mt_bench", MT, {"turns": ["a", "b\ud83d"]}, "a text has half a surrogate pair"),
        ("mt_bench", MT, {"reference": ["a", "b\0"]}, "a text has a NUL character"),
        ("arena_hard", ARENA, {"prompt": "a\udc00"}, "a text has half a surrogate pair"),
        ("alpaca_eval", ALPACA, {"instruction": "a\0"}, "a text has a NUL character"),
    ],
)
def test_a_question_with_a_field_of_another_type_is_named(
    tmp_path: Path, array: bool, layout: str, good: dict, change: dict, reason: str
) -> None:
    """Nothing is converted: a null was the text "None" and a text of turns its single letters."""
    second = {key: f"{value}2" if key in ("uid", "instruction") else value for key, value in good.items()}
    second |= {"question_id": 82} if "question_id" in good else {}
    path = write_rows(tmp_path / "q", [good, second], array=array)
    assert len(read_questions(path, layout)) == 2
    write_rows(path, [good, {**second, **change}], array=array)
    with pytest.raises(InputError) as caught:
        read_questions(path, layout)
    assert f"a record is no question of the layout `{layout}`: {reason}" in str(caught.value)
    assert f"{path}, {'entry' if array else 'row'} 2" in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "good", "change", "reason"),
    [
        ("mt_bench", MT_ANSWER, {"choices": None}, "`choices` is missing"),
        ("mt_bench", MT_ANSWER, {"choices": []}, "`choices` has no choice"),
        ("mt_bench", MT_ANSWER, {"choices": [None]}, "`turns` is missing"),
        ("mt_bench", MT_ANSWER, {"choices": [{"turns": "ab"}]}, "`turns` is not a list"),
        ("mt_bench", MT_ANSWER, {"choices": [{"turns": ["a", None]}]}, "`turns` is not a list of texts"),
        ("arena_hard", ARENA_ANSWER, {"messages": []}, "`messages` has no message"),
        ("arena_hard", ARENA_ANSWER, {"messages": [{"content": None}]}, "`content` is missing"),
        ("arena_hard", ARENA_ANSWER, {"messages": [{"content": PARTS}]}, "`content` is not a text or an object"),
        ("arena_hard", ARENA_ANSWER, {"messages": [{"content": {"answer": None}}]}, "`answer` is missing"),
        (
            "arena_hard",
            ARENA_ANSWER,
            {"messages": ARENA_ANSWER["messages"][:1]},
            "the last of the `messages` is no answer",
        ),
        (
            "arena_hard",
            ARENA_ANSWER,
            {"messages": [{"content": {"answer": "\ud83d"}}]},
            "a text has half a surrogate pair",
        ),
        ("alpaca_eval", ALPACA_ANSWER, {"output": None}, "`output` is missing"),
        ("alpaca_eval", ALPACA_ANSWER, {"output": "\ud83d"}, "a text has half a surrogate pair"),
        ("alpaca_eval", ALPACA_ANSWER, {"output": PARTS}, "`output` is not a text"),
        ("alpaca_eval", ALPACA_ANSWER, {"output": 7}, "`output` is not a text"),
    ],
)
def test_an_answer_with_a_field_of_another_type_is_named(
    tmp_path: Path, layout: str, good: dict, change: dict, reason: str
) -> None:
    path = write_rows(tmp_path / "a", [good], array=False)
    assert list(read_answers(path, layout).values()) in ([("a", "b")], [("b",)])
    write_rows(path, [{**good, **change}], array=False)
    with pytest.raises(InputError, match=re.escape(f"a record is no answer of the layout `{layout}`: {reason}")):
        read_answers(path, layout)


def test_nulls_of_optional_fields_are_no_text(tmp_path: Path) -> None:
    """A table that was exported has every field in every row."""
    path = write_rows(tmp_path / "q", [{**ALPACA, "dataset": None}], array=True)
    assert read_questions(path, "alpaca_eval")[0].source == ""
    write_rows(path, [{**ARENA, "category": None, "subcategory": None}], array=True)
    assert read_questions(path, "arena_hard")[0].category == ""
    write_rows(path, [{**MT, "reference": None}], array=True)
    assert read_questions(path, "mt_bench")[0].references == ()


def test_an_id_is_one_as_a_number_and_as_a_text(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "q", [MT, {**MT, "question_id": "81"}], array=False)
    with pytest.raises(InputError, match="an id occurs twice"):
        read_questions(path, "mt_bench")


@pytest.mark.parametrize("content", ["", "\n\n", "[]", "[null]", '["a"]'])
def test_a_file_without_questions_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "q").write_text(content)
    with pytest.raises(InputError, match=r"a file of questions has none|an entry of a JSON array is not an object"):
        read_questions(tmp_path / "q", "mt_bench")


def test_answers_have_a_text_for_each_turn(tmp_path: Path) -> None:
    questions = read_questions(write_rows(tmp_path / "q", [MT], array=False), "mt_bench")
    path = write_rows(tmp_path / "a", [{**MT_ANSWER, "choices": [{"turns": ["a"]}]}], array=False)
    for read in (lambda: read_baseline(path, "mt_bench", questions), lambda: with_references(questions, path)):
        with pytest.raises(InputError, match=r"expected: 2 turns\n  found: 1 turns for the question 81"):
            read()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"system_prompt": None}, "`system_prompt` is missing"),
        ({"prompt_template": ["a"]}, "`prompt_template` is not a text"),
        ({"name": "other"}, "no single-math-v1"),
        ({"name": "single-v1"}, "`single-v1` a second time"),
    ],
)
def test_prompts_of_mt_bench_are_texts(tmp_path: Path, change: dict, part: str) -> None:
    names = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
    rows = [{"name": n, "system_prompt": "You judge.", "prompt_template": "{question}{answer}"} for n in names]
    module = plugins.load("judges", "mt_bench")
    good = write_rows(tmp_path / "good", rows, array=False)
    assert len(module.templates(module.Params(prompts_file=str(good)))) == 4
    rows[1] |= change
    bad = write_rows(tmp_path / "bad", rows, array=False)
    with pytest.raises(InputError, match=re.escape(part)):
        module.templates(module.Params(prompts_file=str(bad)))


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({}, ""),
        ({"path": [{**MT, "turns": "ab"}]}, "`turns` is not a list"),
        ({"path": [{**MT, "category": "math"}]}, "has no reference answer"),
        ({"path": [{**MT, "category": "math"}], "references": [MT_ANSWER]}, ""),
        ({"references": [{**MT_ANSWER, "choices": [{"turns": "ab"}]}]}, "`turns` is not a list"),
        ({"references": [{**MT_ANSWER, "question_id": 9}]}, "reference answers belong to other questions"),
        ({"path": [{**MT, "turns": ["a", "b", "c"]}]}, "MT-Bench rates two turns"),
        ({"baseline": [{**MT_ANSWER, "choices": [{"turns": ["a", None]}]}]}, "`turns` is not a list of texts"),
    ],
)
def test_check_reads_every_file_of_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict, part: str
) -> None:
    """Errors come before any job: `check` ends with exit code 2 and the message."""
    study = yaml.safe_load((Path(__file__).resolve().parents[2] / "config" / "smoke.yaml").read_text())
    asked = {key: str(write_rows(tmp_path / key, rows, array=False)) for key, rows in ({"path": [MT]} | files).items()}
    study["evaluation"]["questions"] = {"mt": {"layout": "mt_bench", "max_new_tokens": 8, **asked}}
    judge = {"kind": "mt_bench", "model": "m", "endpoint": {"url": "http://127.0.0.1:9/v1"}, "questions": "mt"}
    study["evaluation"]["judges"] = {"rater": judge}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    assert __main__.main(["check", str(path)]) == (2 if part else 0)
    assert part in capsys.readouterr().err


needs_mt_bench = pytest.mark.skipif(
    not MT_BENCH.is_dir(), reason=f"MT-Bench not found at {DATA.name}/ beside the project"
)


def rate_by_length(body: dict[str, Any]) -> dict[str, Any]:
    """Rate from 1 to 10 by the length of the last answer, in the prompts of FastChat; do not rate answers of 7 characters."""
    text = body["messages"][-1]["content"]
    answers = re.findall(
        r"(?:\[The Start of Assistant's Answer\]|### Assistant A:)\n(.*?)\n(?:\[The End|\n###|\n<\|The End)",
        text,
        re.DOTALL,
    )
    assert len(answers) in (1, 2), text
    length = len(answers[-1])
    return completion("hm" if length == 7 else f"I count. Rating: [[{1 + length % 10}]]")


@needs_mt_bench
def test_mt_bench_from_questions_to_scores(replies: Replies, tmp_path: Path) -> None:
    """80 questions, two turns: 160 ratings, 60 of them beside a reference, each that of its own answer; one question null."""
    questions = with_references(
        read_questions(MT_BENCH / "question.jsonl", "mt_bench"), MT_BENCH / "reference_answer-gpt-4.jsonl"
    )
    assert len(questions) == 80
    assert {q.temperature for q in questions if q.category in ("writing", "roleplay")} == {0.7}
    assert {q.temperature for q in questions if q.category in ("math", "coding", "reasoning", "extraction")} == {0.0}
    assert {q.temperature for q in questions if q.category in ("stem", "humanities")} == {0.1}
    answers = {q.id: (f"{q.id} " + "x" * (i + 10), f"{q.id} second " + "y" * (3 * i)) for i, q in enumerate(questions)}
    answers["90"] = ("seven 7", "fine")
    cases = [Case(q.turns, answers[q.id], None, q.references, q.category) for q in questions]
    params = {"prompts_file": str(MT_BENCH / "judge_prompts.jsonl")}
    judged = judged_by("mt_bench", params, cases, rate_by_length, replies)
    for q, j in zip(questions, judged, strict=True):
        expected = tuple(None if len(a) == 7 else 1 + len(a) % 10 for a in answers[q.id])
        assert j.verdicts == (expected,)
        assert j.score.value == (None if None in expected else sum(expected) / 2)
    assert [j.null for j in judged if j.null] == [NO_VERDICT]
    details = plugins.load("judges", "mt_bench").details(judged, None)
    assert {name for name in details if name.startswith("category_")} == {f"category_{q.category}" for q in questions}
    write_formats(
        tmp_path, "mt_bench", [Entry(q.id, j) for q, j in zip(questions, judged, strict=True)], replies, **NAMES
    )
    rows = [row for _, row in read_jsonl(tmp_path / "tester_single.jsonl")]
    assert len(rows) == 160
    assert sum(row["score"] == -1 for row in rows) == 1
    assert sum("math" in row["judge"][1] for row in rows) == 60
    assert {(row["question_id"], row["turn"]) for row in rows} == {(i, t) for i in range(81, 161) for t in (1, 2)}
    beside = [r for line in (tmp_path / "replies.jsonl").read_bytes().split(b"\n") if line for r in [json.loads(line)]]
    assert sum("The Start of Reference Answer" in r["request"]["messages"][1]["content"] for r in beside) == 60


@needs_mt_bench
def test_own_wording_serves_every_question_too(replies: Replies) -> None:
    questions = with_references(
        read_questions(MT_BENCH / "question.jsonl", "mt_bench"), MT_BENCH / "reference_answer-gpt-4.jsonl"
    )
    cases = [Case(q.turns, ("a", "b"), None, q.references, q.category) for q in questions]
    judged = judged_by("mt_bench", {}, cases, lambda body: completion("[[3]]"), replies)
    assert [j.score.value for j in judged] == [3.0] * 80


@needs_mt_bench
def test_references_of_other_questions_are_told(tmp_path: Path) -> None:
    questions = read_questions(MT_BENCH / "question.jsonl", "mt_bench")
    with pytest.raises(InputError, match="belong to other questions"):
        with_references(questions[:20], MT_BENCH / "reference_answer-gpt-4.jsonl")


@pytest.mark.skipif(not (DATA / "self-instruct").is_dir(), reason=f"data not found at {DATA.name}/ beside the project")
def test_real_instructions_as_alpaca_eval_questions(replies: Replies, tmp_path: Path) -> None:
    """252 real instructions with their targets as the baseline, through the judge and into annotations."""
    records = [r for _, r in read_jsonl(DATA / "self-instruct" / "user_oriented_instructions.jsonl")]
    rows = []
    for record in records:
        instance = record["instances"][0]
        text = f"{record['instruction']}\n\n{instance['input']}".strip()
        rows.append(
            {"instruction": f"{text} ({record['id']})", "output": instance["output"], "dataset": "selfinstruct"}
        )
    (tmp_path / "q.json").write_text(json.dumps(rows))
    questions = read_questions(tmp_path / "q.json", "alpaca_eval")
    baseline = read_baseline(tmp_path / "q.json", "alpaca_eval", questions)
    cases = [Case(q.turns, ("an answer",), baseline[q.id]) for q in questions]
    judged = judged_by("alpaca_eval", {"prompt": "own"}, cases, with_logprobs, replies)
    assert len(judged) == 252
    assert all(j.score.value is not None for j in judged)
