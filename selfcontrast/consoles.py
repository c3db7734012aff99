"""What a command prints reaches any terminal: characters that its encoding lacks are spelled out, not an error."""

from __future__ import annotations

import io
import sys


def accept_any_text() -> None:
    """Let standard output and error spell out what they cannot encode, and standard input replace what it cannot decode.

    Every command calls it first: a table with `≈` or a path with `ü` must not end in a traceback after all the work, under
    ``PYTHONIOENCODING=latin-1`` or in a locale without Unicode.
    """
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):  # not what a test or a notebook puts in its place
            stream.reconfigure(errors=errors)
