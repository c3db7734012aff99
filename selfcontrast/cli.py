"""What all steps share: flags, logging, exit codes, provenance, and leaving nothing half written."""

from __future__ import annotations

import argparse
import errno
import gc
import hashlib
import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from selfcontrast import __version__, artifacts, parquet
from selfcontrast.consoles import accept_any_text
from selfcontrast.energy import read_joules
from selfcontrast.errors import InputError, SelfContrastError, StepError

log = logging.getLogger("selfcontrast")

EXIT_USER_ERROR = 2
"""The message on stderr is enough to go on; there is no traceback."""

PARENT_CHECK_S = 0.5

_PACKAGES = ("torch", "transformers", "tokenizers", "sentence-transformers", "numpy", "pyarrow", "pandas", "scipy")


@dataclass
class Step:
    """One running step: its spec, where its outputs go, and what it reports of itself.

    Attributes:
        spec: the settings that change the numbers of this step.
        folder: where outputs go, beside the manifest.
        report: counts and figures for the manifest; must be deterministic.
        cost: figures for run.json: tokens, steps; may vary between runs.
        template: hash of the chat template with which all that the step reads was rendered; None before it is known.
    """

    spec: dict[str, Any]
    manifest_path: Path
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    template: str | None = None
    _template_from: str = ""

    @property
    def folder(self) -> Path:
        """Return the folder of the manifest."""
        return self.manifest_path.parent

    def open(self, manifest: Path) -> artifacts.Artifact:
        """Open the outputs of an earlier step, note their hash as an input of this one, and join their template."""
        artifact = artifacts.Artifact.open(manifest)
        self.join_template(artifact.manifest.get("template_sha256"), where=str(manifest))
        parent = manifest.parent.name
        self.inputs[f"{manifest.parent.parent.name}/{parent}"] = artifact.digest
        return artifact

    def join_template(self, digest: str | None, *, where: str) -> None:
        """Note the hash of the chat template behind something that the step reads; None where text plays no part.

        Raises:
            InputError: something else that it reads was rendered with another template.
        """
        if digest is None:
            return
        if self.template is None:
            self.template, self._template_from = digest, where
        if digest != self.template:
            raise InputError(
                "two inputs of this step were rendered with different chat templates",
                expected=f"{self.template}, as in {self._template_from}",
                found=digest,
                where=where,
                remedy="delete the folder that does not fit models.<id>.template, and run snakemake again",
            )

    def write_table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write one parquet output."""
        artifacts.write_table(self.folder / name, columns)
        self.add_output(name)

    @contextmanager
    def table_writer(self, name: str, columns: Sequence[str]) -> Iterator[parquet.Writer]:
        """Yield what writes one parquet output piece by piece."""
        with artifacts.table_writer(self.folder / name, columns) as writer:
            yield writer
        self.add_output(name)

    def add_output(self, name: str) -> None:
        """Note an output that now lies under ``folder``."""
        self.outputs[name] = artifacts.sha256(self.folder / name)


def step_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags that every step has; whatever the step prints, its log can hold."""
    accept_any_text()
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--spec", type=Path, required=True, help="settings of this step, as JSON")
    parser.add_argument("--threads", type=int, default=1, help="threads to compute with")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="MANIFEST", help="manifest to write; outputs go beside it"
    )
    return parser


def add_execution_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``schema.Execution``: what changes speed and memory of a training, and not its numbers."""
    parser.add_argument("--sharing", choices=("prefix", "packed", "chosen", "none"), default="prefix")
    parser.add_argument("--tokens", type=int, default=0, help="tokens that run together, padding counted; 0: a batch")
    parser.add_argument("--gradient-checkpointing", type=int, choices=(0, 1), default=0)
    parser.add_argument("--track", choices=("none", "tensorboard", "trackio", "wandb"), default="none")
    parser.add_argument("--save-every", type=float, default=600.0, metavar="SECONDS", help="between two stored states")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a step that runs a scorer: which model of the study it reads, if it is one."""
    parser.add_argument(
        "--reward", type=Path, metavar="MANIFEST", help="of the step train_reward, for a scorer with `trained`"
    )
    add_fetched_flag(parser)


def add_fetched_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for the checkpoint of the hub that a step loads."""
    parser.add_argument(
        "--fetched", type=Path, metavar="MANIFEST", help="of the step fetch, for a checkpoint of the hub"
    )


def with_own_model(step: Step, params: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return a scorer's parameters with the folder of the model that the study has trained or fetched for it, if any.

    Args:
        args: with the flags of ``add_model_flags``.
    """
    if args.reward is not None:
        return {**params, "model": str(step.open(args.reward).path("model")), "trained": None}
    if args.fetched is not None:
        return {**params, "model": str(step.open(args.fetched).path("files"))}
    return dict(params)


