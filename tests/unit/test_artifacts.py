"""Files between steps and the frame of a step: nothing half written, nothing read that was damaged, nothing left running."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from selfcontrast import artifacts, cli
from selfcontrast.artifacts import Artifact, atomic
from selfcontrast.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# Atomic writes


def test_error_inside_the_block_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as partial:
        partial.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table"]


def test_old_file_is_there_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table"
    with atomic(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    with atomic(path) as partial:
        partial.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert names(path.parent) == ["table"]


def test_folder_takes_the_place_of_an_older_one_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for name in ("a", "b"):
        with atomic(path) as partial:
            partial.mkdir()
            (partial / name).write_text(name)
    assert names(path) == ["b"]
    with pytest.raises(RuntimeError), atomic(path) as partial:
        partial.mkdir()
        (partial / "c").write_text("c")
        raise RuntimeError
    assert names(path) == ["b"]
    assert names(tmp_path) == ["model"]


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tmp_path: Path) -> None:
    """In a container process numbers come back: the folder of a killed step may have the name of ours."""
    left = tmp_path / f".model.{os.getpid()}.partial"
    left.mkdir()
    (left / "old").write_text("half")
    with atomic(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "new").write_text("whole")
    assert names(tmp_path / "model") == ["new"]


def test_failing_records_leave_no_file_and_no_noise(tmp_path: Path) -> None:
    """The error of a record is the only one: closing the compressed stream adds none of its own (seen under -X dev)."""
    script = """if True:
        import pathlib, sys
        from selfcontrast.artifacts import write_jsonl
        def records():
            yield {"a": 1}
            raise RuntimeError
        try:
            write_jsonl(pathlib.Path(sys.argv[1]), records(), compress=True)
        except RuntimeError:
            print("failed")
    """
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-c", script, str(tmp_path / "x.gz")], cwd=ROOT, capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("failed\n", "")
    assert names(tmp_path) == []


# Hashes


def test_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert artifacts.sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_hash_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return artifacts.sha256(tmp_path / name)

    first = folder("a", {"x": "1", "y/z": "2"})
    assert folder("b", {"y/z": "2", "x": "1"}) == first  # whatever the order in which they were made
    assert folder("c", {"x": "1", "y/z": "3"}) != first
    assert folder("d", {"x": "1", "y/w": "2"}) != first
    assert folder("a", {".snakemake_timestamp": "now"}) == first


# JSON and JSON lines


def test_json_has_sorted_keys_and_plain_characters(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "x.json", {"b": 1, "a": ["é"]})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "a": [\n    "é"\n  ],\n  "b": 1\n}\n'
    assert artifacts.read_json(tmp_path / "x.json") == {"a": ["é"], "b": 1}


@pytest.mark.parametrize(
    ("content", "message"), [(None, "a file is missing"), (b"{", "not valid JSON"), (b"\xff", "not valid JSON")]
)
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "spec.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        artifacts.read_json(path)
    assert f"where: {path}" in str(error.value)
    assert "what to do: " in str(error.value)


RECORDS: list[dict[str, Any]] = [{"text": "a\u2028b\n", "n": 1}, {"text": "ü", "n": None}, {"text": "", "n": 2.5}]


@pytest.mark.parametrize("compress", [False, True])
def test_records_come_back_with_their_rows(tmp_path: Path, compress: bool) -> None:
    """U+2028 ends no line; the kind of file is told by its bytes, not by its name."""
    path = tmp_path / "records"
    assert artifacts.write_jsonl(path, RECORDS, compress=compress) == 3
    assert path.read_bytes().startswith(b"\x1f\x8b") == compress
    assert list(artifacts.read_jsonl(path)) == list(enumerate(RECORDS, 1))


def test_no_records_make_an_empty_file(tmp_path: Path) -> None:
    assert artifacts.write_jsonl(tmp_path / "x.gz", [], compress=True) == 0
    assert list(artifacts.read_jsonl(tmp_path / "x.gz")) == []


def test_compressed_bytes_depend_on_the_records_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the name of the file, nor on the time."""
    artifacts.write_jsonl(tmp_path / "a.gz", RECORDS, compress=True)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    artifacts.write_jsonl(tmp_path / "b.gz", iter(RECORDS), compress=True)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()).count(b"\n") == 3


