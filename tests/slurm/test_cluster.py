"""The smoke study on a real Slurm of one node, with kills in between, against a run of the same study without it.

``make test-slurm`` installs Debian's packages and runs this; it is skipped where no Slurm can be brought up.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.slurm.cluster import GPUS, Cluster, why_not
from tests.workflow.conftest import Project, make_project, reproducible_files

REASON = why_not()
pytestmark = [pytest.mark.slurm, pytest.mark.skipif(REASON is not None, reason=REASON or "")]

PROFILE = "profiles/slurm-without-accounts"
PATIENCE_S = 900
"""For one thing to happen; a machine may be busy."""
LISTED = ("RUNNING", "PENDING", "COMPLETING")
"""The states that squeue lists unasked, and in which a job of a killed run may be found."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster that is up, and take it down whatever happens; SIGTERM ends the session as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()
        signal.signal(signal.SIGTERM, before)


def project_for_slurm(folder: Path) -> Project:
    """Return a project with a smoke study whose model asks for a GPU, and the profile's SITE lines filled in."""
    project = make_project(folder)
    project.edit("config/smoke.yaml", "gpus: 0", "gpus: 1")
    project.edit("config/smoke.yaml", "seeds: [0, 1]", "seeds: [0]")
    profile = f"{PROFILE}/profile.yaml"
    project.edit(profile, "gpu_model: a100", "gpu_model: fake")
    project.edit(profile, "status-checks: 20", "status-checks: 3")
    project.edit(profile, "latency-wait: 60", "latency-wait: 10")
    project.edit(profile, "slurm-status-command", 'precommand: "hostname >> precommand.txt"\nslurm-status-command')
    return project


@dataclass
class Run:
    """A snakemake that runs in a project, on the cluster or beside it."""

    project: Project
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, project: Project, *flags: str, gpus: str = "") -> Run:
        log = project.folder / f"run-{time.monotonic_ns()}.log"
        outside = {k: v for k, v in project.env.items() if k != "CUDA_VISIBLE_DEVICES"}
        command = [sys.executable, "-m", "snakemake", "--config", "study=smoke", *flags]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                cwd=project.folder,
                env={**outside, "SELFCONTRAST_GPUS": gpus},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(project, process, log)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"ended before {what}:\n{self.output[-5000:]}"
            assert time.monotonic() < deadline, f"waited in vain for {what}:\n{self.output[-5000:]}"
            time.sleep(0.2)


@dataclass
class Story:
    """What happened to the study on the cluster."""

    project: Project
    reference: Project
    queues: dict[str, list[str]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    gpus: list[dict[str, str]] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)

    @property
    def logs(self) -> dict[str, str]:
        """Return the logs of all steps by their path."""
        root = self.project.folder / "results/smoke/logs"
        return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*.log")}


def jobs_of(cluster: Cluster, project: Project, *states: str) -> list[str]:
    """Return the ids of a project's jobs in these states."""
    listed = cluster.ask("squeue", "-h", "-t", ",".join(states), "-o", "%i %Z").splitlines()
    return [line.split()[0] for line in listed if line.split()[1] == str(project.folder)]


def step_processes(project: Project, step: str) -> list[psutil.Process]:
    """Return the processes of a step in a project's folder: of the step itself, not of Snakemake around it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if command[1:3] == ["-m", f"selfcontrast.steps.{step}"] and process.cwd() == str(project.folder):
                found.append(process)
    return found


def commands_of(job: str) -> list[list[str]]:
    """Return the commands of all processes of a job, known by what Slurm put into their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURM_JOB_ID") == job:
                found.append(process.cmdline())
    return found


