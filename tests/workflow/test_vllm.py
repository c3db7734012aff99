"""A study whose model is sampled by vLLM, run by Snakemake: jobs that sample find the environment of vLLM, no other job does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT, Project

pytestmark = pytest.mark.workflow

PYTHON = ROOT / ".venv-vllm/bin/python"
POOL = "results/smoke/hh/pocket/pools/sft/manifest.json"
ANSWERS = "results/smoke/hh/pocket/arms/sft-none-n0/s0/eval/test/manifest.json"


def use_vllm(project: Project) -> None:
    project.edit("config/smoke.yaml", "gpus: 0", "gpus: 0\n    backend: vllm")


def interpreters(output: str) -> dict[str, set[str]]:
    """Return the Python of each step in the commands that a dry run prints."""
    found: dict[str, set[str]] = {}
    for line in output.splitlines():
        if "exec " in line and " -m selfcontrast.steps." in line:
            python, _, rest = line.split("exec ", 1)[1].partition(" -m selfcontrast.steps.")
            found.setdefault(rest.split()[0], set()).add(python.split()[0])  # it may lease a GPU first
    return found


def test_only_jobs_that_sample_run_in_the_environment_of_vllm(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_vllm(project)
    monkeypatch.setenv("SELFCONTRAST_VLLM_PYTHON", "/elsewhere/bin/python")
    done = project.snakemake("-n", "-p", "--config", "study=smoke")
    assert done.returncode == 0, done.stdout[-2000:]
    found = interpreters(done.stdout)
    assert found.pop("generate_shard") == found.pop("respond") == {"/elsewhere/bin/python"}
    assert {"train", "sft", "gather_pool", "ref_logps"} <= found.keys()
    assert set().union(*found.values()) == {"python"}


def test_the_environment_that_make_makes_is_found(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    use_vllm(project)
    monkeypatch.delenv("SELFCONTRAST_VLLM_PYTHON", raising=False)
    plain = project.snakemake("-n", "-p", "--config", "study=smoke").stdout
    assert interpreters(plain)["generate_shard"] == {"python"}
    made = project.folder / ".venv-vllm/bin/python"
    made.parent.mkdir(parents=True)
    made.touch()
    found = project.snakemake("-n", "-p", "--config", "study=smoke").stdout
    assert interpreters(found)["generate_shard"] == {".venv-vllm/bin/python"}


def test_a_model_on_the_default_back_end_never_runs_in_the_environment_of_vllm(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFCONTRAST_VLLM_PYTHON", "/elsewhere/bin/python")
    done = project.snakemake("-n", "-p", "--config", "study=smoke")
    assert "/elsewhere" not in done.stdout
    assert interpreters(done.stdout)["generate_shard"] == {"python"}


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(not PYTHON.exists(), reason="no environment of vLLM: make env-vllm")
def test_pool_and_answers_are_sampled_by_vllm(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    use_vllm(project)
    monkeypatch.setenv("SELFCONTRAST_VLLM_PYTHON", str(PYTHON))
    done = project.snakemake("--config", "study=smoke", "--", POOL, ANSWERS)
    assert done.returncode == 0, done.stdout[-5000:]
    pool, answers = (project.folder / name for name in (POOL, ANSWERS))
    report = json.loads(pool.read_text())["report"]
    assert report["responses"] == 16 * 8
    assert report["distinct_texts"] > 16
    for run in (pool.parent / "shards/1-of-1/run.json", answers.parent / "run.json"):
        assert json.loads(run.read_text())["sampler"]["backend"] == "vllm"
    sft = Path(project.folder / "results/smoke/hh/pocket/sft/run.json")
    assert "sampler" not in json.loads(sft.read_text())


@pytest.mark.slow
def test_without_vllm_the_job_ends_with_one_message(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    use_vllm(project)
    monkeypatch.delenv("SELFCONTRAST_VLLM_PYTHON", raising=False)
    done = project.snakemake("--config", "study=smoke", "--", POOL)
    assert done.returncode == 1
    assert "the model's back-end is vLLM, which is not installed" in done.stdout
    assert "make env-vllm" in done.stdout
    assert "Traceback" not in done.stdout
