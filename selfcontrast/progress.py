"""Short lines of progress from Snakemake's output."""

from __future__ import annotations

import itertools
import re
import signal
import time
from collections.abc import Iterable, Iterator
from typing import TextIO

from selfcontrast import failures

_DONE = re.compile(r"(\d+) of (\d+) steps \(([\d.]+)%\) done")
_FINISHED = re.compile(r"Finished jobid: \d+ \(Rule: (\w+)\)")
_NOISE = re.compile(
    r"^(Select jobs to execute|Execute \d+ jobs|\[\w{3} \w{3}|Using workflow specific|Assuming unrestricted|Using shell|"
    r"Provided cores|Rules claiming|Provided resources|Conda environments|Complete log|Elapsed time|Removing temporary|"
    r"SNAKEMAKE|=+$|  [A-Z][\w ]*(\(s\))?: |Building DAG|Job stats|job +count|-+ +-+|total +\d+|\w+ +\d+$|$|"
    r"Exiting because a job execution failed)"
)
_FAILED = re.compile(
    r"RuleException:\nCalledProcessError in file .*\nCommand '.*> (\S+\.log) 2>&1' returned non-zero .*\n"
)
_EMPTY = "WorkflowError:\nAt least one job did not complete successfully.\n"
EVERY_S = 5.0
"""Seconds between two lines."""


def follow_to_the_end(lines: Iterable[str], out: TextIO) -> None:
    """Follow a run until Snakemake closes its output, also after Ctrl-C, which reaches both: its jobs end first."""
    interrupted = False

    def note(*_: object) -> None:
        nonlocal interrupted
        interrupted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        follow(lines, out)
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        print("Interrupted. The same command goes on from what is finished.", file=out, flush=True)


def follow(lines: Iterable[str], out: TextIO) -> None:
    """Copy errors and everything unexpected; of the rest print how far the run is, every few seconds and at the end.

    What a run that failed says last is copied as it is.
    """
    started = time.monotonic()
    last, rule, line = -EVERY_S, "", ""
    pieces = _joined(lines)
    for line in pieces:
        if line.startswith(failures.HEAD):
            out.writelines(itertools.chain([line], pieces))
        elif match := _FAILED.fullmatch(line):
            print(f"A job has failed; its log: {match[1]}", file=out, flush=True)
        elif match := _FINISHED.search(line):
            rule = match[1]
        elif match := _DONE.search(line):
            now = time.monotonic()
            if now - last >= EVERY_S or match[1] == match[2]:
                last = now
                minutes, seconds = divmod(int(now - started), 60)
                print(
                    f"{minutes:3d}:{seconds:02d}  {match[1]:>4} of {match[2]} jobs ({match[3]} %)  last: {rule}",
                    file=out,
                    flush=True,
                )
        elif line != _EMPTY and not _NOISE.match(line):
            print(line, end="", file=out, flush=True)


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines one by one, but the exception of a failed job, and that of a whole run, as one piece."""
    pieces = {"RuleException:\n": 3, "WorkflowError:\n": 2}
    source = iter(lines)
    for line in source:
        yield line + "".join(itertools.islice(source, pieces[line] - 1)) if line in pieces else line
