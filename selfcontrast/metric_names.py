"""The metrics of a study: plug-ins, judgements of language models, and what other scorers say; how each is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from selfcontrast import plugins
from selfcontrast.metrics._shown import Shown
from selfcontrast.schema import Judge, Study

HEADLINE = "score"
"""The metric that comes first: what the judge thinks of an answer."""


def shown_metrics(study: Study) -> dict[str, Shown]:
    """Return how each metric is shown, by its name in the tables, in the order of columns.

    First those of which more is better, then those of judges, then the others, and last what other scorers say.
    """
    own = {name: plugins.load("metrics", name).SHOWN for name in plugins.names("metrics")}
    merits = sorted((m for m in own if own[m].is_merit), key=lambda m: (m != HEADLINE, m))
    others = [m for m in own if not own[m].is_merit]
    found = {m: own[m] for m in merits}
    found |= {f"judge_{name}": _judged(name, judge) for name, judge in study.evaluation.judges.items()}
    found |= {m: own[m] for m in others}
    named = {m: _named(shown, study.evaluation.judge) for m, shown in found.items()}
    return named | dict(_by_proxies(study, {m: own[m] for m in merits + others if own[m].by_scorer}))


def _named(shown: Shown, scorer: str) -> Shown:
    return replace(shown, head=shown.head.replace("{judge}", scorer), axis=shown.axis.replace("{judge}", scorer))


def _by_proxies(study: Study, by_scorer: dict[str, Shown]) -> Iterator[tuple[str, Shown]]:
    for scorer in study.evaluation.scorers:
        for metric, shown in by_scorer.items():
            mine = _named(shown, scorer)
            by = "" if "{judge}" in shown.head else f" (by {scorer})"
            yield f"{metric}_{scorer}", replace(mine, head=mine.head + by, axis=mine.axis + by, proxy=scorer)


def _judged(name: str, judge: Judge) -> Shown:
    if not plugins.load("judges", judge.kind).COMPARES:
        return Shown(f"{name}: score", f"judge {name}: score", judge=name)
    whom = "" if judge.questions is not None else f" vs {'SFT' if judge.opponent == 'sft' else 'target'}"
    return Shown(
        f"{name}: wins{whom}, %",
        f"judge {name}: win rate{whom} (%)",
        is_rate=True,
        against_sft=judge.questions is None and judge.opponent == "sft",
        judge=name,
    )
