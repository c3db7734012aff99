"""The tasks of lm-evaluation-harness that studies may run, each pinned to one version of its definition; pure data.

The hash of a task is that of its definition as the harness resolves it (``harness.definitions.digest``); few-shot numbers are
those of the Open LLM Leaderboard of 2023, which the paper and SPIN report.
"""

from __future__ import annotations

from dataclasses import dataclass

HARNESS = "0.4.13"
"""Version of lm-eval with which every number is made."""

POCKET_TASKS = ("pocket_choice", "pocket_manner", "pocket_answer")
"""Tasks that the step pocket_tasks writes from the held-out prompts of a pocket world."""


@dataclass(frozen=True)
class Pin:
    """One task or group of tasks.

    Attributes:
        folder: where its definition lies, below the harness' folder of tasks.
        version: version of the task in its own metadata.
        sha256: hash of its definition.
        few_shot: examples before each question.
        questions: size of the data set, for the plan.
        requests: texts that a model reads for each question, for the plan: the choices; 1 where it writes.
        tokens: tokens of a question and of an example, for the plan: assumed.
    """

    folder: str
    version: str
    sha256: str
    few_shot: int
    questions: int
    requests: int
    tokens: int


_SHA256 = {
    "arc_challenge": "2b9ec1136a92b8b49dc56887c0119360ef691be9b0a2b34b2c1dc50e3bd24d2b",
    "arc_easy": "e849902fb67458d591f8533af69c88c27a9bb6215b36b976fd77f1443f154ed3",
    "hellaswag": "bfd11052dfd74997d364945345c9a50b7f397fb1a2a8db3eba218bcf393b26bc",
    "mmlu": "94739dd27b291820dbbf6bce4f9867a10c0b3e25f1f1a46bf4fc9b4a8d1bb4f0",
    "truthfulqa_mc2": "630d5a101775cf730a6b18ccfd6d05d2d19998d9d530c6fdb7825f9f08a69ab8",
    "winogrande": "e595507d8571d7965b2b3eb7c5e33e54af173329b4c9c4a7ec8ba24f34e76c2b",
    "gsm8k": "9c8a2afc1cf860ae76f83d70fc488b0d6f3be0d7d9dcbd74c0c6e91273475f01",
}

PINS = {
    "arc_challenge": Pin("arc", "1.0", _SHA256["arc_challenge"], 25, 1172, 4, 45),
    "arc_easy": Pin("arc", "1.0", _SHA256["arc_easy"], 25, 2376, 4, 40),
    "hellaswag": Pin("hellaswag", "1.0", _SHA256["hellaswag"], 10, 10042, 4, 110),
    "mmlu": Pin("mmlu/default", "2", _SHA256["mmlu"], 5, 14042, 1, 120),
    "truthfulqa_mc2": Pin("truthfulqa", "3.0", _SHA256["truthfulqa_mc2"], 0, 817, 7, 220),
    "winogrande": Pin("winogrande", "1.0", _SHA256["winogrande"], 5, 1267, 2, 35),
    "gsm8k": Pin("gsm8k", "3.0", _SHA256["gsm8k"], 5, 1319, 1, 190),
}
"""The paper's tasks."""