@contextlib.contextmanager
def watching_gpus(cluster: Cluster, seen: list[dict[str, str]]) -> Iterator[None]:
    """Note again and again which GPU each running job has, by Slurm's own account."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            records = cluster.ask("scontrol", "show", "job", "-d", "-o", check=False)
            seen.append(dict(re.findall(r"^JobId=(\d+) .* GRES=gpu:fake:1\(IDX:(\S+)\)", records, re.M)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def faults(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Project]]:
    """Start a run in which `world` needs more memory than it asks for, and `pretrain` more time, but only at first."""
    project = project_for_slurm(tmp_path_factory.mktemp("faults") / "project")
    project.edit("rules/data.smk", "mem_mb=grow(2_000)", "mem_mb=grow(500)")
    project.edit("rules/sft.smk", "runtime=60", "runtime=1")
    hog = "    import time\n    hog = bytearray(600_000_000)\n    time.sleep(5)\n"
    project.edit("selfcontrast/steps/world.py", "    spec = step.spec\n", f"{hog}    spec = step.spec\n")
    stall = '    import time\n    if not args.out.parent.joinpath("again").exists():\n        time.sleep(600)\n'
    project.edit("selfcontrast/steps/pretrain.py", "    spec = step.spec\n", f"{stall}    spec = step.spec\n")
    run = Run.start(project, "--workflow-profile", PROFILE, "--retries", "0", "--until", "world", "pretrain")
    yield run, project
    run.kill()


@pytest.fixture(scope="module")
def story(cluster: Cluster, faults: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Run the study on the cluster with all that can happen to it, and beside it undisturbed on this machine."""
    started = time.monotonic()
    reference = project_for_slurm(tmp_path_factory.mktemp("reference") / "project")
    beside = Run.start(reference, gpus="0,1")
    story = Story(project_for_slurm(tmp_path_factory.mktemp("story") / "project"), reference)
    runs = [beside]
    try:
        with watching_gpus(cluster, story.gpus):
            runs.append(on_cluster := Run.start(story.project, "--workflow-profile", PROFILE, "--retries", "1"))
            _kill_a_step(story, on_cluster)
            _drain_the_node(cluster, story, on_cluster)
            runs.append(again := _cancel_a_job_and_kill_snakemake(cluster, story, on_cluster))
            again.end()
        story.outputs = [on_cluster.output, again.output]
        story.states = dict(
            re.findall(r"^JobId=(\d+) .*? JobState=(\w+)", cluster.ask("scontrol", "show", "job", "-o"), re.M)
        )
        beside.end()
        assert beside.process.returncode == 0, beside.output[-5000:]
        assert again.process.returncode == 0, again.output[-5000:]
        print(f"\nthe study on the cluster and beside it took {time.monotonic() - started:.0f} s")
        yield story
    finally:
        for run in runs:
            run.kill()


def _kill_a_step(story: Story, run: Run) -> None:
    run.wait_until(lambda: step_processes(story.project, "sft"), "the SFT model's training")
    for process in step_processes(story.project, "sft"):
        process.kill()


@contextlib.contextmanager
def drained(cluster: Cluster) -> Iterator[None]:
    """Take the node out of service: what runs goes on, and nothing starts."""
    cluster.ask("scontrol", "update", f"NodeName={cluster.host}", "State=DRAIN", "Reason=test")
    try:
        yield
    finally:
        cluster.ask("scontrol", "update", f"NodeName={cluster.host}", "State=RESUME")


def _drain_the_node(cluster: Cluster, story: Story, run: Run) -> None:
    """Take the node out of service while jobs run, wait until they ended, look, and give it back."""
    run.wait_until(lambda: len(jobs_of(cluster, story.project, "RUNNING")) > 1, "two jobs at a time")
    with drained(cluster):
        run.wait_until(lambda: not jobs_of(cluster, story.project, "RUNNING", "COMPLETING"), "the end of the jobs")
        run.wait_until(lambda: jobs_of(cluster, story.project, "PENDING"), "a job that waits for the node")
        time.sleep(3)
        story.queues["drained"] = jobs_of(cluster, story.project, "RUNNING")


