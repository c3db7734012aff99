"""The answers of an arm in the layouts of AlpacaEval and of MT-Bench (FastChat)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfcontrast.artifacts import Artifact, sha256, write_json, write_jsonl
from selfcontrast.errors import InputError
from selfcontrast.exporting.folder import Export
from selfcontrast.exporting.targets import Target
from selfcontrast.judging.contests import Contest, read_contests
from selfcontrast.judging.formats import alpaca_output, mt_bench_answer
from selfcontrast.schema import Study
from selfcontrast.sweep import baseline_id


def has_two_turns(study: Study) -> bool:
    """Return whether a study has a benchmark in the layout of MT-Bench."""
    return bool(_questions(study, "mt_bench"))


def _questions(study: Study, *layouts: str) -> list[str]:
    return [key for key, questions in study.evaluation.questions.items() if questions.layout in layouts]


def fill_alpaca_eval(target: Target, export: Export, folder: Path) -> None:
    """Write `model_outputs.json` of the held-out split, with the targets as `reference_outputs.json`, and of benchmarks.

    Benchmarks are those with one turn: AlpacaEval's and Arena-Hard's. Further samples of an answer have files of their own,
    since AlpacaEval joins by the instruction.
    """
    split = target.study.evaluation.split
    _write_split(_contest(target, export, None), export, folder / f"split-{split}")
    for key in _questions(target.study, "alpaca_eval", "arena_hard"):
        contest = _contest(target, export, key)
        rows = [(c.turns[-1], c.answers[-1], s) for c, s in zip(contest.cases, contest.sources, strict=True)]
        _write_outputs(folder / key / "model_outputs.json", rows, contest.name, export)


def fill_mt_bench(target: Target, export: Export, folder: Path) -> None:
    """Write `model_answer/<name>.jsonl` for each benchmark in the layout of MT-Bench.

    Raises:
        InputError: the study has none.
    """
    keys = _questions(target.study, "mt_bench")
    if not keys:
        raise InputError(
            "the study has no questions in the layout of MT-Bench",
            expected="evaluation.questions.<id> with `layout: mt_bench`",
            where=target.study.name,
            remedy="add them and run the study; `export STUDY alpaca_eval` writes the answers to its test prompts",
        )
    for key in keys:
        contest = _contest(target, export, key)
        rows = []
        for (question, _), case in zip(contest.ids, contest.cases, strict=True):
            turns = [text for text in case.answers if text is not None]
            if len(turns) < len(case.turns):
                _count(export, "questions left out: a turn has no answer")
                continue
            answer = hashlib.sha256(f"{contest.name} {key} {question}".encode()).hexdigest()[:22]
            rows.append(mt_bench_answer(question, turns, answer_id=answer, generator=contest.name))
        write_jsonl(folder / key / "model_answer" / f"{contest.name}.jsonl", rows)
        _count(export, "questions answered", len(rows))


def _write_split(contest: Contest, export: Export, folder: Path) -> None:
    for sample in sorted({sample for _, sample in contest.ids}):
        ending = "" if sample == 0 else f".{sample}"
        chosen = [case for (_, j), case in zip(contest.ids, contest.cases, strict=True) if j == sample]
        rows = [(case.turns[-1], case.answers[-1], "") for case in chosen]
        _write_outputs(folder / f"model_outputs{ending}.json", rows, contest.name, export)
        if sample == 0:
            targets = [alpaca_output(c.turns[-1], (c.opponents or ("",))[-1], generator="target") for c in chosen]
            write_json(folder / "reference_outputs.json", targets)


def _write_outputs(path: Path, rows: Sequence[tuple[str, str | None, str]], name: str, export: Export) -> None:
    answered = [(instruction, text, source) for instruction, text, source in rows if text is not None]
    write_json(path, [alpaca_output(i, text, generator=name, source=s) for i, text, s in answered])
    _count(export, "answers", len(answered))
    if len(answered) < len(rows):
        _count(export, "questions left out: no room for an answer", len(rows) - len(answered))
    if repeated := len(answered) - len({i for i, _, _ in answered}):
        _count(export, "answers whose instruction occurs before (AlpacaEval joins by it)", repeated)


def _count(export: Export, what: str, n: int = 1) -> None:
    export.counts[what] = export.counts.get(what, 0) + n


def _contest(target: Target, export: Export, questions: str | None) -> Contest:
    """Return the answers of an arm to a benchmark, or to the held-out split with its targets."""
    e, layout = target.study.evaluation, target.layout
    if questions is None:
        manifest = layout.answers(target.arm.id, target.seed, e.split)
        export.note(target.open(target.root / target.dataset / "prompts" / "manifest.json"), target.root)
        export.note(target.open(layout.prompts), target.root)
    else:
        manifest = layout.question_answers(target.arm.id, target.seed, questions)
    artifact = export.note(target.open(manifest), target.root)
    spec: dict[str, Any] = {
        "judge": {"prompts": None, "samples": e.samples, "opponent": "target", "questions": questions},
        "questions": None,
        "split": e.split,
        "datasets": {target.dataset: [target.arm.id]},
        "models": [target.model],
        "seeds": [target.seed],
        "baseline": baseline_id(target.study),
    }
    if questions is not None:
        spec["questions"] = e.questions[questions].model_dump()
        _check_questions(artifact, Path(e.questions[questions].path))
    ((contest, _),) = read_contests(target.root, spec, compares=questions is None)
    return contest


def _check_questions(artifact: Artifact, path: Path) -> None:
    if not path.is_file() or artifact.manifest["inputs"].get("questions") != sha256(path):
        raise InputError(
            "the file of questions is not the one that the answers belong to",
            expected=f"SHA-256 {artifact.manifest['inputs'].get('questions')}",
            where=path.as_posix(),
            remedy="put it back, or run snakemake again",
        )
