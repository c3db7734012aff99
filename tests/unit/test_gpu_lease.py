"""No two jobs share a GPU of a machine; nothing is claimed where a scheduler assigns GPUs or where there are none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcontrast import gpu
from selfcontrast.errors import StepError
from selfcontrast.gpu import Gpu, Locks, parse_list, visible_gpus

ROOT = Path(__file__).resolve().parents[2]

LISTED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa1111-0000-0000-0000-000000000000)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-bbbb2222-0000-0000-0000-000000000000)
  MIG 3g.40gb     Device  0: (UUID: MIG-cccc3333-0000-0000-0000-000000000000)
  MIG 3g.40gb     Device  1: (UUID: MIG-dddd4444-0000-0000-0000-000000000000)
GPU 2: NVIDIA H100 80GB HBM3 (UUID: GPU-eeee5555-0000-0000-0000-000000000000)
"""

# For as long as it runs, a file named after each GPU it was given is there; whoever finds the file there shares the GPU.
JOB = """
import os, sys, time
shared = 0
given = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
for name in given:
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        shared += 1
time.sleep(float(sys.argv[1]))
for name in given:
    try:
        os.unlink(name)
    except FileNotFoundError:
        shared += 1
print(len(given), shared)
"""


def start(folder: Path, *arguments: str, ids: str = "0,1,2", **variables: str) -> subprocess.Popen[str]:
    """Start a wrapped command with GPUs that do not exist, outside of any scheduler."""
    outside = {k: v for k, v in os.environ.items() if k not in (*gpu.SCHEDULERS, "CUDA_VISIBLE_DEVICES")}
    return subprocess.Popen(
        [sys.executable, "-m", "selfcontrast.gpu", *arguments],
        cwd=folder,
        env={**outside, gpu.OVERRIDE: ids, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT), **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def outcomes(jobs: list[subprocess.Popen[str]]) -> list[tuple[int, int]]:
    """Return for each job the GPUs that it had and how often it met another job on one."""
    texts = [job.communicate(timeout=120) for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(jobs), texts
    return [(int(a), int(b)) for a, b in (out.split() for out, _ in texts)]


# Sharing


def test_eight_jobs_on_three_gpus_never_share_one(tmp_path: Path) -> None:
    jobs = [start(tmp_path, "--granted", "1", "--", "-c", JOB, "0.3") for _ in range(8)]
    assert outcomes(jobs) == [(1, 0)] * 8


def test_without_a_lease_they_do(tmp_path: Path) -> None:
    """The control: each job sees all three and takes the first, as every program does that sees several."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    arguments = [sys.executable, "-c", JOB, "2"]
    jobs = [
        subprocess.Popen(arguments, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE) for _ in range(8)
    ]
    assert sum(shared for _, shared in outcomes(jobs)) > 0


def test_jobs_of_two_gpus_on_three_neither_share_nor_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    jobs = [start(tmp_path, "--granted", str(n), "--", "-c", JOB, "0.2") for n in (2, 2, 1, 2, 1, 3)]
    assert outcomes(jobs) == [(2, 0), (2, 0), (1, 0), (2, 0), (1, 0), (3, 0)]


def test_a_killed_job_frees_its_gpu(tmp_path: Path) -> None:
    """The killed process is the command, which the wrapper became; a job that waited goes on at once."""
    first = start(
        tmp_path, "--granted", "1", "--", "-c", "print('up', flush=True); import time; time.sleep(600)", ids="0"
    )
    assert first.stdout is not None and first.stdout.readline() == "up\n"
    second = start(tmp_path, "--granted", "1", "--", "-c", "print('mine')", ids="0")
    time.sleep(1)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    out, log = second.communicate(timeout=60)
    assert out == "mine\n"
    assert f"waiting for 1 of 1 GPUs; taken: 0 by process {first.pid}" in log
    first.communicate()


def test_a_job_that_waits_ends_when_its_workflow_is_gone(tmp_path: Path) -> None:
    """The parent ends once the job says that it waits."""
    locks = Locks(tmp_path / f"selfcontrast-gpus-{os.getuid()}")
    assert locks.claim([Gpu("0", "0")], 1)[0]
    script = """import subprocess, sys, time
job = [sys.executable, "-m", "selfcontrast.gpu", "--granted", "1", "--", "-c", "1"]
child = subprocess.Popen(job, stderr=open(sys.argv[1], "w"))
while "waiting" not in open(sys.argv[1]).read():
    time.sleep(0.1)
"""
    environment = {**os.environ, gpu.OVERRIDE: "0", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", script, str(log)], env=environment, timeout=60, check=True)
    deadline = time.monotonic() + 60
    while "the workflow that started this job is gone" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_claim_is_whole_or_nothing(tmp_path: Path) -> None:
    """Of three GPUs one is taken: a claim of three gets none and leaves the two others free for a claim of two."""
    gpus = [Gpu(x, x) for x in "abc"]
    assert Locks(tmp_path).claim(gpus, 1) == ([gpus[0]], [])
    assert Locks(tmp_path).claim(gpus, 3) == ([], [gpus[0]])
    assert Locks(tmp_path).claim(gpus, 2) == (gpus[1:], [gpus[0]])


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StepError, match="not yours"):
        Locks(tmp_path / "link")


# Which GPUs


def test_nvidia_smi_is_read_by_number_and_uuid_and_a_divided_gpu_by_its_parts() -> None:
    assert [(g.id, g.key[:8]) for g in parse_list(LISTED)] == [
        ("0", "GPU-aaaa"),
        ("MIG-cccc3333-0000-0000-0000-000000000000", "MIG-cccc"),
        ("MIG-dddd4444-0000-0000-0000-000000000000", "MIG-dddd"),
        ("2", "GPU-eeee"),
    ]


@pytest.mark.parametrize(
    ("chosen", "keys"),
    [
        (None, ["GPU-aaaa", "MIG-cccc", "MIG-dddd", "GPU-eeee"]),
        ("2", ["GPU-eeee"]),
        ("2,GPU-aaaa1111", ["GPU-eeee", "GPU-aaaa"]),
        ("", []),
        ("-1", []),
        ("0,-1,2", ["GPU-aaaa"]),  # CUDA stops at what is no GPU
    ],
)
def test_one_gpu_has_one_key_however_a_user_names_it(
    chosen: str | None, keys: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{LISTED}END\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    environment = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert [g.key[:8] for g in visible_gpus(environment)] == keys


def test_a_driver_that_does_not_answer_is_no_gpu_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus({}) == []
    assert "NVIDIA-SMI has failed" in caplog.text


@given(st.lists(st.sampled_from(["0", "1", "7", "GPU-ab", "-1", "", "x y"])))
def test_the_ids_that_count_are_those_before_the_first_that_is_none(parts: list[str]) -> None:
    good = ("0", "1", "7", "GPU-ab")
    n = next((i for i, part in enumerate(parts) if part not in good), len(parts))
    assert gpu._ids(",".join(parts)) == parts[:n]


# What a job gets


SHOW = """
import json, os
print(json.dumps([os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER")]))
"""


@pytest.mark.parametrize(
    ("granted", "ids", "variables", "expected", "says"),
    [
        ("0", "0,1", {}, "", ""),
        ("1", "", {}, None, "nvidia-smi finds none"),
        ("1", "0,1", {}, "0", "GPUs 0, claimed"),
        ("1", "0,1", {"CUDA_VISIBLE_DEVICES": "1"}, "1", "GPUs 1, claimed"),
        ("1", "0,1", {"CUDA_VISIBLE_DEVICES": ""}, "", "finds none"),
        ("2", "0,1,2", {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}, "0,1", "assigned by Slurm"),
        (
            "1",
            "0,1",
            {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "1,2"},
            "1",
            "GPUs 1, claimed",
        ),  # snakemake in a job
        ("1", "0,1", {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": ""}, "", "assigned by Slurm"),
        ("1", "", {"PBS_JOBID": "7"}, None, "finds none"),
    ],
)
def test_what_a_job_sees(
    granted: str, ids: str, variables: dict[str, str], expected: str | None, says: str, tmp_path: Path
) -> None:
    out, log = start(tmp_path, "--granted", granted, "--", "-c", SHOW, ids=ids, **variables).communicate(timeout=60)
    visible, order = json.loads(out)
    assert visible == expected
    assert says in log
    assert order == ("PCI_BUS_ID" if "claimed" in log else None)
    claims = list(tmp_path.glob("selfcontrast-gpus-*/*.lock"))
    assert bool(claims) == ("claimed" in log)


def test_a_request_that_no_wait_can_meet_ends_with_one_message(tmp_path: Path) -> None:
    job = start(tmp_path, "--granted", "4", "--", "-c", "print('never')", ids="0,1")
    out, log = job.communicate(timeout=60)
    assert job.returncode == 2
    assert out == ""
    assert log.startswith("StepError: this job asks for 4 GPUs, more than it could ever get")
    assert "--resources gpu=2" in log
    assert "Traceback" not in log


def test_a_job_that_was_granted_less_than_the_study_asks_says_so(tmp_path: Path) -> None:
    command = ["--granted", "1", "--asked", "8", "--accelerate", "none.yaml", "--", "-c", "print('one process')"]
    out, log = start(tmp_path, *command, ids="0").communicate(timeout=60)
    assert out == "one process\n"
    assert "the study asks for 8 GPUs and this job has 1: slower, with the same batches" in log


def test_several_gpus_are_used_by_accelerate_with_a_process_for_each_and_a_port_of_its_own() -> None:
    found = gpu.command(["-m", "step", "--flag"], 4, "ddp.yaml")
    assert found[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert " ".join(found[3:]) == "--config_file ddp.yaml --num_processes 4 --main_process_port 0 -m step --flag"
    assert gpu.command(["-m", "step"], 1, "ddp.yaml") == [sys.executable, "-m", "step"]
    assert gpu.command(["-m", "step"], 4, None) == [sys.executable, "-m", "step"]


def test_the_exit_code_is_that_of_the_command(tmp_path: Path) -> None:
    job = start(tmp_path, "--granted", "1", "--", "-c", "raise SystemExit(7)")
    job.communicate(timeout=60)
    assert job.returncode == 7


def test_processes_that_the_command_starts_see_its_gpus(tmp_path: Path) -> None:
    script = f"import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', {SHOW!r}], text=True))"
    out, _ = start(tmp_path, "--granted", "2", "--", "-c", script).communicate(timeout=60)
    assert json.loads(out)[0] == "0,1"


@pytest.mark.slow
def test_two_trainings_of_two_gpus_run_side_by_side_on_four(tmp_path: Path) -> None:
    """By accelerate itself: four processes, of which each pair sees the GPUs of its job; ports do not collide."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "time.sleep(8)\n"
        "names = ('CUDA_VISIBLE_DEVICES', 'RANK', 'WORLD_SIZE')\n"
        f"open({str(tmp_path / 'out')!r}, 'a').write(' '.join(os.environ[n] for n in names) + '\\n')\n"
    )
    config = ROOT / "envs/accelerate/ddp.yaml"
    arguments = ["--granted", "2", "--asked", "2", "--accelerate", str(config), "--", str(script)]
    jobs = [start(tmp_path, *arguments, ids="0,1,2,3") for _ in range(2)]
    logs = [job.communicate(timeout=300)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], logs
    assert sorted((tmp_path / "out").read_text().splitlines()) == ["0,1 0 2", "0,1 1 2", "2,3 0 2", "2,3 1 2"]
    assert not [log for log in logs if "already in use" in log or "waiting for" in log]
