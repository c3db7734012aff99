"""The pocket world: what it writes, its grader can read; its tokenizer loses nothing; its layouts are the public ones."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from selfcontrast import plugins
from selfcontrast.errors import InputError
from selfcontrast.records import Dialogue, Message
from selfcontrast.rendering import Renderer
from selfcontrast.schema import WORLD_LAYOUTS
from selfcontrast.world import language, layouts
from selfcontrast.world.checkpoint import SPECIAL_TOKENS, build_model, build_tokenizer, vocabulary
from selfcontrast.world.dialogues import (
    SHARE_GREETED,
    Question,
    draw_question,
    flawed_answer,
    good_answer,
    mixed_answer,
)
from selfcontrast.world.grader import grade, read_prompt
from selfcontrast.world.layouts import LAYOUTS, draw_questions, write_records

MIRA = Question(
    "Mira", {"pet": "cat", "city": "Oslo", "job": "baker", "food": "soup"}, asked=("city", "pet"), greeted=False
)
MIRA_TEXT = (
    "Mira keeps a cat. Mira lives in Oslo. Mira works as a baker. Mira likes to eat soup. "
    "Where does Mira live, and which animal does Mira keep?"
)


def drawn(n: int, *, seed: int = 0) -> Iterator[tuple[random.Random, Question]]:
    """Yield questions, each with a random stream of its own to write answers with."""
    for i in range(n):
        rng = random.Random(f"{seed} {i}")
        yield rng, draw_question(rng)


def every_pattern() -> Iterator[str]:
    """Yield a sentence for every value of every statement, question and answer pattern, and every fixed sentence."""
    for attribute in language.ATTRIBUTES.values():
        for pattern in (attribute.statement, *attribute.answers):
            yield from (f"{name} {pattern.format(v=v)}." for name in language.NAMES[:2] for v in attribute.values)
        question = attribute.question.format(name="Zoe")
        yield f"{question[0].upper()}{question[1:]}, and {question}?"
    yield from (*language.OPENERS, *language.CLOSERS, *language.RUDE, *language.OFF_TOPIC, *language.GREETING)


# Writing and grading


def test_every_good_answer_is_graded_1() -> None:
    assert {grade(q.text, good_answer(rng, q)) for rng, q in drawn(3000)} == {1.0}


def test_every_flawed_answer_is_graded_below_1() -> None:
    grades = [grade(q.text, flawed_answer(rng, q)) for rng, q in drawn(3000)]
    assert max(grades) == 0.75
    assert min(grades) == 0.0
    assert set(grades) == {0.0, 0.25, 0.5, 0.75}


def test_share_of_good_answers_is_as_asked() -> None:
    """3000 draws at 0.25: the standard error is 0.008, so that 0.04 are five of them."""
    grades = [grade(q.text, mixed_answer(rng, q, share_good=0.25)) for rng, q in drawn(3000)]
    assert abs(grades.count(1.0) / len(grades) - 0.25) < 0.04


def test_share_of_greeted_dialogues_is_as_documented() -> None:
    """3000 draws at 1/8: the standard error is 0.006, so that 0.03 are five of them."""
    assert abs(sum(q.greeted for _, q in drawn(3000)) / 3000 - SHARE_GREETED) < 0.03


def test_good_answers_vary_in_phrasing_and_courtesy() -> None:
    rng = random.Random(0)
    answers = {good_answer(rng, MIRA) for _ in range(2000)}
    # 2 x 2 phrasings x 4 courtesies
    assert len(answers) == 16


def test_prompt_text_by_hand() -> None:
    assert MIRA.text == MIRA_TEXT
    assert read_prompt(MIRA_TEXT).asked == {"city": "Oslo", "pet": "cat"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Of course! Mira lives in Oslo and keeps a cat.", 1.0),
        ("Mira cares for a cat. Mira has a home in Oslo. Have a nice day!", 1.0),
        # a fact: 0.5 each
        ("Of course! Mira lives in Rome and keeps a cat.", 0.5),  # wrong
        ("Of course! Mira lives in Rome and keeps a dog.", 0.0),  # both wrong
        ("Of course! Mira lives in Oslo.", 0.5),  # missing
        ("Of course! Mira lives in Rome.", 0.0),  # one missing, the other wrong
        ("Of course!", 0.0),
        # a flaw: 0.25 each
        ("Mira lives in Oslo and keeps a cat.", 0.75),  # no courtesy
        ("Of course! Mira lives in Oslo and keeps a cat. You are boring.", 0.75),  # rude
        ("You are boring. Mira lives in Oslo and keeps a cat.", 0.5),  # rude, no courtesy
        ("Of course! The moon is very bright. Mira lives in Oslo and keeps a cat.", 0.75),  # off topic
        ("Of course! Mira lives in Oslo. Mira lives in Oslo. Mira keeps a cat.", 0.75),  # said twice
        ("Of course! Mira lives in Oslo and keeps a cat. Mira has a home in Oslo.", 0.75),  # twice, in other words
        ("Of course! Of course! Mira lives in Oslo and keeps a cat.", 0.75),  # a courtesy twice
        ("Of course! Mira lives in Oslo and keeps a cat. Mira works as a baker.", 0.75),  # right, but not asked for
        ("Of course! Mira lives in Oslo and keeps a cat. Bananas sing.", 0.75),  # no sentence of this world
        ("Of course! Mira lives in Oslo and keeps a cat. And then", 0.75),  # cut off
        ("Of course! Mira lives in Oslo and keeps a cat. Tom plays golf.", 0.75),  # of somebody else
        # several
        ("Of course! Mira lives in Oslo and keeps a cat. Mira lives in Rome.", 0.25),  # contradicted, and twice
        ("Of course! Tom lives in Oslo and keeps a cat.", 0.0),  # both facts of the wrong person, and unknown
        ("Mira lives in Oslo. The moon is very bright.", 0.0),  # missing, off topic, no courtesy
        ("Mira lives in Oslo and keeps a cat. My train was late.", 0.5),  # off topic, no courtesy
        # a clause that is no fact spoils its sentence: both facts go, and it is something else
        ("Of course! Mira lives in Oslo and sings and keeps a cat.", 0.0),
        ("", 0.0),
        ("Leave me alone!", 0.0),  # 1 - 1 - 0.5, not below 0
    ],
)
def test_grade_by_hand(answer: str, expected: float) -> None:
    """1 less 0.5 for each fact that is not right, less 0.25 for each flaw, but not below 0."""
    assert grade(MIRA_TEXT, answer) == expected


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "What is the capital of France?",
        "Mira lives in Oslo.",
        "Mira lives in Oslo. Where does Mira live?",  # asks for one fact
        "Mira keeps a cat. Where does Mira live, and which animal does Mira keep?",  # does not state the city
        MIRA_TEXT.replace("Mira works as a baker.", "Mira lives in Rome."),  # states two cities
        "Mira lives in Oslo. Mira keeps a cat. Where does Tom live, and which animal does Tom keep?",
    ],
)
def test_grader_refuses_prompts_of_other_worlds(prompt: str) -> None:
    with pytest.raises(InputError, match="knows only prompts of the pocket world"):
        grade(prompt, "Of course! Mira lives in Oslo and keeps a cat.")


def test_no_answer_pattern_fits_two_attributes() -> None:
    """Otherwise one clause would count as two facts, one of them not asked for."""
    answers = [p.replace("{v}", "") for a in language.ATTRIBUTES.values() for p in a.answers]
    assert len(set(answers)) == len(answers)
    values = [v for a in language.ATTRIBUTES.values() for v in a.values]
    assert len(set(values)) == len(values)


# Tokenizer and model


def test_tokenizer_gives_back_the_exact_text_without_unknown_tokens() -> None:
    renderer = Renderer(build_tokenizer(max_length=128), "tokenizer")
    unknown = renderer.tokenizer.unk_token_id
    texts = list(every_pattern())
    for rng, question in drawn(300):
        texts += [question.text, good_answer(rng, question), flawed_answer(rng, question)]
    for text in texts:
        ids = renderer.response_ids(text)
        assert unknown not in ids, text
        assert renderer.response_text(ids) == text


def test_prompt_starts_with_one_bos_and_ends_where_the_answer_starts() -> None:
    tokenizer = build_tokenizer(max_length=128)
    messages = [Message("user", "Hello!"), Message("assistant", "Hello, how can I help?"), Message("user", MIRA_TEXT)]
    tokens = tokenizer.convert_ids_to_tokens(Renderer(tokenizer, "tokenizer").prompt_ids(messages))
    assert tokens[:4] == ["<s>", "<user>", "▁Hello", "!"]
    assert tokens.count("<s>") == 1
    assert tokens[-2:] == ["?", "<assistant>"]
    assert "<unk>" not in tokens


def test_response_ends_with_one_eos() -> None:
    tokenizer = build_tokenizer(max_length=128)
    ids = Renderer(tokenizer, "tokenizer").response_ids("Of course!")
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁Of", "▁course", "!", "</s>"]


def test_vocabulary_has_each_word_once() -> None:
    words = [*SPECIAL_TOKENS, *vocabulary()]
    assert len(set(words)) == len(words) == len(build_tokenizer(max_length=8))


def test_untrained_model_has_a_row_for_each_token_and_follows_its_seed() -> None:
    first, second, third = (
        build_model(n_layers=1, width=8, n_heads=2, max_length=16, seed=s).state_dict() for s in (0, 0, 1)
    )
    assert len(first["lm_head.weight"]) == len(build_tokenizer(max_length=16))
    assert all(first[k].equal(second[k]) for k in first)
    assert not all(first[k].equal(third[k]) for k in first)


# Record layouts: keys and types of the published files


def shape_of(value: Any) -> Any:
    """Return the types of a record: a dict by key, a list by the shape that all of its items share."""
    if isinstance(value, dict):
        return {key: shape_of(v) for key, v in value.items()}
    if isinstance(value, list):
        shapes = [shape_of(v) for v in value]
        assert all(s == shapes[0] for s in shapes)
        return [shapes[0]] if shapes else []
    return type(value)


SHAPES: dict[str, Any] = {
    "hh_rlhf": {"chosen": str, "rejected": str},
    "ultrachat": {"prompt": str, "prompt_id": str, "messages": [{"content": str, "role": str}]},
    "nectar": {
        "prompt": str,
        "answers": [{"answer": str, "model": str, "rank": float}],  # published as whole numbers or floats
        "turns": int,
        "num_responses": int,
        "source": [str],
        "good_natured": bool,
    },
}


def written(path: Path, layout: str, *, dialogues: int = 60, seed: int = 3) -> list[dict[str, Any]]:
    """Write records and read the file as its users do, without our own reader."""
    write_records(path, layout=layout, dialogues=dialogues, seed=seed)
    if layout == "hh_rlhf":
        return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_records_have_exactly_the_published_keys_and_types(layout: str, tmp_path: Path) -> None:
    records = written(tmp_path / "records", layout)
    assert len(records) == 60
    for record in records:
        assert shape_of(record) == SHAPES[layout]
        assert [*record] == [*SHAPES[layout]]  # columns in the published order


def test_hh_rlhf_texts_share_their_prompt_and_end_with_an_answer(tmp_path: Path) -> None:
    records = written(tmp_path / "records", "hh_rlhf")
    for record in records:
        chosen, rejected = (record[side].rpartition("\n\nAssistant: ") for side in ("chosen", "rejected"))
        assert chosen[0] == rejected[0]
        assert re.match(r"\n\nHuman: \S", chosen[0])
        assert chosen[2] != rejected[2]
    assert {r["chosen"].count("\n\nHuman:") for r in records} == {1, 2}  # some have a history


def test_ultrachat_prompt_is_the_first_turn_and_its_id_a_sha256(tmp_path: Path) -> None:
    records = written(tmp_path / "records", "ultrachat")
    for record in records:
        assert record["prompt"] == record["messages"][0]["content"]
        assert re.fullmatch(r"[0-9a-f]{64}", record["prompt_id"])
        assert [m["role"] for m in record["messages"]] == ["user", "assistant"] * (len(record["messages"]) // 2)
        assert [*record["messages"][0]] == ["content", "role"]
    assert len({r["prompt_id"] for r in records}) == len(records)


def test_nectar_answers_are_ranked_by_their_true_grade(tmp_path: Path) -> None:
    for record in written(tmp_path / "records", "nectar"):
        question = record["prompt"].removesuffix("\n\nAssistant: ").rpartition("\n\nHuman: ")[2]
        answers = record["answers"]
        assert [a["rank"] for a in answers] == [1, 2, 3, 4, 5, 6, 7]
        assert record["num_responses"] == len({a["answer"] for a in answers}) == 7
        grades = [grade(question, a["answer"]) for a in answers]
        assert grades == sorted(grades, reverse=True)
        assert grades[0] == 1 > grades[1]
        assert record["turns"] == record["prompt"].count("\n\nHuman:")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_record_passes_its_adaptor(layout: str, tmp_path: Path) -> None:
    """No record is dropped, and what comes out is what was asked and answered."""
    write_records(tmp_path / "records", layout=layout, dialogues=200, seed=5)
    adaptor = plugins.load("datasets", layout)
    dialogues = list(adaptor.read(tmp_path / "records"))
    questions = list(draw_questions(random.Random(5), 1))
    assert len(dialogues) == 200
    assert all(isinstance(d, Dialogue) for d in dialogues)
    assert dialogues[0].messages[-1] == Message("user", questions[0].text)
    n_rejected = {"hh_rlhf": 1, "ultrachat": 0, "nectar": 6}[layout]
    for dialogue in dialogues:
        question = dialogue.messages[-1].content
        assert grade(question, dialogue.target) == 1
        assert len(dialogue.rejected) == n_rejected
        assert all(grade(question, r) < 1 for r in dialogue.rejected)
        assert len(dialogue.messages) in (1, 3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_seed_gives_the_same_bytes(layout: str, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_records(tmp_path / name, layout=layout, dialogues=20, seed=seed)
    first, second, third = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second != third


def test_prompts_of_a_data_set_are_unique(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the draw repeats itself: here each question comes three times, with and without a greeting."""
    questions = [q for _, q in drawn(50)]
    repeated = iter([drawn for q in questions for drawn in (q, q, replace(q, greeted=not q.greeted))])
    monkeypatch.setattr(layouts, "draw_question", lambda rng: next(repeated))
    assert list(draw_questions(random.Random(0), 50)) == questions


def test_a_larger_data_set_begins_with_the_smaller() -> None:
    fewer, more = (list(islice(draw_questions(random.Random(7), n), 20)) for n in (20, 50))
    assert fewer == more


def test_studies_may_ask_for_the_layouts_that_the_world_writes() -> None:
    """The study file is checked without importing the world; every layout has the adaptor of its name."""
    assert set(LAYOUTS) == set(WORLD_LAYOUTS) <= set(plugins.names("datasets"))
