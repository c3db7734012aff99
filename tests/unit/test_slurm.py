"""What is said about jobs that failed on a cluster, and that no job of a killed run goes on; Slurm itself is in tests/slurm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfcontrast import slurm
from selfcontrast.errors import StepError

REFUSED = """[Sat Jan  1 09:26:57 2026]
Error in rule {rule}:
    message: SLURM sbatch failed. The error message was 'sbatch: error: {first}
sbatch: error: Batch job submission failed: {second}'.
    sbatch call:
        sbatch --parsable --job-name 18a12fd2 -p nope --wrap="python -m snakemake"
    jobid: 9
    log: results/smoke/logs/{rule}.log (check log file(s) for error details)
"""
FAILED = """[Sat Jan  1 09:26:57 2026]
Error in rule {rule}:
    message: SLURM-job '{job}' failed, SLURM status is: '{status}'. Detailed failure reason unavailable (status command is not 'sacct').
    jobid: 9
    log: results/smoke/logs/{rule}.log, /project/results/logs/slurm/{job}.log (check log file(s) for error details)
    shell:
        exec python -m selfcontrast.steps.{rule}
Logfile /project/results/logs/slurm/{job}.log:
================================================================================
Error in rule {rule}:
    message: None
    log: results/smoke/logs/{rule}.log (check log file(s) for error details)
================================================================================
"""
OUT_OF_MEMORY = """slurmstepd-vm: error: StepId=47.0 exceeded memory limit (891060224 > 629145600), being killed
slurmstepd-vm: error: *** STEP 47.0 ON vm CANCELLED AT 2026-11-21T09:28:38 ***
srun: error: vm: task 0: Killed
"""


def nothing(name: str) -> str:
    return ""


@pytest.mark.parametrize(
    ("output", "what", "remedy"),
    [
        (FAILED.format(rule="sft", job=5, status="OUT_OF_MEMORY"), "more memory", "set-resources: sft: {mem_mb: ...}"),
        (FAILED.format(rule="train", job=5, status="TIMEOUT"), "time limit", "train: {runtime: MINUTES}"),
        (FAILED.format(rule="train", job=5, status="NODE_FAIL"), "its node failed", "the same command again"),
        (FAILED.format(rule="train", job=5, status="CANCELLED"), "cancelled", "the same command again"),
        (
            REFUSED.format(rule="sft", first="invalid partition specified: nope", second="Invalid partition name"),
            "no such partition",
            "`sinfo -s`",
        ),
        (
            REFUSED.format(
                rule="sft", first="x", second="Invalid account or account/partition combination specified"
            ).replace("x\nsbatch: error: ", ""),
            "the account is unknown",
            "sacctmgr show associations",
        ),
        (
            "Error in rule sft:\n    message: Job submission failed with exception: The given account my_account appears to be"
            " invalid. Available accounts:\nbench\n    jobid: 3\n",
            "the account is unknown",
            "sacctmgr show associations",
        ),
        (
            REFUSED.format(rule="sft", first="Memory specification can not be satisfied", second="x"),
            "no node can ever give",
            "set-resources: sft: ...",
        ),
    ],
)
def test_each_fault_has_its_remedy(output: str, what: str, remedy: str) -> None:
    lines = slurm.advice(output, nothing).splitlines()
    assert lines[0] == "Jobs failed on the cluster."
    assert what in lines[1]
    assert remedy in lines[2]
    assert len(lines) == 3


def test_what_only_the_log_of_the_job_tells_is_found_there() -> None:
    """Without cgroups Slurm calls a job FAILED that it killed for its memory."""
    output = FAILED.format(rule="score_pool", job=47, status="FAILED")
    logs = {"/project/results/logs/slurm/47.log": OUT_OF_MEMORY}
    assert "score_pool: it needed more memory than it asked for" in slurm.advice(
        output, lambda name: logs.get(name, "")
    )


def test_equal_faults_are_counted_and_not_repeated() -> None:
    output = "".join(
        FAILED.format(rule=rule, job=i, status="TIMEOUT") for i, rule in enumerate(["train", "sft", "train"])
    )
    assert slurm.advice(output, nothing).splitlines()[1] == "  train (2 jobs), sft: it reached its time limit"


def test_a_step_that_failed_by_itself_gets_no_advice_on_slurm() -> None:
    """Its own message is in its log, which Snakemake shows; on one machine there is no Slurm to speak of."""
    on_a_cluster = FAILED.format(rule="train", job=5, status="FAILED")
    assert slurm.advice(on_a_cluster, lambda name: "InputError: a file was changed") == ""
    assert slurm.advice("Error in rule train:\n    message: None\n    jobid: 3\n", nothing) == ""


# Leftovers


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file with the jobs of run `abc`, one a line, and put an squeue and an scancel that use it into PATH."""
    jobs = tmp_path / "jobs"
    jobs.write_text("11\n12\n")
    for name, body in {
        "squeue": f'[ "$3" = --name=abc ] && cat {jobs}; exit 0',
        "scancel": f'echo "$@" >> {tmp_path}/cancelled; : > {jobs}',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return jobs


def test_jobs_of_the_killed_run_are_cancelled_and_no_others(queue: Path) -> None:
    assert slurm.cancel_leftovers("other") == 0
    assert queue.read_text() == "11\n12\n"
    assert slurm.cancel_leftovers("abc") == 2
    assert (queue.parent / "cancelled").read_text() == "11 12\n"


def test_jobs_that_do_not_end_stop_the_new_run(queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "GONE_WITHIN_S", 0.0)
    (queue.parent / "scancel").write_text("#!/bin/sh\n")
    with pytest.raises(StepError, match="do not end\n  found: 11, 12"):
        slurm.cancel_leftovers("abc")


def test_a_slurm_that_does_not_answer_stops_the_new_run(queue: Path) -> None:
    (queue.parent / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    with pytest.raises(StepError, match="squeue: Unable to contact slurm controller"):
        slurm.cancel_leftovers("abc")


def test_without_slurm_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.cancel_leftovers("abc") == 0
