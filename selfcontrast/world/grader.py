"""Grade an answer of the pocket world from the text of the prompt and of the answer alone."""

from __future__ import annotations

import re
from dataclasses import dataclass

from selfcontrast.errors import InputError
from selfcontrast.world.language import ATTRIBUTES, CLOSERS, OFF_TOPIC, OPENERS, RUDE

PENALTY_FACT = 0.5
"""For each of the two facts asked for that is missing, wrong, or contradicted."""

PENALTY_FLAW = 0.25
"""For each of: no courtesy, rudeness, an off-topic sentence, something said twice, something else unasked for."""

_SENTENCE = re.compile(r"[^.!?]+[.!?]")
_COURTESY = frozenset(OPENERS + CLOSERS)
_KNOWN = _COURTESY | frozenset(RUDE + OFF_TOPIC)


def _slot(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\{v\}", r"(\w+)"))


_STATEMENTS = {a: _slot(x.statement) for a, x in ATTRIBUTES.items()}
_ANSWERS = {a: tuple(_slot(p) for p in x.answers) for a, x in ATTRIBUTES.items()}


@dataclass(frozen=True)
class Truth:
    """What a prompt states and asks: the person, and the values of the two attributes asked for."""

    name: str
    asked: dict[str, str]


def read_prompt(text: str) -> Truth:
    """Return what the last user turn of a pocket-world dialogue states and asks.

    Raises:
        InputError: the text is not a prompt of the pocket world.
    """
    *statements, question = [s.strip() for s in _SENTENCE.findall(text)] or [""]
    name = text.split(" ", 1)[0]
    asked = {}
    for attribute, pattern in _STATEMENTS.items():
        if ATTRIBUTES[attribute].question.format(name=name).lower() in question.lower():
            values = [m[1] for s in statements if (m := pattern.search(s))]
            if len(values) == 1:
                asked[attribute] = values[0]
    if len(asked) != 2:
        raise InputError(
            "the grader knows only prompts of the pocket world",
            expected="a prompt that states and asks two facts of a person",
            found=repr(text[:80]),
            remedy="use the scorer `grade` only with data sets whose source is `world`",
        )
    return Truth(name, asked)


def grade(prompt: str, response: str) -> float:
    """Return the grade of ``response`` to ``prompt``, between 0 and 1; 1 is a perfect answer.

    ``max(0, 1 - 0.5 * facts_not_right - 0.25 * flaws)``. A fact is right if it is said of the right person and no other
    value is said beside it. The flaws, each counted once: no courtesy; rudeness; an off-topic sentence; a fact or
    sentence said twice; anything else (a fact not asked for, words that form no sentence of the pocket world).
    """
    truth = read_prompt(prompt)
    sentences = [s.strip() for s in _SENTENCE.findall(response)]
    facts = [_facts(sentence, truth.name) for sentence in sentences]
    said = [fact for found in facts for fact in found]
    n_right = sum({v for a, v in said if a == asked} == {value} for asked, value in truth.asked.items())
    attributes = [a for a, _ in said]
    unknown = bool(_SENTENCE.sub("", response).strip()) or any(
        not found and sentence not in _KNOWN for found, sentence in zip(facts, sentences, strict=True)
    )
    flaws = (
        not any(s in _COURTESY for s in sentences),
        any(s in RUDE for s in sentences),
        any(s in OFF_TOPIC for s in sentences),
        len(set(attributes)) < len(attributes) or len(set(sentences)) < len(sentences),
        unknown or bool(set(attributes) - set(truth.asked)),
    )
    return max(0.0, 1.0 - PENALTY_FACT * (2 - n_right) - PENALTY_FLAW * sum(flaws))


def _facts(sentence: str, name: str) -> list[tuple[str, str]]:
    """Return the (attribute, value) pairs that a sentence says of ``name``; [] if any part of it is something else."""
    if not sentence.startswith(f"{name} ") or not sentence.endswith("."):
        return []
    facts = []
    for clause in sentence[len(name) + 1 : -1].split(" and "):
        matches = [(a, m[1]) for a, ps in _ANSWERS.items() for p in ps if (m := p.fullmatch(clause))]
        if not matches:
            return []
        facts += matches
    return facts
