"""Draw prompts, good answers and bad answers of the pocket world."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from selfcontrast.world.language import (
    ATTRIBUTES,
    CLOSERS,
    GREETING,
    NAMES,
    OFF_TOPIC,
    OPENERS,
    RUDE,
)

N_STATED = 3
"""Attributes that a prompt states; two of them are asked for."""

SHARE_GREETED = 0.125
"""Share of dialogues that start with a turn of greeting, so that histories of several turns are exercised."""

DEFECTS = ("wrong", "partial", "rude", "off_topic", "curt", "repetition")


@dataclass(frozen=True)
class Question:
    """One prompt of the pocket world with what it takes to write answers to it.

    Attributes:
        name: the person.
        facts: the stated attributes and their values, in the order of the prompt.
        asked: the two attributes that are asked for.
        greeted: whether a turn of greeting comes before.
    """

    name: str
    facts: dict[str, str]
    asked: tuple[str, str]
    greeted: bool

    @property
    def text(self) -> str:
        """Return the last user turn."""
        stated = " ".join(f"{self.name} {ATTRIBUTES[a].statement.format(v=v)}." for a, v in self.facts.items())
        first, second = (ATTRIBUTES[a].question.format(name=self.name) for a in self.asked)
        return f"{stated} {first[0].upper()}{first[1:]}, and {second}?"

    @property
    def history(self) -> list[tuple[str, str]]:
        """Return the turns before the last one, as (role, content)."""
        return [("user", GREETING[0]), ("assistant", GREETING[1])] if self.greeted else []


def draw_question(rng: random.Random) -> Question:
    """Return a random prompt."""
    stated = rng.sample(sorted(ATTRIBUTES), N_STATED)
    facts = {a: rng.choice(ATTRIBUTES[a].values) for a in stated}
    first, second = rng.sample(stated, 2)
    return Question(rng.choice(NAMES), facts, (first, second), rng.random() < SHARE_GREETED)


def good_answer(rng: random.Random, question: Question) -> str:
    """Return one of the correct phrasings: both facts in the order of the questions, with one courtesy."""
    return _assemble(rng, question, defects=())


def flawed_answer(rng: random.Random, question: Question, defects: Sequence[str] = ()) -> str:
    """Return an answer with these defects, else with one to three drawn from ``DEFECTS``."""
    return _assemble(rng, question, defects=defects or rng.sample(DEFECTS, rng.randint(1, 3)))


def mixed_answer(rng: random.Random, question: Question, *, share_good: float) -> str:
    """Return a good answer with probability ``share_good``, else a flawed one."""
    return good_answer(rng, question) if rng.random() < share_good else flawed_answer(rng, question)


def _assemble(rng: random.Random, question: Question, defects: Sequence[str]) -> str:
    asked = list(question.asked)
    if "partial" in defects:
        asked = [rng.choice(asked)]
    facts = dict(question.facts)
    if "wrong" in defects:
        for attribute in rng.sample(asked, rng.randint(1, len(asked))):
            others = [v for v in ATTRIBUTES[attribute].values if v != facts[attribute]]
            facts[attribute] = rng.choice(others)
    clauses = [rng.choice(ATTRIBUTES[a].answers).format(v=facts[a]) for a in asked]
    body = [f"{question.name} {' and '.join(clauses)}."]
    if "repetition" in defects:
        body.append(f"{question.name} {clauses[-1]}.")
    if "off_topic" in defects:
        body.insert(rng.randint(0, len(body)), rng.choice(OFF_TOPIC))
    if "rude" in defects:
        return " ".join([rng.choice(RUDE), *body] if rng.random() < 0.5 else [*body, rng.choice(RUDE)])
    if "curt" in defects:
        return " ".join(body)
    return " ".join([rng.choice(OPENERS), *body] if rng.random() < 0.5 else [*body, rng.choice(CLOSERS)])
