"""One row of a plan: what all jobs of a rule cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from selfcontrast.planning.machines import Machine

ROW_S = 5e-6
"""Seconds for each row of a table that a step without a model reads or writes."""


@dataclass(frozen=True)
class Stage:
    """What one rule costs, over all its jobs.

    Attributes:
        rule: name of the rule.
        jobs: number of jobs.
        devices: GPUs of each job; 0 for one CPU core.
        answers: responses that it makes or reads.
        tokens: tokens that a model runs.
        seconds: wall time of all jobs one after the other.
        longest: wall time of the longest job.
        memory: bytes of each device, at most; 0 without a model.
        disk: bytes that stay on disk.
    """

    rule: str
    jobs: int
    devices: int = 0
    answers: float = 0
    tokens: float = 0
    seconds: float = 0
    longest: float = 0
    memory: float = 0
    disk: float = 0

    @property
    def hours(self) -> float:
        """Return GPU-hours; core-hours of a stage without a GPU."""
        return self.seconds * max(1, self.devices) / 3600

    def join(self, other: Stage) -> Stage:
        """Return both together."""
        return replace(
            self,
            jobs=self.jobs + other.jobs,
            devices=max(self.devices, other.devices),
            answers=self.answers + other.answers,
            tokens=self.tokens + other.tokens,
            seconds=self.seconds + other.seconds,
            longest=max(self.longest, other.longest),
            memory=max(self.memory, other.memory),
            disk=self.disk + other.disk,
        )


def small_stage(rule: str, machine: Machine, rows: float, *, jobs: int = 1, disk: float = 0) -> Stage:
    """Return a stage without a model, each of whose jobs reads or writes so many rows of tables."""
    seconds = machine.step_s + rows * ROW_S
    return Stage(rule, jobs, answers=0, seconds=jobs * seconds, longest=seconds, disk=disk)
