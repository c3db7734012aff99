"""What a run on a Slurm cluster needs of the workflow: no job of a killed run goes on, and failures come with a remedy."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from selfcontrast.errors import StepError

GONE_WITHIN_S = 120.0
LOOK_AGAIN_S = 1.0


class Fault(NamedTuple):
    """A way in which a job fails on a cluster.

    Attributes:
        pattern: what Slurm or its executor prints then.
        what: what it means.
        remedy: what to do; ``RULE`` stands for the rule of the job.
    """

    pattern: str
    what: str
    remedy: str


FAULTS = (
    Fault(
        r"OUT_OF_MEMORY|exceeded (job )?memory limit|oom.kill",
        "it needed more memory than it asked for",
        "in the profile, raise `set-resources: RULE: {mem_mb: ...}`",
    ),
    Fault(
        r"status is: 'TIMEOUT'|DUE TO TIME LIMIT",
        "it reached its time limit",
        "in the profile, raise `set-resources: RULE: {runtime: MINUTES}`; trainings go on from their last stored state",
    ),
    Fault(
        r"NODE_FAIL|BOOT_FAIL|DUE TO NODE FAILURE",
        "its node failed or was taken down",
        "give the same command again; with `retries` in the profile that is done for you",
    ),
    Fault(
        r"[Ii]nvalid partition",
        "there is no such partition",
        "in the profile, set `slurm_partition` to one that `sinfo -s` lists",
    ),
    Fault(
        r"[Ii]nvalid account|account .* appears to be invalid",
        "the account is unknown, or may not use this partition",
        "in the profile, set `slurm_account` to one that `sacctmgr show associations user=$USER` lists, if any",
    ),
    Fault(
        r"configuration is not available|[Mm]emory specification can ?not|[Ii]nvalid generic resource",
        "no node can ever give what it asks for",
        "compare its `resources` above with `sinfo -o '%P %G %m %c'`; in the profile, change `set-resources: RULE: ...`",
    ),
    Fault(
        r"time limit is invalid",
        "it asks for more time than the partition allows",
        "in the profile, lower `set-resources: RULE: {runtime: MINUTES}`, or name another partition",
    ),
    Fault(
        r"violates accounting/QOS policy",
        "a limit of your account on the number or the size of jobs is reached",
        "in the profile, lower `jobs`; `sacctmgr show qos` lists the limits",
    ),
    Fault(
        r"status is: 'CANCELLED",
        "somebody cancelled it",
        "give the same command again",
    ),
    Fault(
        r"task \d+: Killed|<Signals.SIGKILL",
        "it was killed, for which want of memory is the usual reason",
        "give the same command again; if it is killed again, raise `set-resources: RULE: {mem_mb: ...}` in the profile",
    ),
)
"""From the most telling to the least: the log of a job that ran out of memory also says that it was killed."""

_FAILED = re.compile(r"^Error in rule (\w+):\n    message: (.*(?:SLURM|submission failed).*)$", re.M)
_LOGS = re.compile(r"^    log: (.*?)(?: \(check log.*)?$", re.M)


def cancel_leftovers(run: str) -> int:
    """Cancel the jobs of an earlier run that was killed before it could; return their number once they are gone.

    Args:
        run: the name that the executor gave to all jobs of that run.

    Raises:
        StepError: Slurm does not answer, or jobs do not end; they might still write, or delete, what this run makes.
    """
    if shutil.which("squeue") is None:
        return 0
    left = _jobs(run)
    if left:
        _ask("scancel", *left)
    deadline = time.monotonic() + GONE_WITHIN_S
    while remaining := _jobs(run):
        if time.monotonic() > deadline:
            raise StepError(
                "jobs of an earlier run of this study do not end",
                found=", ".join(remaining),
                remedy="try again when squeue no longer lists them",
            )
        time.sleep(LOOK_AGAIN_S)
    return len(left)


def _jobs(run: str) -> list[str]:
    return _ask("squeue", "--noheader", "--format=%i", f"--name={run}").split()


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, encoding="utf-8", errors="replace", capture_output=True, timeout=60, check=False)
        answer, complaint = done.stdout, done.stderr.strip() if done.returncode else ""
    except subprocess.TimeoutExpired:
        complaint = "no answer within a minute"
    if complaint:
        raise StepError(
            "jobs of an earlier run of this study may be left on the cluster, and Slurm cannot say",
            found=f"{command[0]}: {complaint}",
            remedy="try again when Slurm answers",
        )
    return answer


def advice(output: str, read: Callable[[str], str]) -> str:
    """Return what to do about each fault of the cluster that made jobs fail; empty if there was none.

    Args:
        output: what Snakemake printed.
        read: returns the text of a job's log, empty if there is none.
    """
    met: dict[Fault, list[str]] = {}
    for error in _FAILED.finditer(output):
        rule, message = error.groups()
        logs = _LOGS.search(output, error.end())
        texts = [message, *(read(name) for name in (logs[1].split(", ") if logs else []))]
        if (fault := _fault("\n".join(texts))) is not None:
            met.setdefault(fault, []).append(rule)
    lines = [
        f"  {_counted(rules)}: {fault.what}\n    what to do: {fault.remedy.replace('RULE', rules[0])}"
        for fault, rules in met.items()
    ]
    return "\n".join(["Jobs failed on the cluster.", *lines]) if lines else ""


def _fault(text: str) -> Fault | None:
    return next((fault for fault in FAULTS if re.search(fault.pattern, text)), None)


def _counted(rules: list[str]) -> str:
    return ", ".join(f"{rule} ({n} jobs)" if (n := rules.count(rule)) > 1 else rule for rule in dict.fromkeys(rules))


def read_log(name: str) -> str:
    """Return the end of a job's log, empty if there is none."""
    path = Path(name)
    return path.read_text(encoding="utf-8", errors="replace")[-10_000:] if path.is_file() else ""
