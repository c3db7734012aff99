"""What each metric of a study is called in tables and figures, and which are rates, shown in percent."""

from __future__ import annotations

from selfcontrast import plugins
from selfcontrast.schema import Judge, Study


def short_names(study: Study) -> dict[str, str]:
    """Return the head of each metric's column, in the order of the columns."""
    return {
        "score": f"mean {study.evaluation.judge}",
        "win_vs_sft": "wins vs SFT, %",
        "win_vs_target": "wins vs target, %",
        **{metric: _judged(metric, judge) for metric, judge in judge_metrics(study).items()},
        "length": "tokens",
    }


def long_name(study: Study, metric: str) -> str:
    """Return the label of an axis."""
    judges = judge_metrics(study)
    if metric in judges:
        return f"judge {_judged(metric, judges[metric]).replace(', %', ' (%)').replace('wins', 'win rate')}"
    return {
        "win_vs_sft": "win rate against the SFT model (%)",
        "win_vs_target": "win rate against the SFT target (%)",
        "score": f"mean {study.evaluation.judge} of an answer",
        "length": "mean length of an answer (tokens)",
    }[metric]


def is_rate(study: Study, metric: str) -> bool:
    """Return whether a metric is a rate between 0 and 1, which is shown in percent."""
    return short_names(study).get(metric, "").endswith("%")


def is_against_sft(study: Study, metric: str) -> bool:
    """Return whether a metric compares with the SFT model, so that this model's own value is one half."""
    judge = judge_metrics(study).get(metric)
    if judge is None:
        return metric == "win_vs_sft"
    return _compares(judge) and judge.questions is None and judge.opponent == "sft"


def judge_metrics(study: Study) -> dict[str, Judge]:
    """Return the judges by the name of their metric."""
    return {f"judge_{name}": judge for name, judge in study.evaluation.judges.items()}


def _judged(metric: str, judge: Judge) -> str:
    name = metric.removeprefix("judge_")
    if not _compares(judge):
        return f"{name}: score"
    if judge.questions is not None:
        return f"{name}: wins, %"
    return f"{name}: wins vs {'SFT' if judge.opponent == 'sft' else 'target'}, %"


def _compares(judge: Judge) -> bool:
    return plugins.load("judges", judge.kind).COMPARES
