"""What the tasks of lm-evaluation-harness cost: sizes of the pinned ones, and of others a guess."""

from __future__ import annotations

from collections.abc import Iterator

from selfcontrast.planning.costs import BYTES, forward
from selfcontrast.planning.machines import Machine
from selfcontrast.planning.shapes import shape_of
from selfcontrast.planning.stage import Stage, small_stage
from selfcontrast.schema import Benchmark, Study
from selfcontrast.sweep import arms_of, benchmark_seeds
from selfcontrast.task_pins import PINS, POCKET_TASKS, Pin

OTHER = Pin("", "", "", few_shot=0, questions=1000, requests=4, tokens=100)
"""A task whose size is not known."""

HARNESS_S = 3.0
"""Seconds that the harness takes beside the model: imports, a look at the environment, prompts; measured on one core."""


def benchmark_stages(study: Study, dataset: str, model: str, machine: Machine) -> Iterator[Stage]:
    """Yield the stages of the rules pocket_tasks and benchmark for one data set with one model; none without benchmarks."""
    benchmarks, m, shape = study.evaluation.benchmarks, study.models[model], shape_of(study.models[model])
    n_prompts = study.datasets[dataset].splits.model_dump()[study.evaluation.split]
    if any(b.world for b in benchmarks.values()):
        yield small_stage("pocket_tasks", machine, n_prompts)
    devices = m.inference_gpus if m.gpus else 0
    for key, benchmark in benchmarks.items():
        questions, tokens = work_of(benchmark, n_prompts)
        context = tokens / max(1.0, questions) / 2
        operations = forward(shape, tokens, head_tokens=tokens, context=context)
        one = machine.start_s + HARNESS_S + operations / (machine.flops * machine.score_share)
        jobs = sum(len(benchmark_seeds(study, key, arm)) for arm in arms_of(study, dataset).values())
        memory = float(shape.weights * BYTES[m.dtype])
        yield Stage("benchmark", jobs, devices, jobs * questions, jobs * tokens, jobs * one, one, memory)


def work_of(benchmark: Benchmark, n_prompts: int) -> tuple[float, float]:
    """Return the questions of a benchmark and the tokens that a model reads for them, each choice with its whole prompt.

    Args:
        n_prompts: held-out prompts of the data set, from which the pocket world's tasks are made.
    """
    questions = tokens = 0.0
    for task in benchmark.tasks:
        size = (
            Pin("", "", "", 0, n_prompts, 4, 45) if task in POCKET_TASKS and benchmark.world else PINS.get(task, OTHER)
        )
        asked = min(size.questions, benchmark.limit or size.questions)
        shots = size.few_shot if benchmark.few_shot is None else benchmark.few_shot
        questions += asked
        tokens += asked * size.requests * size.tokens * (1 + shots)
    return questions, tokens
