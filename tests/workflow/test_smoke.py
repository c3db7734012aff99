"""The smoke study end to end: same bytes everywhere, after kills too; its report; and what users may break."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import stat
import subprocess
import time
import zipfile

import psutil
import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

N_KILLS = 6


def test_killed_runs_go_on_and_end_in_the_same_bytes_in_another_folder(finished, project, results_of):
    """Kill Snakemake itself and single jobs with SIGKILL at random moments, each time start the same command again.

    What differs with the folder, or from run to run, would show here too.
    """
    rng = random.Random(0)
    kills = []
    while len(kills) < N_KILLS:
        run = subprocess.Popen(
            project.command("--config", "study=smoke"),
            cwd=project.folder,
            env=project.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(rng.uniform(4, 12))
        if run.poll() is not None:
            break
        jobs = [
            p for p in psutil.Process(run.pid).children(recursive=True) if "selfcontrast.steps" in " ".join(_cmdline(p))
        ]
        if len(kills) % 2 and jobs:
            _kill(rng.choice(jobs).pid)
            kills.append("job")
            time.sleep(1)
        else:
            kills.append("snakemake")
        _kill(run.pid)
        run.wait()
    assert len(kills) >= 5, kills
    done = project.snakemake("--config", "study=smoke")
    assert done.returncode == 0, done.stdout[-5000:]
    first, second = results_of(finished), results_of(project)
    assert set(first) == set(second)
    assert [name for name in first if first[name] != second[name]] == []


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_two_runs_of_one_study_in_one_folder_do_not_meet(copy_of_finished):
    """The second ends at once with a message, and the first is not disturbed."""
    copy_of_finished.edit("config/smoke.yaml", "bootstrap: 200", "bootstrap: 300")
    first = subprocess.Popen(
        copy_of_finished.command("--config", "study=smoke"),
        cwd=copy_of_finished.folder,
        env=copy_of_finished.env,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.STDOUT,
    )
    lock = copy_of_finished.folder / "results/smoke/.lock"
    deadline = time.monotonic() + 60
    while not _is_locked(lock) and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.05)
    second = copy_of_finished.snakemake("--config", "study=smoke")
    first.communicate()
    assert first.returncode == 0
    assert second.returncode == 2
    assert "another run of the study `smoke`" in second.stdout


def _is_locked(path) -> bool:
    import fcntl

    if not path.exists():
        return False
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_weights_of_arms_are_temporary_and_those_of_sft_are_kept(finished):
    root = finished.folder / "results/smoke/hh/pocket"
    assert (root / "sft/model/model.safetensors").is_file()
    assert not list(root.glob("arms/*/*/model"))
    assert not list(finished.folder.glob("results/**/*.bin"))
    assert not list(finished.folder.glob("results/**/*.pkl"))


def test_every_file_has_the_permissions_that_the_umask_gives(finished, tmp_path):
    """Those of a file and a folder that this process makes, with the umask that the workflow was given."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    usual = {place.is_dir(): stat.S_IMODE(place.stat().st_mode) for place in tmp_path.iterdir()}
    places = sorted((finished.folder / "results/smoke").rglob("*"))
    assert any(place.suffix == ".safetensors" for place in places)
    assert [p for p in places if stat.S_IMODE(p.stat().st_mode) != usual[p.is_dir()]] == []


def test_first_loss_is_that_of_the_reference_itself(finished):
    """At step 0 the policy is the reference: log 2 for DPO, 1 for the hinge loss; anything else is a template or cache bug."""
    arms = finished.folder / "results/smoke/hh/pocket/arms"
    losses = {
        p.parent.parent.name: json.loads(p.read_text())["report"]["first_loss"] for p in arms.glob("*/s*/manifest.json")
    }
    assert losses.pop("dpo-annotated-n1") == pytest.approx(1.0, abs=1e-5)
    assert losses
    assert all(loss == pytest.approx(0.6931472, abs=1e-5) for loss in losses.values())


def test_a_damaged_output_is_named_with_its_remedy(copy_of_finished):
    scores = copy_of_finished.folder / "results/smoke/hh/pocket/pools/sft/scores/cosine/scores.parquet"
    scores.write_bytes(scores.read_bytes()[:-7] + b"garbage")
    copy_of_finished.edit("config/smoke.yaml", "n: [1, 2]", "n: [1, 2, 3]")
    done = copy_of_finished.snakemake("--config", "study=smoke")
    assert done.returncode == 1
    assert "a file was changed or damaged after it was written" in done.stdout
    assert "run snakemake again" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_report_has_figures_tables_and_cost(finished, tmp_path):
    done = finished.snakemake("--config", "study=smoke", "--report", str(tmp_path / "report.zip"))
    assert done.returncode == 0, done.stdout[-3000:]
    page = "".join(
        zipfile.ZipFile(tmp_path / "report.zip").read(n).decode(errors="replace")
        for n in zipfile.ZipFile(tmp_path / "report.zip").namelist()
        if n.endswith((".html", ".js", ".json"))
    )
    for word in ("Headline", "Figures", "Cost", "Data"):
        assert word in page
    names = zipfile.ZipFile(tmp_path / "report.zip").namelist()
    assert sum(n.endswith(".svg") for n in names) >= 4
