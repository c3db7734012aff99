"""The keys of a study file about benchmarks by lm-evaluation-harness."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from selfcontrast.schema.keys import Count, Strict
from selfcontrast.task_pins import PINS, POCKET_TASKS

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Benchmark(Strict):
    """Tasks of lm-evaluation-harness, which every arm is run on: its own, those of a folder, those of the pocket world."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = Field(description="names of tasks or groups of tasks")
    world: bool = Field(
        False,
        description="write the tasks pocket_choice, pocket_manner and pocket_answer from the pocket world's held-out prompts",
    )
    folder: str | None = Field(
        None,
        description="folder with definitions of tasks (YAML and their data), relative to where snakemake is started",
    )
    few_shot: Annotated[int, Field(ge=0)] | None = Field(
        None, description="examples before each question; None: the leaderboard's for pinned tasks, else the task's own"
    )
    chat_template: bool = Field(
        False, description="ask through the chat template of the model (examples as turns) instead of as plain text"
    )
    limit: Count | None = Field(None, description="only the first questions of each task; None: all")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] | None = Field(
        None, description="training seeds whose policies are run; None: all of the study"
    )
    batch: Count = Field(16, description="texts that run together; changes results by rounding at most")
    pins: dict[str, Hash] = Field(
        {}, description="SHA-256 that the definition of a task must have, by its name; before those of the project"
    )

    @model_validator(mode="after")
    def _one_folder_and_known_tasks(self) -> Benchmark:
        if self.world and self.folder is not None:
            raise ValueError("give `world: true` or `folder`, not both; a study may have several benchmarks")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("a task is named twice")
        known = [*(POCKET_TASKS if self.world else ()), *PINS, *self.pins]
        for task in self.tasks:
            if self.folder is None and task not in known:
                hint = " (it needs `world: true`)" if task in POCKET_TASKS else ""
                raise ValueError(
                    f"unknown task `{task}`{hint}; known: {', '.join(known)}. Any other task of the harness needs a hash "
                    "under `pins`; if you do not know it, give 64 zeros, and the message of the step says it"
                )
        return self
