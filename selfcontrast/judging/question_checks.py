"""Reads every file of questions that a study names, so that what is wrong with one ends a run before its first job."""

from __future__ import annotations

from pathlib import Path

from selfcontrast import plugins
from selfcontrast.errors import ConfigError, InputError
from selfcontrast.judging.alpaca_rate import check_gamed, check_number
from selfcontrast.judging.cases import Case
from selfcontrast.judging.questions import Question, read_baseline, read_questions, with_references
from selfcontrast.schema import Questions, Study


def check_questions(study: Study) -> None:
    """Read the questions, references, baselines and prompts of a study's judges, and ask each judge for its games.

    Raises:
        InputError: a file is not what its layout says, or lacks what a judge needs.
    """
    for key, asked in study.evaluation.questions.items():
        questions = questions_of(asked)
        if asked.baseline is not None:
            read_baseline(Path(asked.baseline), asked.layout, questions)
        if (control := asked.length_control) is not None and control.path is not None:
            check_gamed(Path(control.path), n_questions=len(questions))
        elif control is not None:
            check_number(len(questions), where=f"evaluation.questions.{key}.length_control: df_gamed.csv on the hub")
        for name, judge in study.evaluation.judges.items():
            if judge.questions == key:
                try:
                    _check_games(questions, judge.kind, judge.params)
                except InputError as error:
                    raise InputError(str(error), where=f"evaluation.judges.{name}") from None
                except ConfigError:  # a package that only the environment of the rule `judge` may have
                    continue


def questions_of(asked: Questions) -> list[Question]:
    """Return the questions of a benchmark with the reference answers that the study names for them."""
    questions = read_questions(Path(asked.path), asked.layout)
    return questions if asked.references is None else with_references(questions, Path(asked.references))


def _check_games(questions: list[Question], kind: str, params: dict[str, object]) -> None:
    module = plugins.load("judges", kind)
    checked = module.Params(**params)
    for q in questions:
        answers = ("",) * len(q.turns)
        module.games(Case(q.turns, answers, answers, q.references, q.category), checked)
