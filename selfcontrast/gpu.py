"""A lease of GPUs on this machine, and the start of a command on them: two jobs never share a GPU.

``python -m selfcontrast.gpu --granted N -- ARGUMENTS`` claims N free GPUs, sets CUDA_VISIBLE_DEVICES and becomes
``python ARGUMENTS``. A claim is a lock (flock) on a file for each GPU. The command inherits the open files, so the lease
lasts as long as its process, and ends with it however that ends. Snakemake counts GPUs but does not assign them; a
scheduler assigns them, and then nothing is claimed.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from selfcontrast.errors import SelfContrastError, StepError

log = logging.getLogger("selfcontrast")

OVERRIDE = "SELFCONTRAST_GPUS"
"""Environment variable with the ids of this machine's GPUs, where nvidia-smi does not know them."""

SCHEDULERS = {
    "SLURM_JOB_ID": "Slurm",
    "PBS_JOBID": "PBS",
    "LSB_JOBID": "LSF",
    "FLUX_JOB_ID": "Flux",
    "OAR_JOB_ID": "OAR",
}
LOOK_AGAIN_S = 1.0
SAY_AGAIN_S = 600.0

_GPU = re.compile(r"^GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_SLICE = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)]+)\)")


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        id: as CUDA_VISIBLE_DEVICES names it.
        key: a name that all processes of this machine share, whichever way they name the GPU.
    """

    id: str
    key: str


def parse_list(text: str) -> list[Gpu]:
    """Return the GPUs in the output of ``nvidia-smi -L``; of a GPU that is divided (MIG), its parts."""
    found: list[Gpu] = []
    whole: Gpu | None = None
    for line in text.splitlines():
        if match := _GPU.match(line):
            whole = Gpu(*match.groups())
            found.append(whole)
        elif match := _SLICE.match(line):
            if whole in found:
                found.remove(whole)
            found.append(Gpu(match[1], match[1]))
    return found


def visible_gpus(environment: Mapping[str, str]) -> list[Gpu]:
    """Return the GPUs that this user may use: those of the machine, or those of them in CUDA_VISIBLE_DEVICES."""
    ids = environment.get(OVERRIDE)
    present = parse_list(_nvidia_smi()) if ids is None else [Gpu(x, x) for x in _ids(ids)]
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    return present if chosen is None else [Gpu(x, _key(x, present)) for x in _ids(chosen)]


def _ids(text: str) -> list[str]:
    """Return the ids in a list as CUDA reads it: what stands behind an id that cannot be one, as -1, does not count."""
    ids: list[str] = []
    for part in text.split(","):
        if not re.fullmatch(r"\w[\w/:-]*", part.strip()):
            break
        ids.append(part.strip())
    return ids


def _key(name: str, present: Sequence[Gpu]) -> str:
    """Return the key of a GPU that a user named by number or by the beginning of its UUID."""
    matches = [g.key for g in present if g.id == name or (name.startswith(("GPU-", "MIG-")) and g.key.startswith(name))]
    return matches[0] if len(matches) == 1 else name


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, "-L"], text=True, capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        raise StepError(
            "nvidia-smi does not answer", remedy="look at the GPUs of this machine, or restart it"
        ) from None
    if done.returncode != 0:
        log.warning("nvidia-smi lists no GPU: %s", (done.stdout + done.stderr).strip().replace("\n", " "))
        return ""
    return done.stdout


class Locks:
    """The lock files of a user's leases, in a folder of this machine that is nobody else's."""

    def __init__(self, folder: Path | None = None) -> None:
        """Make the folder.

        Raises:
            StepError: something of that name is there that is not a folder of this user.
        """
        self.folder = folder or Path(tempfile.gettempdir()) / f"selfcontrast-gpus-{os.getuid()}"
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if self.folder.is_symlink() or self.folder.stat().st_uid != os.getuid():
            raise StepError(
                "the folder of GPU locks is not yours", where=str(self.folder), remedy="remove it, or set TMPDIR"
            )

    def claim(self, gpus: Sequence[Gpu], n: int) -> tuple[list[Gpu], list[Gpu]]:
        """Claim n free GPUs, or none if fewer are free; return those and the ones found taken.

        The lease lasts until the last process ends that inherits the open files. Claims come one after the other, so
        that two that cannot both have what they want do not hold a part of it each.
        """
        held: dict[Gpu, int] = {}
        taken: list[Gpu] = []
        with self._one_at_a_time():
            for gpu in gpus:
                if len(held) == n:
                    break
                if (handle := self._lock(gpu)) is None:
                    taken.append(gpu)
                else:
                    held[gpu] = handle
            if len(held) < n:
                for handle in held.values():
                    os.close(handle)
                return [], taken
        # Cleaners of temporary folders (systemd-tmpfiles) leave a locked folder alone, files in it included.
        handles = [*held.values(), os.open(self.folder, os.O_RDONLY)]
        fcntl.flock(handles[-1], fcntl.LOCK_SH)
        for handle in handles:
            os.set_inheritable(handle, True)
        return list(held), taken

    def holder(self, gpu: Gpu) -> str:
        """Return the number of the process that claimed a GPU last."""
        return self._path(gpu).read_text(encoding="utf-8").strip() or "?"

    def _path(self, gpu: Gpu) -> Path:
        return self.folder / f"{gpu.key.replace('/', '-')}.lock"

    def _lock(self, gpu: Gpu) -> int | None:
        handle = os.open(self._path(gpu), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        return handle

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        handle = os.open(self.folder / "claim.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def lease(n: int, environment: Mapping[str, str], locks: Locks | None = None) -> list[str] | None:
    """Claim n GPUs, waiting for them if need be, and return their ids; None if the visible GPUs are to be used as they are.

    Raises:
        StepError: there are GPUs, but fewer than n.
    """
    scheduler = next((name for variable, name in SCHEDULERS.items() if variable in environment), None)
    assigned = environment.get("CUDA_VISIBLE_DEVICES")
    if scheduler and assigned is not None and len(_ids(assigned)) <= n:
        log.info("GPUs %s, assigned by %s", assigned or "none", scheduler)
        return None
    gpus = visible_gpus(environment)
    if not gpus:
        log.info(
            "GPUs none: nvidia-smi finds none here; %s",
            "the CPU is used" if n == 1 else f"one CPU process instead of {n}",
        )
        return None
    if n > len(gpus):
        raise StepError(
            f"this job asks for {n} GPUs, more than it could ever get",
            found=f"{len(gpus)}: {', '.join(g.id for g in gpus)}",
            where="CUDA_VISIBLE_DEVICES" if assigned is not None else "nvidia-smi -L",
            remedy=f"start snakemake with --resources gpu={len(gpus)}, or lower `gpus` of the model",
        )
    return _wait(n, gpus, locks or Locks())


def _wait(n: int, gpus: Sequence[Gpu], locks: Locks) -> list[str]:
    parent, said = os.getppid(), -SAY_AGAIN_S
    while True:
        claimed, taken = locks.claim(gpus, n)
        if claimed:
            log.info("GPUs %s, claimed for this job", ",".join(gpu.id for gpu in claimed))
            return [gpu.id for gpu in claimed]
        if os.getppid() != parent:
            raise StepError("the workflow that started this job is gone")
        if time.monotonic() - said >= SAY_AGAIN_S:
            said = time.monotonic()
            holders = ", ".join(f"{gpu.id} by process {locks.holder(gpu)}" for gpu in taken)
            log.info("waiting for %d of %d GPUs; taken: %s", n, len(gpus), holders)
        time.sleep(LOOK_AGAIN_S)


def command(arguments: Sequence[str], n: int, accelerate: str | None) -> list[str]:
    """Return the command of a job: Python, or for several GPUs accelerate with a process for each and a port of its own."""
    if n < 2 or accelerate is None:
        return [sys.executable, *arguments]
    flags = ["--config_file", accelerate, "--num_processes", str(n), "--main_process_port", "0"]
    return [sys.executable, "-m", "accelerate.commands.launch", *flags, *arguments]


def main(argv: Sequence[str] | None = None) -> int:
    """Become the command on its GPUs; return 2 after a message if that cannot be."""
    parser = argparse.ArgumentParser(prog="selfcontrast.gpu", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--granted", type=int, required=True, metavar="N", help="GPUs that the job may use; 0 hides them all"
    )
    parser.add_argument("--asked", type=int, metavar="N", help="GPUs that the study asks for, where that may be more")
    parser.add_argument(
        "--accelerate", metavar="FILE", help="configuration with which several GPUs are used by a process each"
    )
    parser.add_argument("arguments", nargs="+", help="behind --: what Python runs, as in `-m module --flag value`")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    environment = dict(os.environ)
    try:
        n = _prepare(args, environment)
    except SelfContrastError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    started = command(args.arguments, n, args.accelerate)
    sys.stderr.flush()
    os.execve(started[0], started, environment)


def _prepare(args: argparse.Namespace, environment: dict[str, str]) -> int:
    """Set CUDA_VISIBLE_DEVICES to what the job gets, and return the number of GPUs that it uses."""
    if args.granted == 0:
        environment["CUDA_VISIBLE_DEVICES"] = ""
        n = 0
    else:
        claimed = lease(args.granted, environment)
        if claimed is not None:
            environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi counts
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(claimed)
        n = len(_ids(environment.get("CUDA_VISIBLE_DEVICES", "")))
    if args.asked is not None and n < args.asked:
        log.warning("the study asks for %d GPUs and this job has %d: slower, with the same batches", args.asked, n)
    return n


if __name__ == "__main__":
    sys.exit(main())
