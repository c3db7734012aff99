"""Commands under encodings that lack most characters, and paths and times that Snakemake would stumble over."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from selfcontrast.config import check_braces, check_files, input_files, parse_study
from selfcontrast.errors import ConfigError, InputError
from selfcontrast.sources import check_times
from tests.unit.test_sweep import TEXT

ROOT = Path(__file__).resolve().parents[2]
STRANGE = "mean ≈ 0.5 ± ü “quoted” 漢"


def run(*arguments: str, encoding: str, cwd: Path, text: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=env, input=text, capture_output=True, check=False)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Return a folder with a finished study whose description, table and data have characters of many scripts."""
    raw = yaml.safe_load(TEXT)
    del raw["name"], raw["datasets"]["hh"]
    raw |= {"description": STRANGE}
    raw["datasets"]["chat"] |= {"adaptor": "jsonl", "path": "ünïcode.jsonl", "has_rejected": False}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    rows = f'{{"prompt": "{STRANGE}", "response": "[INST] {STRANGE.replace(chr(34), "")}"}}\n' * 2
    (tmp_path / "ünïcode.jsonl").write_text(rows, encoding="utf-8")
    tables = tmp_path / "results/own/tables"
    tables.mkdir(parents=True)
    (tables / "main.md").write_text(f"| {STRANGE} |\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("command", ["show", "check", "lint"])
def test_every_character_is_printed_or_spelled_out(finished: Path, command: str, encoding: str) -> None:
    """What an encoding lacks is told by its number; the command does not fail."""
    what = "ünïcode.jsonl" if command == "lint" else "own.yaml"
    done = run("-m", "selfcontrast", command, what, encoding=encoding, cwd=finished)
    assert done.returncode == 0, done.stderr.decode()
    assert b"\\u2248" in done.stdout  # ≈, which neither has
    assert ("ü" in done.stdout.decode(encoding)) == (encoding == "latin-1")
    assert (b"\\xfc" in done.stdout and encoding == "ascii") or "ü".encode(encoding) in done.stdout


def test_progress_reads_and_prints_what_its_encoding_lacks(tmp_path: Path) -> None:
    text = f"Error in rule x: {STRANGE}\n".encode()
    done = run("-m", "selfcontrast", "progress", encoding="ascii", cwd=tmp_path, text=text)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"Error in rule x: mean ")


def test_a_step_that_prints_to_its_log_does_not_fail(tmp_path: Path) -> None:
    """Libraries print as well; the rules send it to the log."""
    code = f"from selfcontrast.cli import step_parser; step_parser('x'); print({STRANGE!r})"
    done = run("-c", code, encoding="latin-1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert b"mean \\u2248 0.5" in done.stdout


# Paths and times


@pytest.mark.parametrize("path", ["a{x}.jsonl", "{x}/a.jsonl", "a{.jsonl", "a}.jsonl"])
def test_braces_are_refused_wherever_they_stand(path: str) -> None:
    with pytest.raises(ConfigError, match="Snakemake reads braces in a path as a wildcard"):
        check_braces(path)


@pytest.mark.parametrize("name", ["my data", "it's", 'say "x"', "a[b]*?", "ü", "a$b;c&d", "#1", "a,b:c=d"])
def test_other_characters_are_not(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.jsonl"
    path.touch()
    raw = yaml.safe_load(TEXT)
    raw["datasets"]["chat"]["path"] = str(path)
    study = parse_study(raw, where="test")
    check_files(study)
    assert list(input_files(study)) == [str(path)]


@pytest.mark.parametrize("key", ["data", "folder", "questions", "wording", "tasks"])
def test_every_input_of_the_users_is_looked_at(key: str, tmp_path: Path) -> None:
    raw = yaml.safe_load(TEXT)
    raw["datasets"]["chat"]["path"] = str(tmp_path / "plain.jsonl")
    (tmp_path / "plain.jsonl").touch()
    strange = tmp_path / "a{x}.jsonl"
    strange.touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "task.yaml").touch()
    (folder / "b{y}.jsonl").touch()
    evaluation = raw["evaluation"]
    questions = {"path": str(tmp_path / "plain.jsonl"), "layout": "alpaca_eval", "max_new_tokens": 8}
    if key in ("data", "folder"):
        raw["datasets"]["chat"]["path"] = str({"data": strange, "folder": folder}[key])
    elif key == "questions":
        evaluation["questions"] = {"q": {**questions, "path": str(strange)}}
    elif key == "wording":
        wording = {"prompts_file": str(strange)}
        params = {
            "kind": "mt_bench",
            "model": "m",
            "questions": "q",
            "endpoint": {"url": "http://h/v1"},
            **wording,
        }
        evaluation["judges"] = {"j": params}
        evaluation["questions"] = {"q": {**questions, "layout": "mt_bench"}}
    else:
        evaluation["benchmarks"] = {"b": {"tasks": ["t"], "folder": str(folder)}}
    with pytest.raises(ConfigError, match="braces"):
        check_files(parse_study(raw, where="test"))


def test_files_from_the_future_are_named_with_the_remedy(tmp_path: Path) -> None:
    """A clock that is a second ahead is none of our business; a file that is not there is somebody else's."""
    late, soon, now = (tmp_path / name for name in ("it's late", "soon", "now"))
    for path, ahead in ((late, 3600), (soon, 1), (now, 0)):
        path.touch()
        os.utime(path, (time.time() + ahead,) * 2)
    check_times([soon, now, tmp_path / "missing"])
    with pytest.raises(InputError, match="a file is dated in the future") as error:
        check_times([now, late, soon])
    command = str(error.value).rpartition("time of now: ")[2]
    subprocess.run(command, shell=True, check=True)
    check_times([now, late, soon])
