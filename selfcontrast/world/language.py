"""The words and sentence patterns of the pocket world: one definition for writing and for grading.

A person has six attributes; a prompt states some of them in scrambled order and asks about two. Every pattern has
one slot, ``{v}`` for the value of the attribute, so that the grader reads exactly what the writer can write.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMES = ("Mira", "Tom", "Lena", "Omar", "Ruth", "Ivan", "Nora", "Hugo", "Aiko", "Paul", "Zoe", "Karl")


@dataclass(frozen=True)
class Attribute:
    """One attribute of a person.

    Attributes:
        values: the words that it can take.
        statement: how a prompt states it, after the person's name.
        question: how a prompt asks for it; ``{name}`` is the person.
        answers: the correct phrasings, after the person's name.
    """

    values: tuple[str, ...]
    statement: str
    question: str
    answers: tuple[str, ...]


ATTRIBUTES: dict[str, Attribute] = {
    "city": Attribute(
        ("Oslo", "Rome", "Lima", "Cairo", "Paris", "Delhi", "Quito", "Kyoto"),
        "lives in {v}",
        "where does {name} live",
        ("lives in {v}", "has a home in {v}"),
    ),
    "job": Attribute(
        ("baker", "nurse", "pilot", "farmer", "singer", "tailor", "judge", "driver"),
        "works as a {v}",
        "what is the job of {name}",
        ("works as a {v}", "earns money as a {v}"),
    ),
    "pet": Attribute(
        ("cat", "dog", "parrot", "rabbit", "goat", "turtle", "pony", "hamster"),
        "keeps a {v}",
        "which animal does {name} keep",
        ("keeps a {v}", "cares for a {v}"),
    ),
    "food": Attribute(
        ("soup", "rice", "bread", "cheese", "fish", "salad", "pasta", "curry"),
        "likes to eat {v}",
        "what does {name} like to eat",
        ("likes to eat {v}", "enjoys {v} for dinner"),
    ),
    "game": Attribute(
        ("chess", "tennis", "golf", "poker", "rugby", "hockey", "darts", "cricket"),
        "plays {v}",
        "which game does {name} play",
        ("plays {v}", "spends time on {v}"),
    ),
    "colour": Attribute(
        ("red", "blue", "green", "white", "black", "pink", "grey", "brown"),
        "wears {v} clothes",
        "which colour does {name} wear",
        ("wears {v} clothes", "dresses in {v}"),
    ),
}

OPENERS = ("Of course!", "Thank you for asking.")
"""Courtesy at the start of an answer."""

CLOSERS = ("I am glad to help.", "Have a nice day!")
"""Courtesy at the end of an answer."""

RUDE = ("What a silly question.", "Leave me alone!", "You are boring.")

OFF_TOPIC = ("The moon is very bright.", "My train was late.", "Bananas are cheap this week.")

GREETING = ("Hello!", "Hello, how can I help?")
"""An earlier turn of some dialogues: what the user says and what the assistant answers."""