@pytest.mark.parametrize(
    ("lines", "message", "where"),
    [
        (b'{"a": 1}\n\n{"a"', "not valid JSON", "row 3"),
        (b'{"a": 1}\n[1]\n', "not a JSON object", "row 2"),
        (b'{"a": "\xff"}\n', "not text in UTF-8", "row 1"),
    ],
)
def test_bad_record_is_named_by_its_row(tmp_path: Path, lines: bytes, message: str, where: str) -> None:
    (tmp_path / "x").write_bytes(lines)
    with pytest.raises(InputError, match=message) as error:
        list(artifacts.read_jsonl(tmp_path / "x"))
    assert f"where: {tmp_path / 'x'}, {where}\n" in str(error.value)


def test_compressed_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    artifacts.write_jsonl(tmp_path / "x", [{"n": i} for i in range(1000)], compress=True)
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-30])
    with pytest.raises(InputError, match="a data file is damaged"):
        list(artifacts.read_jsonl(tmp_path / "x"))


# Parquet


def test_table_comes_back_as_it_was(tmp_path: Path) -> None:
    columns = {
        "prompt_id": ["a", "b", "c"],
        "prompt_ids": [[1, 2**31 - 1], [], [3]],
        "text": ["", "ü\u2028", "x\ny"],
        "rejected": [[], ["r"], []],
        "score": [0.1, -1e-300, 1.0],
        "maybe": [None, 1, 2],
    }
    artifacts.write_table(tmp_path / "x.parquet", columns)
    assert artifacts.read_table(tmp_path / "x.parquet") == columns
    assert artifacts.read_table(tmp_path / "x.parquet", ["text"]) == {"text": columns["text"]}
    assert str(pq.read_schema(tmp_path / "x.parquet").field("prompt_ids").type) == "list<element: int32>"


def test_table_without_rows_or_with_empty_lists_alone_comes_back(tmp_path: Path) -> None:
    for columns in ({"ids": [], "text": []}, {"rejected": [[], []]}):
        artifacts.write_table(tmp_path / "x.parquet", columns)
        assert artifacts.read_table(tmp_path / "x.parquet") == columns


def test_same_columns_give_the_same_parquet_bytes(tmp_path: Path) -> None:
    for name in "ab":
        artifacts.write_table(tmp_path / name, {"ids": [[1], [2]], "text": ["x", "y"]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "a file is missing"), (b"PAR1 no more", "parquet file is damaged")]
)
def test_table_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        artifacts.read_table(path)
    assert str(path) in str(error.value)


# Manifests


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A finished step with one table and one folder."""
    artifacts.write_table(tmp_path / "x.parquet", {"n": [1, 2]})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"w")
    outputs = {name: artifacts.sha256(tmp_path / name) for name in ("x.parquet", "model")}
    artifacts.write_json(tmp_path / "manifest.json", {"outputs": outputs})
    return tmp_path / "manifest.json"


def test_undamaged_outputs_are_opened(manifest: Path) -> None:
    opened = Artifact.open(manifest)
    assert opened.table("x.parquet") == {"n": [1, 2]}
    assert opened.path("model") == manifest.parent / "model"
    assert opened.digest == hashlib.sha256(manifest.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("output", "file"), [("x.parquet", "x.parquet"), ("model", "model/weights"), ("model", "model/new")]
)
def test_output_that_was_changed_is_refused(manifest: Path, output: str, file: str) -> None:
    with (manifest.parent / file).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(InputError, match="changed or damaged after it was written") as error:
        Artifact.open(manifest).path(output)
    message = str(error.value)
    assert "expected: SHA-256 " in message
    assert f"where: {manifest.parent / output}" in message
    assert f"delete it together with {manifest}" in message


def test_output_that_is_gone_or_never_was_is_refused(manifest: Path) -> None:
    (manifest.parent / "x.parquet").unlink()
    with pytest.raises(InputError, match="a file is missing"):
        Artifact.open(manifest).path("x.parquet")
    with pytest.raises(InputError, match=r"the step did not write `y\.parquet`") as error:
        Artifact.open(manifest).path("y.parquet")
    assert "found: model, x.parquet" in str(error.value)


@pytest.mark.parametrize("content", ["[]", "{}", '"outputs"'])
def test_other_json_is_no_manifest(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="not the manifest of a step"):
        Artifact.open(tmp_path / "manifest.json")


# The frame of a step

Work = Callable[[argparse.Namespace, cli.Step], None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a step in this process: without its watch over the parent, which would end pytest, and its thread limits."""
    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)
    (tmp_path / "spec.json").write_text('{"n": 3}')

    def run(work: Work, *, out: str = "out/step/manifest.json", spec: str = "spec.json") -> int:
        return cli.run_step(argparse.Namespace(spec=tmp_path / spec, out=tmp_path / out, threads=1), work)

    return run


