"""A real Slurm of one node on this machine, for the time of a test: munge, slurmctld and slurmd on loopback, as root.

It needs Debian's packages and no more than that: keys, sockets, ports and state are of its own, and lie in one folder. Only the two files
of its configuration are in /etc/slurm, where Slurm's commands look for them whatever their environment says.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
CONFIGURATION = (Path("/etc/slurm/slurm.conf"), Path("/etc/slurm/gres.conf"))
NAME = "selfcontrast-test"
GPUS = 2
CORES = 6
"""More cores than GPUs, so that GPUs are what jobs wait for. Neither needs to exist: the node says so (config_overrides)."""

MEMORY_MB = 1_000_000

SLURM_CONF = """\
# process {process}
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=600
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} Sockets=1 CoresPerSocket={cores} ThreadsPerCore=1 RealMemory={memory} Gres=gpu:fake:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=UNLIMITED State=UP
PartitionName=gpu Nodes={host} MaxTime=UNLIMITED State=UP
"""
GRES_CONF = "NodeName={host} Name=gpu Type=fake File=/dev/tty[0-{last_gpu}]\n"


def why_not() -> str | None:
    """Return why no Slurm can be brought up here, None if it can."""
    if os.geteuid() != 0:
        return "only root can start a Slurm of its own"
    if missing := [p for p in PROGRAMS if shutil.which(p) is None]:
        return f"{', '.join(missing)} not found; `make test-slurm` installs Debian's packages {', '.join(PACKAGES)}"
    remove_leftovers()
    if present := [str(p) for p in CONFIGURATION if p.exists()]:
        return f"a Slurm is configured here already: {', '.join(present)}"
    return None


def remove_leftovers() -> None:
    """Remove the configuration of a test that was killed, and what it left running; another Slurm's is not touched."""
    configuration = CONFIGURATION[0]
    text = configuration.read_text() if configuration.exists() else ""
    if f"ClusterName={NAME}\n" in text and (found := re.search(r"^StateSaveLocation=(.*)/state$", text, re.M)):
        if psutil.pid_exists(int(re.search(r"^# process (\d+)$", text, re.M)[1])):
            return
        Cluster(Path(found[1])).stop()


@dataclass
class Cluster:
    """One node with ``GPUS`` GPUs that do not exist.

    Attributes:
        folder: everything but the two configuration files.
    """

    folder: Path

    @property
    def host(self) -> str:
        return platform.node().split(".")[0]

    def start(self) -> None:
        """Bring the cluster up and wait until its node is idle; leave nothing behind if it does not come up."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munge.pid",
            "log-file": "munge.log",
            "seed-file": "munge.seed",
        }
        flags = [f"--{flag}={self.folder / name}" for flag, name in files.items()]
        subprocess.run(["munged", "--force", *flags], check=True, stderr=subprocess.DEVNULL)
        values = {
            "process": os.getpid(),
            "name": NAME,
            "host": self.host,
            "folder": self.folder,
            "controller_port": _free_port(),
            "node_port": _free_port(),
            "cores": CORES,
            "memory": MEMORY_MB,
            "gpus": GPUS,
            "last_gpu": GPUS - 1,
        }
        for path, text in zip(CONFIGURATION, (SLURM_CONF, GRES_CONF), strict=True):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.format(**values))
        self._wait_for(lambda: (self.folder / "munge.socket").exists(), "munged")
        subprocess.run(["slurmctld", "-c"], check=True)
        subprocess.run(["slurmd", "-N", self.host], check=True)
        self._wait_for(lambda: self.state() == "idle", "an idle node")

    def stop(self) -> None:
        """End the jobs and the three programs, and remove the configuration."""
        if (self.folder / "slurmctld.pid").exists():
            self.ask("scancel", "--user=root", "--full", check=False)
            self._wait_for(lambda: not self.ask("squeue", "-h", check=False), "the end of all jobs", fail=False)
        _end_orphans()
        for program, file in (("slurmd", "slurmd.pid"), ("slurmctld", "slurmctld.pid"), ("munged", "munge.pid")):
            _end(program, self.folder / file)
        for path in CONFIGURATION:
            path.unlink(missing_ok=True)

    def ask(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands and return what it printed."""
        done = subprocess.run(command, text=True, capture_output=True, timeout=60, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def state(self) -> str:
        """Return the state of the node."""
        return self.ask("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T", check=False)

    def _wait_for(self, condition, what: str, *, seconds: float = 60, fail: bool = True) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                if fail:
                    logs = "".join(p.read_text()[-2000:] for p in self.folder.glob("*.log"))
                    raise RuntimeError(f"waited {seconds:.0f} s for {what} in vain\n{logs}")
                return
            time.sleep(0.1)


def _end_orphans() -> None:
    """End what Slurm lost sight of: it follows process groups here, for want of cgroups, and a process may leave its group."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURM_CLUSTER_NAME") == NAME:
                process.kill()


def _free_port() -> int:
    with socket.socket() as stream:
        stream.bind(("127.0.0.1", 0))
        return stream.getsockname()[1]


def _end(program: str, pid_file: Path) -> None:
    """End the process of a pid file, with SIGKILL if it does not end by itself."""
    with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
        process = psutil.Process(int(pid_file.read_text()))
        if process.name() != program:
            return
        process.terminate()
        try:
            process.wait(10)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(10)
