"""Paths and times of inputs that Snakemake would end with an error of its own: one message before the first job instead."""

from __future__ import annotations

import os
import shutil
import time

import pytest
from conftest import Project, leave_the_world

pytestmark = pytest.mark.workflow


@pytest.fixture
def own_file(project: Project) -> Project:
    """Return a project whose smoke study reads a file with blanks, quotes, brackets and letters beyond ASCII in its name."""
    leave_the_world(project)
    name = "my 'own' [a] ü*.jsonl"
    (project.folder / name).write_text('{"prompt": "a", "response": "b"}\n', encoding="utf-8")
    path = f'adaptor: jsonl\n    path: "{name}"\n    has_rejected: false'
    project.edit("config/smoke.yaml", "adaptor: hh_rlhf\n    world: {dialogues: 120}", path)
    project.edit("config/smoke.yaml", "judge: grade", "judge: cosine")
    project.edit("config/smoke.yaml", "  scorers: [proxy]\n", "")
    return project


TARGET = "results/smoke/hh/prompts/manifest.json"


def test_a_file_of_any_other_name_is_read(own_file: Project) -> None:
    """So is a project in a folder of such a name."""
    moved = Project(own_file.folder.parent / "it's a [folder] ü")
    shutil.move(own_file.folder, moved.folder)
    done = moved.snakemake("--config", "study=smoke", "--", TARGET)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (moved.folder / TARGET).exists()


@pytest.mark.parametrize("what", ["file", "project"])
def test_braces_in_a_path_end_with_one_message(own_file: Project, what: str) -> None:
    project = own_file
    if what == "file":
        path = next(project.folder.glob("*.jsonl"))
        path.rename(path.with_name("m{x}.jsonl"))
        project.edit("config/smoke.yaml", path.name, "m{x}.jsonl")
    else:
        project = Project(own_file.folder.parent / "p{x}")
        shutil.move(own_file.folder, project.folder)
    done = project.snakemake("-n", "--config", "study=smoke")
    assert done.returncode == 2, done.stdout[-3000:]
    assert "ConfigError: Snakemake reads braces in a path as a wildcard" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_file_from_the_future_ends_with_one_message_before_the_first_job(own_file: Project) -> None:
    """A module of the project is an input as well."""
    for path in (next(own_file.folder.glob("*.jsonl")), own_file.folder / "selfcontrast/steps/prompts.py"):
        os.utime(path, (time.time() + 86_400,) * 2)
        done = own_file.snakemake("--config", "study=smoke", "--", TARGET)
        assert done.returncode == 2, done.stdout[-3000:]
        message = done.stdout[done.stdout.index("InputError") :]
        assert message.startswith("InputError: a file is dated in the future\n")
        assert f"where: {path.relative_to(own_file.folder)}\n" in message
        assert not (own_file.folder / TARGET).exists()
        os.utime(path)
