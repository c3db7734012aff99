"""The last words of a run that failed: which step, its own message, its log, what is finished, how to resume."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import selfcontrast
from selfcontrast.failures import HEAD, MOST_LINES, RESUME, failed_logs, message_of, summary


def quiet(log: str, ending: str = "returned non-zero exit status 2.") -> str:
    """Return what Snakemake prints of a failed job under ``--quiet rules``."""
    command = f"set -euo pipefail;  exec python -m selfcontrast.steps.x --threads 1 --out m.json > {log} 2>&1"
    return f"RuleException:\nCalledProcessError in file \"rules/x.smk\", line 3:\nCommand '{command}' {ending}\n"


def block(log: str) -> str:
    """Return what it prints of one otherwise, and of one that Slurm ran."""
    return (
        "Error in rule x:\n    message: None\n    jobid: 3\n    output: m.json\n"
        f"    log: {log}, .snakemake/slurm_logs/1.log (check log file(s) for error details)\n    shell:\n        exec x\n"
    )


INPUT_ERROR = "InputError: no groups\n  where: pool.json\n  what to do: lower n"
TRACEBACK = "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\n    f()\nKeyError: 'arm'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"10:00:00 x, spec abc\n{INPUT_ERROR}\n", INPUT_ERROR),
        (f"10:00:00 x, spec abc\n{TRACEBACK}", "KeyError: 'arm'"),
        (f"{TRACEBACK}\nDuring handling of it:\n\n{TRACEBACK.replace('arm', 'n')}", "KeyError: 'n'"),
        ("one\ntwo\nthree\nfour\n", "two\nthree\nfour"),
        ("", "the log is empty: the job was killed, or did not start"),
    ],
)
def test_message_is_the_steps_own_or_the_end_of_its_log(text: str, message: str) -> None:
    assert message_of(text) == message


def test_a_message_of_every_kind_of_error_is_shown_from_its_first_line() -> None:
    """That of a training that diverged lost its first line: its kind was not known here."""
    kinds, known = {"SelfContrastError"}, set[str]()
    classes = [
        node
        for path in Path(selfcontrast.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    while kinds != known:
        known = set(kinds)
        kinds |= {c.name for c in classes if known & {b.id for b in c.bases if isinstance(b, ast.Name)}}
    assert {"InputError", "NotFiniteError"} < kinds
    for kind in kinds - {"SelfContrastError"}:
        message = f"{kind}: a number\n  found: nan\n  where: model\n  what to do: lower it"
        assert message_of(f"10:00:00 x, spec abc\n{message}\n") == message


def test_failed_jobs_are_found_once_whatever_was_printed_of_them() -> None:
    """Those that ended because the run was stopped have not failed."""
    printed = quiet("a.log") + block("a.log") + block("b.log") + quiet("c.log", "died with <Signals.SIGKILL: 9>.")
    stopped = quiet("d.log", "died with <Signals.SIGTERM: 15>.") + quiet("e.log", "died with <Signals.SIGINT: 2>.")
    assert failed_logs(printed + stopped) == {"a.log": "", "b.log": "", "c.log": "SIGKILL"}


def test_summary_says_what_failed_what_is_finished_and_how_to_resume() -> None:
    """Two jobs have one message, one was killed, one failed once and succeeded at its second attempt."""
    logs = {
        "l/s0/x.log": INPUT_ERROR,
        "l/s1/x.log": INPUT_ERROR,
        "l/y.log": "10:00:00 y\n",
        "l/z.log": "10:00:00 z\n10:00:01 done in 1.0 s: m.parquet\n",
    }
    printed = "3 of 9 steps (33%) done\n" + "".join(map(quiet, [*list(logs)[:2], "l/z.log"]))
    printed += quiet("l/y.log", "died with <Signals.SIGKILL: 9>.") + "5 of 9 steps (56%) done\n"
    assert summary(printed, logs.__getitem__, {"dpo-annotated-n1": 2}, 8).splitlines() == [
        f"{HEAD}: 3 jobs failed, 5 of 9 are done.",
        "Evaluated policies: 6 of 8. Missing: dpo-annotated-n1 (2).",
        RESUME,
        "",
        "x, log: l/s0/x.log and 1 more with the same message",
        *INPUT_ERROR.splitlines(),
        "",
        "y, log: l/y.log",
        "It was killed (SIGKILL); too little memory is the usual reason.",
        "10:00:00 y",
    ]


def test_a_long_message_keeps_its_remedy() -> None:
    """The findings of `lint` are a table inside of the message."""
    long = "\n".join(["InputError: errors", *(f"  row {i}" for i in range(100)), "  what to do: mend it"])
    lines = summary(quiet("x.log"), lambda _: long, {}, 1).splitlines()
    assert lines[-1] == "  what to do: mend it"
    assert len(lines) < MOST_LINES + 10


def test_a_run_without_a_failed_job_has_no_last_words() -> None:
    assert summary("5 of 9 steps (56%) done\n", str, {"a-n1": 1}, 2) == ""
