"""Tasks for lm-evaluation-harness from prompts of the pocket world: two choices of four answers, and going on with a fact.

In `pocket_choice` the wrong answers are right in form and wrong in one fact or both, so that a model that knows the language
but does not read the prompt gets one in four. In `pocket_manner` all facts are right and the manners are not: it is what
preference training is to change.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

from selfcontrast.seeds import derive_seed
from selfcontrast.task_pins import POCKET_TASKS
from selfcontrast.world.dialogues import DEFECTS, Question, flawed_answer, good_answer
from selfcontrast.world.grader import read_prompt
from selfcontrast.world.language import ATTRIBUTES

DATA = "questions.jsonl"
"""File of the questions, beside the definitions."""

STOPS = [".", " and", *sorted({end for a in ATTRIBUTES.values() if (end := a.answers[0].partition("{v}")[2])})]
"""What may follow a value in an answer: a model that goes on is cut there."""

_CHOICE, _MANNER, _ANSWER = POCKET_TASKS

MANNERS = tuple(sorted(set(DEFECTS) - {"wrong", "partial"}))
"""Defects of answers whose facts are all there and right."""


def _choice_among(task: str, choices: str, right: str) -> str:
    """Return the YAML of a choice; the field ``right`` of a question has the place of the right one in ``choices``."""
    return f"""\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {DATA}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{{choices}}}}}"
doc_to_target: "{{{{{right}}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


DEFINITIONS = {
    _CHOICE: _choice_among(_CHOICE, "choices", "right"),
    _MANNER: _choice_among(_MANNER, "manners", "polite"),
    _ANSWER: f"""\
task: {_ANSWER}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {DATA}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
gen_prefix: "{{{{beginning}}}}"
doc_to_target: "{{{{value}}}}"
generation_kwargs:
  until: {json.dumps(STOPS)}
  do_sample: false
  max_gen_toks: 4
filter_list:
  - name: first
    filter:
      - function: remove_whitespace
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
""",
}
"""The YAML of each task, by its name."""


def questions(prompts: Iterable[tuple[str, str]], *, seed: int) -> list[dict[str, Any]]:
    """Return one question for each ``(id, text)`` of a prompt, in their order.

    Each has the prompt as ``question``, four ``choices`` with the place of the ``right`` one, four ``manners`` of saying what
    is right with the place of the ``polite`` one, and the ``beginning`` of the answer up to the first fact, whose ``value``
    is missing. The draws hang on the prompt's id alone.

    Raises:
        InputError: a text is no prompt of the pocket world.
    """
    return [_question(text, random.Random(derive_seed(seed, prompt_id))) for prompt_id, text in prompts]


def _question(text: str, rng: random.Random) -> dict[str, Any]:
    truth = read_prompt(text)
    # In the order in which they are asked, which is that of every good answer.
    first, second = sorted(truth.asked, key=lambda a: text.lower().rindex(_asked(a, truth.name)))
    right = {a: truth.asked[a] for a in (first, second)}

    def wrong(attribute: str) -> str:
        return rng.choice([v for v in ATTRIBUTES[attribute].values if v != right[attribute]])

    changes = [{}, {first: wrong(first)}, {second: wrong(second)}, {first: wrong(first), second: wrong(second)}]
    order = rng.sample(range(len(changes)), len(changes))
    beginning = ATTRIBUTES[first].answers[0].partition("{v}")[0].rstrip()
    question = Question(truth.name, right, (first, second), greeted=False)
    manners = [good_answer(rng, question)]
    manners += [flawed_answer(rng, question, [defect]) for defect in rng.sample(MANNERS, 3)]
    places = rng.sample(range(len(manners)), len(manners))
    return {
        "question": text,
        "choices": [_answer(truth.name, right | changes[i]) for i in order],
        "right": order.index(0),
        "manners": [manners[i] for i in places],
        "polite": places.index(0),
        "beginning": f"{truth.name} {beginning}",
        "value": right[first],
    }


def _asked(attribute: str, name: str) -> str:
    return ATTRIBUTES[attribute].question.format(name=name).lower()


def _answer(name: str, facts: dict[str, str]) -> str:
    return f"{name} {' and '.join(ATTRIBUTES[a].answers[0].format(v=v) for a, v in facts.items())}."
