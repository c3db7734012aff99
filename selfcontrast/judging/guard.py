"""Run a command in a process group of its own, and end the whole group once standard input closes.

    python -m selfcontrast.judging.guard COMMAND ...

Whoever starts the guard holds the other end of its standard input: when that process is gone, by whatever end, the kernel
closes the pipe, and no server is left behind. The guard ends with the exit code of the command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import NoReturn

GRACE_S = 10.0
"""Between asking a group to end and killing it."""


def main() -> int:
    """Run the command of the command line."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, process_group=0)
    signal.signal(signal.SIGTERM, lambda *_: _leave(process.pid))
    threading.Thread(target=_wait_for_eof, args=(process.pid,), daemon=True).start()
    code = process.wait()
    end_group(process.pid)
    return code


def end_group(group: int) -> None:
    """Ask every process of a group to end, and kill those that have not after ``GRACE_S``."""
    deadline = time.monotonic() + GRACE_S
    try:
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _wait_for_eof(group: int) -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock this thread would still hold when the interpreter ends
        pass
    end_group(group)


def _leave(group: int) -> NoReturn:
    end_group(group)
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
