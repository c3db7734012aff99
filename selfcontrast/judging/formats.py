"""Judgements in the file layouts of AlpacaEval, MT-Bench and Arena-Hard, so that their own tools can read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcontrast.artifacts import write_json, write_jsonl
from selfcontrast.judging.cases import Judged
from selfcontrast.judging.exchange import read_reply
from selfcontrast.judging.replies import Replies


@dataclass(frozen=True)
class Entry:
    """One judged answer under the names that files use.

    Attributes:
        question_id: id of the question or prompt.
        source: the data set it is from.
    """

    question_id: str
    judged: Judged
    source: str = ""


def write_formats(
    folder: Path, layout: str, entries: Sequence[Entry], replies: Replies, *, generator: str, baseline: str, judge: str
) -> None:
    """Write the judgements of one arm below ``folder``.

    Args:
        layout: the constant ``FILES`` of the judge.
        generator: name of the arm.
        baseline: name of its opponent.
        judge: name of the judge.
    """
    if layout == "alpaca_eval":
        _write_alpaca(folder, entries, replies, generator=generator, baseline=baseline, judge=judge)
    elif layout == "mt_bench":
        rows = [row for e in entries for row in _mt_bench_rows(e, replies, generator=generator, judge=judge)]
        write_jsonl(folder / f"{judge}_single.jsonl", rows)
    else:
        rows = [_arena_row(e, replies, generator=generator, baseline=baseline, judge=judge) for e in entries]
        write_jsonl(folder / f"{generator}.jsonl", rows)


def _write_alpaca(
    folder: Path, entries: Sequence[Entry], replies: Replies, *, generator: str, baseline: str, judge: str
) -> None:
    """Write the arm's answers, the opponent's, and the annotations."""
    answered = [e for e in entries if e.judged.case.answers[-1] is not None]
    write_json(folder / "model_outputs.json", [_output(e, e.judged.case.answers[-1], generator) for e in answered])
    opponents = [(e, (e.judged.case.opponents or (None,))[-1]) for e in entries]
    write_json(folder / "reference_outputs.json", [_output(e, o, baseline) for e, o in opponents if o is not None])
    write_json(
        folder / "annotations.json",
        [
            {
                "instruction": e.judged.case.turns[-1],
                "output_1": opponent,
                "generator_1": baseline,
                "dataset": e.source,
                "output_2": e.judged.case.answers[-1],
                "generator_2": generator,
                "annotator": judge,
                "preference": None if e.judged.score.value is None else 1 + e.judged.score.value,
                "raw_completion": _choice(replies, e.judged.keys),
            }
            for e, opponent in opponents
            if opponent is not None and e.judged.case.answers[-1] is not None
        ],
    )


def _output(entry: Entry, text: str | None, generator: str) -> dict[str, Any]:
    return alpaca_output(entry.judged.case.turns[-1], text, generator=generator, source=entry.source)


def alpaca_output(instruction: str, text: str | None, *, generator: str, source: str = "") -> dict[str, Any]:
    """Return one entry of AlpacaEval's `model_outputs.json`."""
    return {"dataset": source, "instruction": instruction, "output": text, "generator": generator}


def mt_bench_answer(question_id: str, turns: Sequence[str], *, answer_id: str, generator: str) -> dict[str, Any]:
    """Return one row of FastChat's `model_answer/<generator>.jsonl`; the time stamp is 0, so that bytes repeat."""
    return {
        "question_id": _fastchat_id(question_id),
        "answer_id": answer_id,
        "model_id": generator,
        "choices": [{"index": 0, "turns": list(turns)}],
        "tstamp": 0.0,
    }


def _fastchat_id(question_id: str) -> int | str:
    return int(question_id) if question_id.isdigit() else question_id


def _choice(replies: Replies, keys: tuple[tuple[str, ...], ...]) -> Any:
    """Return the first choice of the first reply, None where there is none; of another layout, the whole body."""
    first = next((key for row in keys for key in row), None)
    if first is None or first not in replies:
        return None
    raw = replies.raw(first)
    return _clean((raw["choices"] or [None])[0] if isinstance(raw.get("choices"), list) else raw)


def _clean(value: Any) -> Any:
    """Return what a file can hold: half a surrogate pair, of an emoji that was cut, becomes `?`."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _mt_bench_rows(entry: Entry, replies: Replies, *, generator: str, judge: str) -> list[dict[str, Any]]:
    """Return one row for each rated turn; FastChat marks a missing rating with -1 and drops it."""
    j = entry.judged
    if not j.keys:
        return []
    return [
        {
            "question_id": _fastchat_id(entry.question_id),
            "model": generator,
            "judge": [judge, prompt],
            "user_prompt": "",
            "judgment": _text(replies, key),
            "score": -1 if verdict is None else verdict,
            "turn": turn,
            "tstamp": 0.0,
        }
        for turn, (prompt, key, verdict) in enumerate(zip(j.templates, j.keys[0], j.verdicts[0], strict=True), 1)
    ]


def _arena_row(entry: Entry, replies: Replies, *, generator: str, baseline: str, judge: str) -> dict[str, Any]:
    j = entry.judged
    games: list[dict[str, Any] | None] = [None, None]
    if j.keys:
        # In Arena-Hard's first game the baseline is A, in its second the model is.
        games = [
            {"score": None if v is None else _LABELS[v if place else -v], "judgment": _text(replies, key)}
            for place, (key, v) in enumerate(zip(j.keys[0], j.verdicts[0], strict=True))
        ]
    return {
        "uid": entry.question_id,
        "category": j.case.category,
        "judge": judge,
        "model": generator,
        "baseline": baseline,
        "games": games,
    }


_LABELS = {2.0: "A>>B", 1.0: "A>B", 0.0: "A=B", -1.0: "B>A", -2.0: "B>>A"}


def _text(replies: Replies, key: str) -> str | None:
    """Return what the judge said, None where it said nothing."""
    text = read_reply(replies.raw(key)).text if key in replies else ""
    return str(_clean(text)) or None