def commit_of(step: Step, fetched: Path | None) -> dict[str, str]:
    """Return the commit of the checkpoint that a step loads, for its report; nothing for one that was not fetched.

    Args:
        fetched: manifest of the step ``fetch``; it is noted as an input.
    """
    return {} if fetched is None else {"base_commit": str(step.open(fetched).manifest["report"]["commit"])}


def model_of_scorer(params: object) -> str:
    """Return the model behind a scorer, given its parameters, for messages; empty if it has none."""
    return str(getattr(params, "model", None) or getattr(params, "package", None) or "")


def run_step(args: argparse.Namespace, work: Callable[[argparse.Namespace, Step], None]) -> int:
    """Run a step and return its exit code; its manifest is written last, and only if all went well."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    _limit_threads(args.threads)
    _end_with_parent()
    # Importing PyTorch and transformers makes very many objects that stay. To look through them for garbage every 700 objects
    # takes a sixth of the time of the imports, which are half of a small job.
    gc.set_threshold(10_000, 20, 20)
    started, cpu, joules = time.time(), time.process_time(), read_joules()
    try:
        spec = artifacts.read_json(args.spec)
        step = Step(spec, args.out)
        name = Path(sys.modules[work.__module__].__file__ or "step").stem
        log.info("%s, spec %s, selfcontrast %s, %s threads", name, spec_digest(spec)[:12], __version__, args.threads)
        step.folder.mkdir(parents=True, exist_ok=True)
        if not is_first_process():
            work(args, step)
            return 0
        args.out.unlink(missing_ok=True)
        work(args, step)
        seconds = time.time() - started
        run = {
            "step": name,
            "wall_s": round(seconds, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
            "peak_rss_mb": _peak_mb(),
        }
        artifacts.write_json(step.folder / "run.json", {**run, **_where(), **_gpu_cost(seconds, joules), **step.cost})
        manifest = {
            "step": name,
            "spec_sha256": spec_digest(spec),
            "inputs": step.inputs,
            "outputs": step.outputs,
            "report": step.report,
        }
        if step.template is not None:
            manifest["template_sha256"] = step.template
        artifacts.write_json(args.out, manifest)
    except SelfContrastError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Exception as error:
        if not _is_full_disk(error):
            raise
        full = StepError(
            "the disk is full, or your share of it",
            where=str(args.out.parent),
            remedy="free space and run snakemake again",
        )
        print(f"StepError: {full}", file=sys.stderr)
        return EXIT_USER_ERROR
    log.info("done in %.1f s: %s", seconds, ", ".join(step.outputs))
    return 0


def _is_full_disk(error: Exception) -> bool:
    """Return whether a write found no space; safetensors has an error of its own, with the number in its text."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(f"(os error {number})" in str(error) for number in full)


def leave(code: int) -> NoReturn:
    """End the process at once: tearing down torch costs most of a second, and everything is written and closed."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _limit_threads(threads: int) -> None:
    """Bound the thread pools of numerical libraries; must run before they are imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    # Waiting threads spin briefly, then sleep: beside another busy process, endless spinning costs a factor of five.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, so that a killed workflow leaves no writer behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def is_first_process() -> bool:
    """Return whether this is the process, of those that `accelerate launch` started, that writes."""
    return os.environ.get("RANK", "0") == "0"


def spec_digest(value: object) -> str:
    """Return the hash of a spec, as it stands in manifests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _peak_mb() -> int:
    """Return the peak memory of this process in MiB, -1 where the system does not tell it.

    Not ``ru_maxrss``, which on Linux begins at the peak of the process that started this one.
    """
    with suppress(OSError, IndexError):
        return int(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) // 1024
    return -1


def _where() -> dict[str, Any]:
    """Return the versions and the machine; of the packages only those that this process has imported."""
    versions = {}
    for package in _PACKAGES:
        if package.replace("-", "_") in sys.modules:
            versions[package] = metadata.version(package)
    return {"versions": versions, "python": platform.python_version(), "machine": platform.machine(), "gpu": _gpu()}


def _gpu_cost(seconds: float, joules: float | None) -> dict[str, float]:
    """Return GPU-seconds and, where it is counted, the energy of the visible GPUs since ``joules`` was read."""
    torch = sys.modules.get("torch")
    cost = {"gpu_s": round(seconds * torch.cuda.device_count(), 2)} if torch is not None and _gpu() else {}
    after = read_joules() if cost and joules is not None else None
    return cost if after is None or joules is None else {**cost, "gpu_joules": round(after - joules, 1)}


def _gpu() -> str | None:
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
