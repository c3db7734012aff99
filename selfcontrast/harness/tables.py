"""The table of benchmarks: what every arm reaches on every task, over seeds and questions, and how far from the SFT model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from selfcontrast import artifacts
from selfcontrast.artifacts import Artifact
from selfcontrast.errors import InputError
from selfcontrast.layout import Layout
from selfcontrast.schema import Study
from selfcontrast.stats import mean_interval
from selfcontrast.sweep import Arm, baseline_id, benchmark_seeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL_SEEDS = "all"

COLUMNS = [
    *("dataset", "model", "benchmark", "arm", "method", "selection", "n", "task", "metric", "filter", "seed"),
    *("value", "low", "high", "stderr", "questions", "seeds", "vs_sft", "vs_sft_low", "vs_sft_high"),
    *("few_shot", "chat_template", "version"),
]

Key = tuple[str, int]
Values = dict[tuple[str, str, str], dict[Key, float]]


@dataclass(frozen=True)
class Run:
    """What one policy reached on one benchmark."""

    artifact: Artifact

    @cached_property
    def results(self) -> dict[str, Any]:
        """Return results.json."""
        return dict(artifacts.read_json(self.artifact.path("results.json")))

    @cached_property
    def values(self) -> Values:
        """Return the value of each question, named by task and number, by leaf task, metric and filter.

        A value that is no number, as some metrics have it before they are aggregated, is left out.
        """
        found: Values = {}
        for _, row in artifacts.read_jsonl(self.artifact.path("samples.jsonl")):
            for metric, value in row["metrics"].items():
                if isinstance(value, bool | int | float):
                    place = found.setdefault((row["task"], metric, row["filter"]), {})
                    place[row["task"], row["question"]] = float(value)
        return found

    def of(self, task: str, metric: str, chosen: str, value: float) -> dict[Key, float]:
        """Return the values of the questions of a task, or of all tasks in a group, if their mean is the task's ``value``.

        Else none: a metric that is no mean over questions (F1, a mean over tasks) has no interval over questions.
        """
        leaves = self.results["tasks"][task].get("parts", [task])
        found = {k: v for leaf in leaves for k, v in self.values.get((leaf, metric, chosen), {}).items()}
        is_mean = found and math.isclose(math.fsum(found.values()) / len(found), value, abs_tol=1e-9)
        return found if is_mean else {}


def benchmark_table(study: Study, cells: Sequence[tuple[Layout, Mapping[str, Arm]]]) -> pd.DataFrame:
    """Return one row for each arm, task, metric and seed, and one over all seeds; empty without benchmarks.

    Args:
        cells: for each data set and model, where its outputs lie and its arms.
    """
    rows = [
        row for layout, arms in cells for key in study.evaluation.benchmarks for row in _rows(study, layout, arms, key)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(study: Study, layout: Layout, arms: Mapping[str, Arm], key: str) -> Iterator[dict[str, Any]]:
    runs = {
        i: {s: Run(Artifact.open(layout.benchmark(i, s, key))) for s in benchmark_seeds(study, key, arm)}
        for i, arm in arms.items()
    }
    (baseline,) = runs[baseline_id(study)].values()
    for i, arm in arms.items():
        first = next(iter(runs[i].values()))
        for task, described in first.results["tasks"].items():
            for at, numbers in enumerate(described["metrics"]):
                head = {
                    "dataset": layout.dataset,
                    "model": layout.model,
                    "benchmark": key,
                    "arm": i,
                    "method": arm.method,
                    "selection": arm.selection,
                    "n": arm.n,
                    "task": task,
                    "metric": numbers["metric"],
                    "filter": numbers["filter"],
                    "questions": described["questions"],
                    "few_shot": described["few_shot"],
                    "chat_template": first.results["chat_template"],
                    "version": described["version"],
                }
                yield from _of_metric(head, runs[i], baseline, at, is_baseline=not arm.is_trained)


def _of_metric(
    head: dict[str, Any], runs: Mapping[int, Run], baseline: Run, at: int, *, is_baseline: bool
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one arm, task and metric: one for each seed with the harness' own standard error, and one for all."""
    task, numbers = head["task"], [run.results["tasks"][head["task"]]["metrics"][at] for run in runs.values()]
    by_seed = [
        run.of(task, n["metric"], n["filter"], n["value"]) for run, n in zip(runs.values(), numbers, strict=True)
    ]
    for seed, n, values in zip(runs, numbers, by_seed, strict=True):
        interval = mean_interval(_matrix([values])) if values else None
        yield head | {
            "seed": seed,
            "value": n["value"],
            "low": interval and interval.low,
            "high": interval and interval.high,
            "stderr": n["stderr"],
            "seeds": 1,
        }
    row = head | {"seed": ALL_SEEDS, "value": float(np.mean([n["value"] for n in numbers])), "seeds": len(runs)}
    if all(by_seed):
        over_all = mean_interval(_matrix(by_seed))
        row |= {"low": over_all.low, "high": over_all.high}
        of_baseline = baseline.results["tasks"][task]["metrics"][at]
        opponent = baseline.of(task, of_baseline["metric"], of_baseline["filter"], of_baseline["value"])
        if opponent and not is_baseline:
            difference = mean_interval(_matrix(by_seed, minus=opponent))
            row |= {"vs_sft": difference.value, "vs_sft_low": difference.low, "vs_sft_high": difference.high}
    yield row


def _matrix(by_seed: Sequence[Mapping[Key, float]], *, minus: Mapping[Key, float] | None = None) -> NDArray:
    """Return the values ``(seeds, questions)``, or their differences to ``minus``, question by question."""
    keys = sorted(by_seed[0])
    for other in (*by_seed, *([minus] if minus is not None else [])):
        if sorted(other) != keys:
            raise InputError(
                "two policies were asked different questions of one benchmark",
                expected=f"{len(keys)} questions for each",
                found=f"{len(other)}",
                remedy="delete the folders benchmarks/ below results/<study>/ of the arms, and run snakemake again",
            )
    subtracted = np.array([minus[k] for k in keys]) if minus is not None else 0.0
    return np.array([[values[k] for k in keys] for values in by_seed]) - subtracted
