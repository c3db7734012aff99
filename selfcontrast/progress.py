"""Short lines of progress from Snakemake's output."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterable
from typing import TextIO

_DONE = re.compile(r"(\d+) of (\d+) steps \(([\d.]+)%\) done")
_FINISHED = re.compile(r"Finished jobid: \d+ \(Rule: (\w+)\)")
_NOISE = re.compile(
    r"^(Select jobs to execute|Execute \d+ jobs|\[\w{3} \w{3}|Using workflow specific|Assuming unrestricted|Using shell|"
    r"Provided cores|Rules claiming|Provided resources|Conda environments|Complete log|Elapsed time|Removing temporary|"
    r"SNAKEMAKE|=+$|  [A-Z][\w ]*(\(s\))?: |Building DAG|Job stats|job +count|-+ +-+|total +\d+|\w+ +\d+$|$)"
)
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
    """Copy errors and everything unexpected; of the rest print how far the run is, every few seconds and at the end."""
    started = time.monotonic()
    last, rule, line = -EVERY_S, "", ""
    for line in lines:
        if match := _FINISHED.search(line):
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
        elif not _NOISE.match(line):
            print(line, end="", file=out, flush=True)
