"""Copies of the project in which Snakemake runs, and the smoke study run once for all tests of a session."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "Snakefile",
    "rules",
    "selfcontrast",
    "config",
    "profiles",
    "envs",
    "report",
    "requirements.lock",
    "CITATION.cff",
)


@dataclass(frozen=True)
class Project:
    """A copy of the project in a folder of its own."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """Return an environment with an empty home and no network for models."""
        home = self.folder / ".home"
        home.mkdir(exist_ok=True)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "HOME": str(home), "HF_HUB_OFFLINE": "1", "PATH": path}

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--cores", "all", *args]

    def snakemake(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run snakemake here and return what it printed, stdout and stderr together."""
        return subprocess.run(
            self.command(*args),
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )

    def python(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args], cwd=self.folder, env=self.env, text=True, capture_output=True, check=False
        )

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text in a file of the copy; the text must be there."""
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new), encoding="utf-8")


def make_project(folder: Path) -> Project:
    folder.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / part, folder / part)
    return Project(folder)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a fresh copy of the project without results."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a copy in which the smoke study has run to its end; do not change it."""
    project = make_project(tmp_path_factory.mktemp("finished") / "project")
    done = project.snakemake("--config", "study=smoke")
    assert done.returncode == 0, done.stdout[-5000:]
    return project


@pytest.fixture
def copy_of_finished(finished: Project, tmp_path: Path) -> Project:
    """Return a copy of the finished project, Snakemake's records included, that a test may change."""
    shutil.copytree(finished.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


FOR_THE_WORLD = (
    "  judges:\n    truth: {kind: pairwise, model: pocket, server: {kind: pocket}, prompts: 8}\n",
    "  benchmarks:\n"
    "    world: {tasks: [pocket_choice, pocket_manner, pocket_answer], world: true, chat_template: true, limit: 16, seeds: [0]}\n",
)
"""What the smoke study may only ask of the pocket world."""


def leave_the_world(project: Project) -> None:
    """Make the smoke study ask for nothing that only answers of the pocket world have."""
    for lines in FOR_THE_WORLD:
        project.edit("config/smoke.yaml", lines, "")


def reproducible_files(project: Project, study: str = "smoke") -> dict[str, bytes]:
    """Return what a run must reproduce byte for byte: everything but logs, run times, their sum, and the report that shows it.

    Nor are shards of pools among it: they are temporary, and a kill between a job's end and their removal leaves some.
    """
    root = project.folder / "results" / study
    volatile = {"logs", "benchmarks", "cost", "report", "report.html", "report.zip"}
    files = {}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if (
            path.is_file()
            and parts[0] not in volatile
            and "shards" not in parts
            and path.name
            not in ("run.json", "speed.jsonl", "replies.jsonl", "server.log", ".lock", ".snakemake_timestamp")
        ):
            files["/".join(parts)] = path.read_bytes()
    return files


@pytest.fixture(scope="session")
def results_of() -> Callable[[Project], dict[str, bytes]]:
    """Return the function that reads what a run must reproduce."""
    return reproducible_files