def write_numbers(args: argparse.Namespace, step: cli.Step) -> None:
    assert not args.out.exists()  # the manifest comes last
    step.write_table("numbers.parquet", {"n": list(range(step.spec["n"]))})
    step.report = {"rows": step.spec["n"]}
    step.cost = {"sampled_tokens": 7}


def test_step_writes_its_outputs_run_and_manifest(tmp_path: Path, run: Callable[..., int]) -> None:
    assert run(write_numbers) == 0
    folder = tmp_path / "out" / "step"
    assert names(folder) == ["manifest.json", "numbers.parquet", "run.json"]
    assert artifacts.read_json(folder / "manifest.json") == {
        "step": "test_artifacts",
        "spec_sha256": hashlib.sha256(b'{"n": 3}').hexdigest(),
        "inputs": {},
        "outputs": {"numbers.parquet": artifacts.sha256(folder / "numbers.parquet")},
        "report": {"rows": 3},
    }
    run_json = artifacts.read_json(folder / "run.json")
    assert {"step", "wall_s", "cpu_s", "peak_rss_mb", "versions", "python", "machine", "gpu"} <= run_json.keys()
    assert run_json["sampled_tokens"] == 7
    assert Artifact.open(folder / "manifest.json").table("numbers.parquet") == {"n": [0, 1, 2]}


def test_manifest_has_the_same_bytes_when_a_step_runs_again(tmp_path: Path, run: Callable[..., int]) -> None:
    def slower(args: argparse.Namespace, step: cli.Step) -> None:
        write_numbers(args, step)
        time.sleep(0.02)

    for out, work in (
        ("a/manifest.json", write_numbers),
        ("b/manifest.json", slower),
        ("a/manifest.json", write_numbers),
    ):
        assert run(work, out=out) == 0
        assert (tmp_path / out).read_bytes() == (tmp_path / "a/manifest.json").read_bytes()


def test_inputs_are_noted_by_the_hash_of_their_manifest(tmp_path: Path, run: Callable[..., int]) -> None:
    first, second = tmp_path / "a" / "first" / "manifest.json", tmp_path / "a" / "second" / "manifest.json"
    assert run(write_numbers, out="a/first/manifest.json") == 0

    def read(args: argparse.Namespace, step: cli.Step) -> None:
        step.report = {"sum": sum(step.open(first).table("numbers.parquet")["n"])}

    assert run(read, out="a/second/manifest.json") == 0
    assert artifacts.read_json(second)["inputs"] == {"a/first": artifacts.sha256(first)}
    assert artifacts.read_json(second)["report"] == {"sum": 3}