def _cancel_a_job_and_kill_snakemake(cluster: Cluster, story: Story, run: Run) -> Run:
    """Kill Snakemake with a job in the queue that cannot end by itself, and return the run that comes after it."""
    run.wait_until(lambda: step_processes(story.project, "train"), "a training")
    run.wait_until(lambda: len(jobs_of(cluster, story.project, "RUNNING", "PENDING")) > 1, "two jobs")
    cluster.ask("scancel", jobs_of(cluster, story.project, "RUNNING", "PENDING")[0])
    with drained(cluster):
        run.wait_until(lambda: jobs_of(cluster, story.project, "PENDING"), "a job that waits for the node")
        run.kill()
        story.queues["killed"] = _settled_queue(cluster, story.project)
        again = Run.start(story.project, "--workflow-profile", PROFILE, "--retries", "1")
        again.wait_until(lambda: "jobs of an earlier run" in again.output, "the cancellation of jobs")
    return again


def _settled_queue(cluster: Cluster, project: Project) -> list[str]:
    """Return the jobs that squeue lists once two looks agree: a submission may be on its way when Snakemake is killed."""
    before, now = None, jobs_of(cluster, project, *LISTED)
    while now != before:
        time.sleep(2)
        before, now = now, jobs_of(cluster, project, *LISTED)
    return now


