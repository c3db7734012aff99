"""The studies for GPUs, which nothing here can run, are planned in full by Snakemake: data, models, arms and prices."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import ROOT
from test_dag import planned

from selfcontrast.config import load_study
from selfcontrast.planning.report import describe_plan

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        # Data sets and checkpoints are fetched: `paper` has two base models for three data sets, an embedder and a reward model.
        # HH-RLHF and Nectar: 9 arms, UltraChat: 8, without annotated pairs; 3 seeds; 64 shards of answers, 8 of annotated ones.
        ("paper", {"fetch": 3 + 4, "lint": 3, "sft": 3, "generate_shard": 3 * 64 + 2 * 8, "train": 69, "respond": 78}),
        (
            "paper-1gpu",
            {"fetch": 1 + 3, "sft": 1, "generate_shard": 8 + 1, "score_pool": 2, "train": 30, "respond": 33},
        ),
        (
            "qwen-small",
            {"fetch": 1 + 1, "sft": 1, "generate_shard": 4 + 1, "score_pool": 1, "train": 21, "respond": 24},
        ),
    ],
)
def test_a_study_for_gpus_is_planned_in_full_and_priced(project, study, expected):
    """Offline: files of the hub are outputs of a job. Every stage of the plan has the jobs that Snakemake counts."""
    done = project.snakemake("-n", "--config", f"study={study}")
    assert done.returncode == 0, done.stdout[-3000:]
    jobs = planned(done.stdout)
    assert {rule: jobs[rule] for rule in expected} == expected
    fetched = re.findall(rf"output: results/{study}/models/(\S+)/fetch/manifest.json", done.stdout)
    assert len(fetched) == len(set(fetched)) == jobs["fetch"] - jobs["prompts"]  # every data set of these is on the hub
    priced = re.findall(r"^(\w+) +([\d,]+)  ", done.stdout.split("Plan of `")[1], re.M)
    stages = {rule: int(n.replace(",", "")) for rule, n in priced if rule != "total"}
    assert stages == {rule: jobs[rule] for rule in stages}
    assert not set(expected) - set(stages)
    alone = describe_plan(load_study(study), results=project.folder / "results" / study)
    found = dict(re.findall(r"^(\w+) +([\d,]+)  ", alone, re.M))
    assert {rule: int(n.replace(",", "")) for rule, n in found.items() if rule != "total"} == stages
    assert "DOES NOT FIT" not in alone


@pytest.mark.slow
def test_the_plan_of_the_papers_study_takes_20_seconds_and_2_gib_at_most():
    done = subprocess.run(
        [sys.executable, "benchmarks/bench_dag.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = re.fullmatch(r"(\d+) jobs, ([\d.]+) s, ([\d.]+) GiB\n", done.stdout)
    assert found, done.stdout + done.stderr
    assert int(found[1]) > 900
    assert float(found[2]) < 20
    assert float(found[3]) < 2