def test_error_that_the_user_can_mend_exits_2_with_the_message_alone(
    tmp_path: Path, run: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(write_numbers) == 0

    def fail(args: argparse.Namespace, step: cli.Step) -> None:
        step.write_table("numbers.parquet", {"n": [1]})
        raise InputError("the file is wrong", found="nothing", remedy="mend it")

    assert run(fail) == 2
    assert not (tmp_path / "out" / "step" / "manifest.json").exists()  # nor the one of the run before
    assert capfd.readouterr().err.endswith("InputError: the file is wrong\n  found: nothing\n  what to do: mend it\n")


def test_spec_that_is_missing_exits_2(run: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(write_numbers, spec="no.json") == 2
    assert "InputError: a file is missing" in capfd.readouterr().err


def test_full_disk_exits_2_and_other_failures_keep_their_traceback(
    tmp_path: Path, run: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    def fill(args: argparse.Namespace, step: cli.Step) -> None:
        raise OSError(28, "No space left on device", "numbers.parquet")

    def deny(args: argparse.Namespace, step: cli.Step) -> None:
        raise PermissionError(13, "Permission denied", "numbers.parquet")

    assert run(fill) == 2
    assert "StepError: the disk is full, or your share of it\n  where: " in capfd.readouterr().err
    with pytest.raises(PermissionError):
        run(deny)
    with pytest.raises(ZeroDivisionError):
        run(lambda args, step: 1 // 0)
    assert not (tmp_path / "out" / "step" / "manifest.json").exists()


# A step as a process

STEP = """
import os, sys, time
from selfcontrast import cli

def main(argv=None):
    return cli.run_step(cli.step_parser("A step.").parse_args(argv), work)

def work(args, step):
    fate = step.spec["fate"]
    if fate == "crash":
        raise ZeroDivisionError
    if fate == "sleep":
        os.write(step.spec["pipe"], f"{os.getpid()}\\n".encode())
        time.sleep(60)
    step.report = {"threads": os.environ["OMP_NUM_THREADS"]}

cli.leave(main())
"""


def step_command(folder: Path, spec: dict[str, Any]) -> list[str]:
    (folder / "step.py").write_text(STEP)
    (folder / "spec.json").write_text(json.dumps(spec))
    files = ["--spec", str(folder / "spec.json"), "--out", str(folder / "manifest.json")]
    return [sys.executable, str(folder / "step.py"), *files, "--threads", "3"]


def start_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_process_of_a_step_exits_0_and_limits_its_threads(tmp_path: Path) -> None:
    done = subprocess.run(
        step_command(tmp_path, {"fate": "none"}), env=start_environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "step, spec " in done.stderr
    assert artifacts.read_json(tmp_path / "manifest.json")["report"] == {"threads": "3"}


def test_process_that_crashes_exits_1_with_a_traceback_and_no_manifest(tmp_path: Path) -> None:
    done = subprocess.run(
        step_command(tmp_path, {"fate": "crash"}), env=start_environment(), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert not (tmp_path / "manifest.json").exists()


def test_step_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """The step holds the writing end of a pipe: the pipe is at its end when the step is gone, whoever inherits its body."""
    reading, writing = os.pipe()
    command = step_command(tmp_path, {"fate": "sleep", "pipe": writing})
    script = "import subprocess, sys; subprocess.run(sys.argv[2:], pass_fds=[int(sys.argv[1])])"
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(writing), *command],
        env=start_environment(),
        pass_fds=[writing],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    child = 0
    try:
        assert select.select([reading], [], [], 30)[0], "the step did not start"
        child = int(os.read(reading, 20))
        assert not select.select([reading], [], [], 3 * cli.PARENT_CHECK_S)[0]  # it lives as long as its parent does
        parent.send_signal(signal.SIGKILL)
        assert select.select([reading], [], [], 10)[0], "the step outlived its parent"
        assert os.read(reading, 20) == b""
        child = 0
        assert not (tmp_path / "manifest.json").exists()
    finally:
        os.close(reading)
        parent.kill()
        parent.wait()
        if child:
            os.kill(child, signal.SIGKILL)


def test_lengths_of_a_column_of_lists(tmp_path: Path) -> None:
    artifacts.write_table(tmp_path / "t.parquet", {"ids": [[1, 2, 3], [], [4]], "other": [1, 2, 3]})
    artifacts.write_json(
        tmp_path / "manifest.json", {"outputs": {"t.parquet": artifacts.sha256(tmp_path / "t.parquet")}}
    )
    assert Artifact.open(tmp_path / "manifest.json").lengths("t.parquet", "ids") == [3, 0, 1]
