"""What `make tiny` shows while it runs."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time

from selfcontrast.progress import follow

LINES = """Using workflow specific profile profiles/default for setting default command line arguments.

SNAKEMAKE
=========
  Date: 2026-01-01 00:00:00
  Config file(s): []
Building DAG of jobs...
Job stats:
job               count
--------------  -------
spec                 19
total                76

Select jobs to execute...
Execute 2 jobs...
[Sat Jan  1 00:00:01 2026]
Finished jobid: 3 (Rule: sft)
1 of 220 steps (0.5%) done
Error in rule train:
    message: None
RuleException: it went wrong
[Sat Jan  1 00:00:02 2026]
Finished jobid: 0 (Rule: all)
220 of 220 steps (100%) done
"""


def test_progress_keeps_counts_and_errors_and_leaves_out_the_rest():
    """The first count is printed at once, the last always, errors as they are."""
    out = io.StringIO()
    follow(LINES.splitlines(keepends=True), out)
    lines = out.getvalue().splitlines()
    assert lines[0].split(maxsplit=1)[1] == "1 of 220 jobs (0.5 %)  last: sft"
    assert lines[1:4] == ["Error in rule train:", "    message: None", "RuleException: it went wrong"]
    assert lines[4].split(maxsplit=1)[1] == "220 of 220 jobs (100 %)  last: all"
    assert len(lines) == 5


FAILED = """RuleException:
CalledProcessError in file "rules/groups.smk", line 32:
Command 'set -euo pipefail;  exec python -m selfcontrast.steps.x --out m.json > results/s/x.log 2>&1' returned non-zero exit status 2.
RuleException:
KeyError in file "rules/groups.smk", line 5:
'arm'
Exiting because a job execution failed. Look above for error messages
Complete log(s): x.snakemake.log
WorkflowError:
At least one job did not complete successfully.

The run has failed: 1 job failed.

x, log: results/s/x.log
  total 12
"""


def test_progress_names_the_log_of_a_failed_job_and_ends_with_the_last_words_as_they_are():
    """Of a failed command the log is enough, another exception stays; behind HEAD even what looks like noise is shown."""
    out = io.StringIO()
    follow(FAILED.splitlines(keepends=True), out)
    assert out.getvalue().splitlines() == [
        "A job has failed; its log: results/s/x.log",
        "RuleException:",
        'KeyError in file "rules/groups.smk", line 5:',
        "'arm'",
        "The run has failed: 1 job failed.",
        "",
        "x, log: results/s/x.log",
        "  total 12",
    ]


def test_ctrl_c_reaches_the_end_of_the_output_and_says_how_to_go_on():
    """Ctrl-C goes to Snakemake and to this filter alike; the filter stays for the last words, without a traceback."""
    command = [sys.executable, "-m", "selfcontrast", "progress"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write("a first line\n")
        process.stdin.flush()
        assert process.stdout.readline() == "a first line\n"
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.2)  # the signal comes first, the last words after it
        process.stdin.write("the last words\n")
        process.stdin.close()
        lines = process.stdout.read().splitlines()
        assert lines == ["the last words", "Interrupted. The same command goes on from what is finished."]
        assert not process.stderr.read()
    assert process.returncode == 0