def test_a_disturbed_run_on_the_cluster_gives_the_bytes_of_an_undisturbed_one_without(story: Story) -> None:
    expected, found = (reproducible_files(project, "smoke") for project in (story.reference, story.project))
    assert "tables/metrics.tsv" in expected
    assert set(found) == set(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_killed_step_was_tried_again(story: Story) -> None:
    assert re.search(r"Error in rule sft:\n    message: SLURM-job '\d+' failed", story.outputs[0])
    assert "Trying to restart job" in story.outputs[0]


def test_nothing_started_on_the_drained_node(story: Story) -> None:
    assert story.queues["drained"] == []


def test_jobs_of_the_killed_run_were_cancelled_before_the_next_began(story: Story) -> None:
    """They were left in the queue, and the next run says how many it cancelled; jobs may end by themselves in between."""
    assert story.queues["killed"]
    said = re.search(r"^(\d+) jobs of an earlier run of this study were cancelled", story.outputs[1], re.M)
    assert said, story.outputs[1][:2000]
    assert 1 <= int(said[1]) <= len(story.queues["killed"])
    assert {story.states[job] for job in story.queues["killed"]} <= {"CANCELLED", "COMPLETED"}


def test_slurm_gave_each_job_a_gpu_of_its_own(story: Story) -> None:
    """At no time two jobs on one GPU; both were in use at some time, and every kind of job with a model had one."""
    assert all(len(held) == len(set(held.values())) for held in story.gpus)
    assert {gpu for held in story.gpus for gpu in held.values()} == {str(i) for i in range(GPUS)}
    assert max(map(len, story.gpus)) == GPUS
    assert len({job for held in story.gpus for job in held}) >= 15


def test_jobs_saw_their_gpu_and_used_the_cpu_since_it_does_not_exist(story: Story) -> None:
    with_model = {
        "sft",
        "generate_shard",
        "score_pool",
        "ref_logps",
        "train",
        "respond",
        "score_answers",
        "score_arms",
        "train_reward",
        "gradient_noise",
        "benchmark",
    }
    told = {name: re.findall(r"GPUs (\S+), assigned by Slurm", text) for name, text in story.logs.items()}
    assert {Path(name).stem for name, ids in told.items() if ids} == with_model
    assert {x for ids in told.values() for x in ids} == {"0", "1"}
    runs = list((story.project.folder / "results/smoke").rglob("run.json"))
    assert len(runs) > 30
    assert {json.loads(p.read_text())["gpu"] for p in runs} == {None}


def test_the_precommand_ran_on_the_node_before_each_job(story: Story) -> None:
    lines = (story.project.folder / "precommand.txt").read_text().split()
    assert len(lines) >= len(list((story.project.folder / "results/smoke").rglob("run.json")))


def test_without_a_scheduler_jobs_leased_a_gpu(story: Story) -> None:
    root = story.reference.folder / "results/smoke/logs"
    claimed = [re.findall(r"GPUs (\d), claimed", p.read_text()) for p in root.rglob("train.log")]
    assert len(claimed) == 3
    assert all(len(ids) == 1 for ids in claimed)


def test_faults_of_the_cluster_come_with_a_remedy_and_the_next_run_goes_on(
    cluster: Cluster, faults: tuple[Run, Project], story: Story
) -> None:
    """`world` asks for twice the memory at its second attempt (`grow`), which the first run did not allow."""
    first, project = faults
    assert first.end() == 1
    advice = first.output.split("Jobs failed on the cluster.")[1]
    assert "  world: it needed more memory than it asked for" in advice
    assert "raise `set-resources: world: {mem_mb: ...}`" in advice
    assert "  pretrain: it reached its time limit" in advice
    assert "raise `set-resources: pretrain: {runtime: MINUTES}`" in advice
    (project.folder / "results/smoke/models/pocket/base/again").touch()
    flags = ["--retries", "1", "--until", "world", "pretrain", "--set-resources", "pretrain:runtime=60"]
    second = Run.start(project, "--workflow-profile", PROFILE, *flags)
    try:
        assert second.end() == 0, second.output[-5000:]
    finally:
        second.kill()
    assert "exceeded memory limit" in second.output
    assert second.output.count("Finished jobid") >= 2


def test_no_process_of_a_cancelled_job_outlives_it(cluster: Cluster, tmp_path: Path) -> None:
    """It would write, or delete, what the next run's job makes. Slurm follows process groups here, elsewhere cgroups.

    The job is cancelled while the Snakemake inside it starts the step: without either, one process mostly stays then.
    """
    project = project_for_slurm(tmp_path / "project")
    run = Run.start(project, "--workflow-profile", PROFILE, "--retries", "0", "--until", "world")
    try:
        run.wait_until(lambda: jobs_of(cluster, project, "RUNNING"), "a job")
        [job] = jobs_of(cluster, project, "RUNNING")
        run.wait_until(lambda: any(command[0] == "srun" for command in commands_of(job)), "the job's second Snakemake")
        cluster.ask("scancel", job)
        run.wait_until(lambda: job not in jobs_of(cluster, project, *LISTED), "the end of the job")
        assert commands_of(job) == []
    finally:
        run.kill()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--default-resources", "slurm_partition=nope"], "there is no such partition"),
        (["--set-resources", "world:gpu=5"], "no node can ever give what it asks for"),
        (["--set-resources", "world:mem_mb=9000000"], "no node can ever give what it asks for"),
    ],
)
def test_a_request_that_slurm_refuses_is_explained(
    cluster: Cluster, tmp_path: Path, flags: list[str], says: str
) -> None:
    project = project_for_slurm(tmp_path / "project")
    run = Run.start(project, "--workflow-profile", PROFILE, "--retries", "0", "--until", "world", *flags)
    try:
        assert run.end() == 1
    finally:
        run.kill()
    assert f"  world: {says}" in run.output
    assert "what to do: " in run.output.split("Jobs failed on the cluster.")[1]


def test_a_full_disk_is_named_under_slurm_too(cluster: Cluster, tmp_path: Path) -> None:
    """/dev/full in place of the records: every write to it fails as on a full disk."""
    project = project_for_slurm(tmp_path / "project")
    full = '    open("/dev/full", "w").write("x" * 100_000)\n'
    project.edit("selfcontrast/steps/world.py", "    spec = step.spec\n", f"{full}    spec = step.spec\n")
    run = Run.start(project, "--workflow-profile", PROFILE, "--retries", "0", "--until", "world")
    try:
        assert run.end() == 1
    finally:
        run.kill()
    assert "StepError: the disk is full, or your share of it" in run.output
    assert "free space and run snakemake again" in run.output
