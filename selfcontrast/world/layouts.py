"""Write dialogues of the pocket world in the exact record layouts of the public data sets."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from selfcontrast import artifacts
from selfcontrast.world.dialogues import Question, draw_question, flawed_answer, good_answer
from selfcontrast.world.grader import grade

N_NECTAR_ANSWERS = 7


def hh_rlhf(rng: random.Random, question: Question) -> dict[str, Any]:
    """Return one record of HH-RLHF."""
    history = "".join(f"\n\n{'Human' if r == 'user' else 'Assistant'}: {c}" for r, c in question.history)
    prompt = f"{history}\n\nHuman: {question.text}\n\nAssistant: "
    return {"chosen": prompt + good_answer(rng, question), "rejected": prompt + flawed_answer(rng, question)}


def ultrachat(rng: random.Random, question: Question) -> dict[str, Any]:
    """Return one record of UltraChat-200k."""
    turns = [*question.history, ("user", question.text), ("assistant", good_answer(rng, question))]
    first = turns[0][1]
    key = hashlib.sha256(f"{first}\n{question.text}".encode()).hexdigest()
    return {"prompt": first, "prompt_id": key, "messages": [{"content": c, "role": r} for r, c in turns]}


def nectar(rng: random.Random, question: Question) -> dict[str, Any]:
    """Return one record of Nectar: seven answers, ranked by their true grade."""
    history = "".join(f"\n\n{'Human' if r == 'user' else 'Assistant'}: {c}" for r, c in question.history)
    texts = {good_answer(rng, question): None}
    while len(texts) < N_NECTAR_ANSWERS:
        texts[flawed_answer(rng, question)] = None
    ordered = sorted(texts, key=lambda t: -grade(question.text, t))
    answers = [{"answer": t, "model": f"model-{i}", "rank": float(i)} for i, t in enumerate(ordered, 1)]
    return {
        "prompt": f"{history}\n\nHuman: {question.text}\n\nAssistant: ",
        "answers": answers,
        "turns": 1 + len(question.history) // 2,
        "num_responses": N_NECTAR_ANSWERS,
        "source": ["pocket-world"],
        "good_natured": True,
    }


LAYOUTS: dict[str, Callable[[random.Random, Question], dict[str, Any]]] = {
    "hh_rlhf": hh_rlhf,
    "ultrachat": ultrachat,
    "nectar": nectar,
}
"""The writer of one record for each adaptor that the pocket world can feed."""


def draw_questions(rng: random.Random, n: int) -> Iterator[Question]:
    """Yield ``n`` questions whose prompts differ."""
    seen: set[str] = set()
    while len(seen) < n:
        question = draw_question(rng)
        if question.text not in seen:
            seen.add(question.text)
            yield question


def write_records(path: Path, *, layout: str, dialogues: int, seed: int) -> None:
    """Write a data set in the given layout: gzipped JSON lines for HH-RLHF, parquet for the others, as published."""
    rng = random.Random(seed)
    records = [LAYOUTS[layout](rng, question) for question in draw_questions(rng, dialogues)]
    if layout == "hh_rlhf":
        artifacts.write_jsonl(path, records, compress=True)
    else:
        artifacts.write_table(path, {key: [r[key] for r in records] for key in records[0]})
