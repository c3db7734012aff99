"""MT-Bench: each of two turns is rated from 1 to 10 by itself; the score is the mean of both.

The second turn is rated with the whole dialogue in view. Questions of the categories math, reasoning and coding are rated
beside a reference answer. A question whose answer or rating is missing for one turn is null as a whole.

Source: arXiv 2306.05685 and lm-sys/FastChat, `llm_judge`, single-answer grading. With `prompts_file` the wording is that of
FastChat's judge_prompts.jsonl; without it is our own, and the numbers are not comparable with published ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pydantic import Field

from selfcontrast.artifacts import read_jsonl
from selfcontrast.errors import InputError
from selfcontrast.fields import MisfitError, text
from selfcontrast.judges._wording import IMPARTIAL
from selfcontrast.judging.cases import Case, Game, Judged, Score, Utterance
from selfcontrast.judging.exchange import Reply
from selfcontrast.judging.prompts import Template, one_verdict
from selfcontrast.schema import Count, Strict

COMPARES = False
NEEDS_LOGPROBS = False
FILES = "mt_bench"

REFERENCED = ("math", "reasoning", "coding")
"""Categories that are rated beside a reference answer."""

_RATE = (
    "Explain yourself in a few sentences. Then rate from 1 to 10, exactly in this form: [[rating]], for example [[5]]."
)
_COMPARE = "Compare the assistant's answer with the reference answer first, and name its mistakes. "
_SECOND = "Rate the assistant's answer to the second question. "
_FIRST_TURN = "[Question 1]\n{question_1}\n\n[Answer 1]\n{answer_1}\n\n"
_DIALOGUE = _FIRST_TURN + "[Question 2]\n{question_2}\n\n[Answer 2]\n{answer_2}\n[End]"
_REFERENCES = "[Reference answer 1]\n{ref_answer_1}\n\n[Reference answer 2]\n{ref_answer_2}\n[End of references]\n\n"
_SINGLE = "[Question]\n{question}\n\n[Answer]\n{answer}\n[End]"
_REFERENCE = "[Reference answer]\n{ref_answer_1}\n[End of reference]\n\n"

# Names as in FastChat's file.
_OWN = {
    "single-v1": Template("single-v1", (("system", IMPARTIAL + _RATE), ("user", _SINGLE))),
    "single-math-v1": Template(
        "single-math-v1", (("system", IMPARTIAL + _COMPARE + _RATE), ("user", _REFERENCE + _SINGLE))
    ),
    "single-v1-multi-turn": Template(
        "single-v1-multi-turn", (("system", IMPARTIAL + _SECOND + _RATE), ("user", _DIALOGUE))
    ),
    "single-math-v1-multi-turn": Template(
        "single-math-v1-multi-turn",
        (("system", IMPARTIAL + _SECOND + _COMPARE + _RATE), ("user", _REFERENCES + _DIALOGUE)),
    ),
}

_RATING = re.compile(r"\[\[\s*([0-9]+(?:\.[0-9]+)?)\s*\]\]")


class Params(Strict):
    """Parameters of the judge."""

    prompts_file: str | None = Field(None, description="FastChat's judge_prompts.jsonl; without it wording of our own")
    temperature: float = Field(0.0, ge=0, description="of the judge; 0 is greedy")
    max_tokens: Count = Field(2048, description="longest reply of the judge, in tokens")


def templates(params: Params) -> tuple[Template, ...]:
    """Return every template that a game may use."""
    return tuple(_templates(params.prompts_file).values())


def games(case: Case, params: Params) -> list[Game]:
    """Return one game for each turn; none where an answer is missing."""
    answers = [a for a in case.answers if a is not None]
    if len(answers) < len(case.turns):
        return []
    if len(case.turns) > 2:
        raise InputError(
            "MT-Bench rates two turns, and no more",
            expected="one or two turns in each question",
            found=f"{len(case.turns)} turns, of which the first is: {case.turns[0][:80]}",
            remedy="cut the questions down to two turns",
        )
    found = _templates(params.prompts_file)
    beside = "math-" if case.category in REFERENCED else ""
    if beside and len(case.references) != len(case.turns):
        raise InputError(
            f"a question of the category {case.category} has no reference answer",
            found=case.turns[0][:80],
            remedy="give the reference answers: evaluation.questions.<id>.references",
        )
    references = {f"ref_answer_{i}": text for i, text in enumerate(case.references, 1)}
    sampling = {"temperature": params.temperature, "max_tokens": params.max_tokens}
    first = {"question": case.turns[0], "answer": answers[0], **references}
    played = [Game(found[f"single-{beside}v1"], first, sampling)]
    if len(case.turns) > 1:
        both = {f"question_{i}": text for i, text in enumerate(case.turns, 1)}
        both |= {f"answer_{i}": text for i, text in enumerate(answers, 1)}
        played.append(Game(found[f"single-{beside}v1-multi-turn"], {**both, **references}, sampling, turn=1))
    return played


def read(reply: Reply, game: Game, params: Params) -> float | None:
    """Return the rating; None if there is none between 1 and 10, or several that differ."""
    found = one_verdict(_RATING, reply.text)
    return float(found) if found is not None and 1 <= float(found) <= 10 else None


def settle(verdicts: Sequence[float | None], params: Params) -> Score:
    """Return the mean rating of the turns; no score if one is missing."""
    ratings = [v for v in verdicts if v is not None]
    return Score(sum(ratings) / len(ratings) if ratings and len(ratings) == len(verdicts) else None)


def details(judged: Sequence[Judged], params: Params) -> dict[str, float]:
    """Return the mean rating of each turn and of each category."""
    parts: dict[str, list[float]] = {}
    for j in judged:
        for row in j.verdicts:
            for turn, rating in enumerate(row, 1):
                if rating is not None:
                    parts.setdefault(f"turn_{turn}", []).append(rating)
        if j.score.value is not None and j.case.category:
            parts.setdefault(f"category_{j.case.category}", []).append(j.score.value)
    return {name: sum(values) / len(values) for name, values in sorted(parts.items())}


def say(first: float, second: float | None, params: Params) -> Utterance:
    """Return what a judge says that grades the answer ``first``, between 0 and 1."""
    return Utterance(f"[[{1 + 9 * first:g}]]")


@cache
def _templates(path: str | None) -> dict[str, Template]:
    if path is None:
        return _OWN
    rows: dict[str, Template] = {}
    for row, record in read_jsonl(Path(path)):
        name = record.get("name")
        if not isinstance(name, str) or name not in _OWN:
            continue
        try:
            rows_of_name = (("system", text(record, "system_prompt")), ("user", text(record, "prompt_template")))
        except MisfitError as misfit:
            raise _wrong_prompts(str(misfit), f"{path}, row {row}") from None
        if name in rows:
            raise _wrong_prompts(f"`{name}` a second time", f"{path}, row {row}")
        rows[name] = Template(name, rows_of_name)
    if missing := [name for name in _OWN if name not in rows]:
        raise _wrong_prompts(f"no {', '.join(missing)}", path)
    return rows


def _wrong_prompts(found: str, where: str) -> InputError:
    return InputError(
        "the judge's prompts are not those of FastChat",
        expected=f"a row with the texts name, system_prompt and prompt_template for each of: {', '.join(_OWN)}",
        found=found,
        where=where,
        remedy="correct prompts_file, or fix the file",
    )
