"""A disk that is full ends a step with one message, whichever library met it."""

from __future__ import annotations

import argparse
import errno
import json
from pathlib import Path

import pytest
from safetensors import SafetensorError

from selfcontrast import cli


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the frame of a step from watching the parent of pytest, and from changing its environment."""
    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)


def run(tmp_path: Path, error: Exception) -> int:
    def work(args: argparse.Namespace, step: cli.Step) -> None:
        raise error

    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({}))
    flags = ["--spec", str(spec), "--out", str(tmp_path / "out" / "manifest.json")]
    return cli.run_step(cli.step_parser("").parse_args(flags), work)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "a file"),
        OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device"),  # pyarrow
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["write", "quota", "pyarrow", "safetensors"],
)
def test_a_full_disk_is_one_message_with_the_folder(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, error) == 2
    message = capsys.readouterr().err
    assert "StepError: the disk is full, or your share of it" in message
    assert f"where: {tmp_path}/out" in message
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Permission denied"):
        run(tmp_path, OSError(errno.EACCES, "Permission denied"))
