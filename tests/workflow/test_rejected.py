"""Own data without the rejected answers that an arm needs: the run ends before training, and its last words say why."""

from __future__ import annotations

import json
import subprocess

import pytest
from conftest import Project, leave_the_world

from selfcontrast.failures import RESUME

pytestmark = pytest.mark.workflow

ARM = "dpo-annotated-n1"


@pytest.fixture
def own_data(project: Project) -> Project:
    """Return a project whose smoke study reads 130 records, of which the first alone has a rejected answer."""
    leave_the_world(project)
    rows = [{"prompt": f"Name the number {i}.", "response": f"It is {i}."} for i in range(130)]
    rows[0]["rejected"] = "No."
    write(project, rows)
    smoke = "config/smoke.yaml"
    project.edit(smoke, "adaptor: hh_rlhf\n    world: {dialogues: 120}", "adaptor: jsonl\n    path: mine.jsonl")
    project.edit(smoke, "judge: grade", "judge: cosine")
    project.edit(smoke, "  scorers: [proxy]\n", "")
    project.edit(smoke, "similarity: {pool: sft, scorer: cosine}", "similarity: null")
    return project


def write(project: Project, rows: list[dict[str, str]]) -> None:
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (project.folder / "mine.jsonl").write_text(text, encoding="utf-8")


def test_data_without_any_end_the_run_before_its_first_job(own_data: Project) -> None:
    write(own_data, [{"prompt": f"p{i}", "response": "yes"} for i in range(130)])
    done = own_data.snakemake("--config", "study=smoke")
    assert done.returncode == 2
    message = done.stdout[done.stdout.index("InputError") :]
    assert message.startswith(f"InputError: the data set has too few rejected answers for {ARM}\n")
    assert not (own_data.folder / "results/smoke/hh").exists()


def test_pool_prompts_without_any_end_the_run_after_the_checks_and_the_message_comes_last(own_data: Project) -> None:
    """The one record that has some is not in the split `pool`. As `make run` shows it; the base model is pretrained."""
    run = " ".join(own_data.command("--config", "study=smoke", "--quiet", "rules", "host", "reason"))
    done = subprocess.run(
        ["bash", "-c", f"{run} 2>&1 | python -m selfcontrast progress; exit ${{PIPESTATUS[0]}}"],
        cwd=own_data.folder,
        env=own_data.env,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    last_words = lines.index("lint, log: results/smoke/logs/hh/pocket/lint/lint.log")
    assert lines[last_words + 1] == f"InputError: the data set has too few rejected answers for {ARM}"
    assert lines[-1].startswith("  what to do: add rejected answers to the records")
    assert lines[last_words - 2] == RESUME
    assert "Evaluated policies: 0 of 8." in lines[last_words - 3]
    assert not any("RuleException" in line or "CalledProcessError" in line for line in lines)
    made = {path.parent.name for path in (own_data.folder / "results/smoke/hh").rglob("manifest.json")}
    assert made == {"prompts"}  # of the data set and of its encoding; neither sft nor a pool
