"""What a run that failed says last: the message of each failed step, what is finished, and how to resume."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

MOST_LINES = 40
"""Lines of one step's message; the whole of it is in its log."""

MOST_MESSAGES = 5

HEAD = "The run has failed"

RESUME = "The same command resumes: what is finished is not made again."

_COMMAND = re.compile(
    r"> (\S+\.log) 2>&1' (?:returned non-zero exit status|died with <Signals\.(?!SIGINT|SIGTERM)(\w+))"
)
_BLOCK = re.compile(r"^Error in rule \w+:\n(?:    .*\n)*?    log: (\S+\.log)\b", re.M)
_COUNT = re.compile(r"^(\d+) of (\d+) steps \([\d.]+%\) done$", re.M)
_MESSAGE = re.compile(r"^(?:ConfigError|InputError|NotFiniteError|StepError): ", re.M)
_SUCCESS = re.compile(r"^\d\d:\d\d:\d\d done in .*\n?\Z", re.M)
_TRACEBACK = "Traceback (most recent call last):\n"


def failed_logs(printed: str) -> dict[str, str]:
    """Return the logs of the jobs that failed, in the order of their first failure, with the signal that ended them, if any.

    Jobs that ended because the run was stopped are not among them.

    Args:
        printed: what Snakemake printed, with the blocks `Error in rule` or, under ``--quiet rules``, without them.
    """
    commands = [(match.start(), match[1], match[2] or "") for match in _COMMAND.finditer(printed)]
    blocks = [(match.start(), match[1], "") for match in _BLOCK.finditer(printed)]
    found: dict[str, str] = {}
    for _, log, signal in sorted(commands + blocks):
        found[log] = signal or found.get(log, "")
    return found


def message_of(text: str) -> str:
    """Return what the log of a failed step says last: its own message, else the end of a traceback, else the last lines."""
    if messages := list(_MESSAGE.finditer(text)):
        return text[messages[-1].start() :].strip()
    lines = text.rpartition(_TRACEBACK)[2].splitlines()
    if _TRACEBACK in text:
        last = [i for i, line in enumerate(lines) if line and not line.startswith(" ")]
        return "\n".join(lines[last[0] :] if last else lines)
    return "\n".join(lines[-3:]) or "the log is empty: the job was killed, or did not start"


def summary(printed: str, read: Callable[[str], str], unfinished: Mapping[str, int], n_policies: int) -> str:
    """Return the last words of a failed run; empty if no failed job is known.

    Args:
        printed: what Snakemake printed.
        read: returns the text of a log, empty if there is none.
        unfinished: arms of which not all policies are evaluated, with the number of these that are missing.
        n_policies: policies of the study, over data sets, models, arms and seeds.
    """
    by_message: dict[str, list[str]] = {}
    for log, signal in failed_logs(printed).items():
        if not _SUCCESS.search(text := read(log)):  # at a later attempt
            killed = f"It was killed ({signal}); too little memory is the usual reason.\n" if signal else ""
            by_message.setdefault(killed + message_of(text), []).append(log)
    if not by_message:
        return ""
    n_failed = sum(map(len, by_message.values()))
    counts = _COUNT.findall(printed)
    done = f", {counts[-1][0]} of {counts[-1][1]} are done" if counts else ""
    lines = [f"{HEAD}: {n_failed} job{'s' if n_failed > 1 else ''} failed{done}."]
    n_missing = sum(unfinished.values())
    lines.append(f"Evaluated policies: {n_policies - n_missing} of {n_policies}.")
    if n_missing:
        lines[-1] += f" Missing: {', '.join(f'{arm} ({n})' for arm, n in unfinished.items())}."
    lines += [RESUME]
    for message, logs in list(by_message.items())[:MOST_MESSAGES]:
        more = f" and {len(logs) - 1} more with the same message" if len(logs) > 1 else ""
        lines += ["", f"{Path(logs[0]).stem}, log: {logs[0]}{more}", *_cut(message)]
    if (n_left := len(by_message) - MOST_MESSAGES) > 0:
        lines += ["", f"{n_left} other messages: {', '.join(x[0] for x in list(by_message.values())[MOST_MESSAGES:])}"]
    return "\n".join(lines)


def _cut(message: str) -> list[str]:
    """Return the lines of a message, its first and its last ones if it has too many: the remedy comes last."""
    lines = message.splitlines()
    if len(lines) <= MOST_LINES:
        return lines
    half = MOST_LINES // 2
    return [*lines[:half], f"  ... {len(lines) - 2 * half} lines ...", *lines[-half:]]
