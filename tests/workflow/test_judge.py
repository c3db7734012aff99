"""Judges in the workflow: wired to every arm, free to repeat, and two turns of MT-Bench with a local judge."""

from __future__ import annotations

import csv
import json
import re

import pytest
from conftest import ROOT, Project

MT_BENCH = ROOT.parent / "shared" / "data" / "mt-bench"

OWN = "    truth: {kind: pairwise, model: pocket, server: {kind: pocket}, prompts: 8}\n"
"""The judge that the smoke study has."""
JUDGES = """    truth: {kind: pairwise, model: pocket, server: {kind: pocket}}
    alpaca: {kind: alpaca_eval, prompt: own, model: pocket, server: {kind: pocket}, opponent: target}
"""
MT_QUESTIONS = """bootstrap: 200
  questions:
    mtbench: {layout: mt_bench, path: data/question.jsonl, references: data/reference.jsonl, max_new_tokens: 8}
"""
MT_JUDGE = """    mt:
      kind: mt_bench
      model: counter
      prompts_file: data/prompts.jsonl
      questions: mtbench
      server: {kind: command, command: [python, tests_counter.py, "{port}"]}
"""
COUNTER = '''"""A judge that rates every answer alike, and a server around it."""
import asyncio, json, sys
from selfcontrast.judging.cases import Utterance
from selfcontrast.judging.pocket import completion, serve

def reply(path, body):
    return (200, completion(Utterance("[[4]]"), json.loads(body))) if body else (200, {})

asyncio.run(serve(int(sys.argv[1]), reply))
'''


def test_dry_run_judges_every_arm_once_and_only_if_asked(project: Project) -> None:
    project.edit("config/smoke.yaml", f"  judges:\n{OWN}", "")
    plain = project.snakemake("-n", "--config", "study=smoke")
    assert "rule judge" not in plain.stdout
    assert "figures/judges" not in plain.stdout
    project.edit("config/smoke.yaml", "bootstrap: 200\n", f"bootstrap: 200\n  judges:\n{JUDGES}")
    done = project.snakemake("-n", "--config", "study=smoke", "--quiet", "rules")
    assert done.returncode == 0, done.stdout
    counted = project.snakemake("-n", "--config", "study=smoke")
    assert set(re.findall(r"^judge +(\d+)$", counted.stdout, re.M)) == {"2"}


def test_a_file_of_questions_with_another_type_ends_a_run_before_its_first_job(project: Project) -> None:
    data = project.folder / "data"
    data.mkdir()
    row = {"question_id": 81, "category": "writing", "turns": "Name a prime."}
    (data / "question.jsonl").write_text(json.dumps(row))
    project.edit(
        "config/smoke.yaml", "bootstrap: 200\n", MT_QUESTIONS.replace(" references: data/reference.jsonl,", "")
    )
    done = project.snakemake("--config", "study=smoke")
    assert done.returncode == 2, done.stdout[-2000:]
    assert "`turns` is not a list" in done.stdout
    assert "data/question.jsonl, row 1" in done.stdout
    assert "Traceback" not in done.stdout
    assert not list((project.folder / "results").rglob("manifest.json"))


def test_a_judge_reads_the_models_that_a_data_set_is_run_with_alone(project: Project) -> None:
    """Two models, and a data set for one of them: no job makes the answers of the fourth pair, so none may be asked for."""
    text = (project.folder / "config/smoke.yaml").read_text()
    model = text[text.index("  pocket:\n") : text.index("pools:\n")]
    project.edit("config/smoke.yaml", "pools:\n", f"{model.replace('  pocket:', '  other:').rstrip()}\n\npools:\n")
    project.edit(
        "config/smoke.yaml",
        "    splits: {sft: 64, pool: 16, validation: 16, test: 24}\n",
        "    splits: {sft: 64, pool: 16, validation: 16, test: 24}\n"
        "  more:\n    adaptor: hh_rlhf\n    world: {dialogues: 120}\n    models: [other]\n"
        "    splits: {sft: 64, pool: 16, validation: 16, test: 24}\n",
    )
    done = project.snakemake("-n", "--config", "study=smoke")
    assert done.returncode == 0, done.stdout[-3000:]
    assert set(re.findall(r"^sft +(\d+)$", done.stdout, re.M)) == {"3"}
    judged = next(job for job in done.stdout.split("rule ") if job.startswith("judge:"))
    assert "results/smoke/more/other/arms" in judged
    assert "results/smoke/more/pocket" not in judged


@pytest.mark.slow
def test_judges_reach_the_tables_and_a_change_of_limits_asks_nothing(copy_of_finished: Project) -> None:
    project = copy_of_finished
    project.edit("config/smoke.yaml", OWN, JUDGES)
    done = project.snakemake("--config", "study=smoke")
    assert done.returncode == 0, done.stdout[-5000:]
    assert "rule train:" not in done.stdout
    root = project.folder / "results/smoke"
    with (root / "tables/metrics.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    judged = {(r["arm"], r["metric"]): float(r["value"]) for r in rows if r["seed"] == "all"}
    assert {m for _, m in judged} >= {"judge_truth", "judge_alpaca", "win_vs_target"}
    for (arm, metric), value in judged.items():
        if metric == "judge_alpaca":
            assert value == pytest.approx(judged[arm, "win_vs_target"])
    assert ("sft-none-n0", "judge_truth") not in judged
    before = (root / "judges/truth/replies.jsonl").read_bytes()
    project.edit("config/smoke.yaml", "server: {kind: pocket}}", "server: {kind: pocket}, limits: {in_flight: 2}}")
    again = project.snakemake("--config", "study=smoke")
    assert again.returncode == 0, again.stdout[-5000:]
    assert (root / "judges/truth/replies.jsonl").read_bytes() == before
    assert json.loads((root / "judges/truth/run.json").read_text())["requests"] == 0


@pytest.mark.slow
@pytest.mark.skipif(not MT_BENCH.is_dir(), reason="MT-Bench not found at data/ beside the project")
def test_mt_bench_in_two_turns_with_a_local_judge(project: Project) -> None:
    """All 80 questions in a context that holds them: 160 answers of each arm and seed, 160 ratings."""
    data = project.folder / "data"
    data.mkdir()
    for name, source in (
        *(("question.jsonl", "question.jsonl"), ("reference.jsonl", "reference_answer-gpt-4.jsonl")),
        ("prompts.jsonl", "judge_prompts.jsonl"),
    ):
        (data / name).symlink_to(MT_BENCH / source)
    (project.folder / "tests_counter.py").write_text(COUNTER)
    project.edit("config/smoke.yaml", "bootstrap: 200\n", MT_QUESTIONS)
    project.edit("config/smoke.yaml", OWN, MT_JUDGE)
    project.edit("config/smoke.yaml", "      n_layers: 2\n", "      n_layers: 2\n      max_length: 2048\n")
    project.edit("config/smoke.yaml", "    max_length: 128\n", "    max_length: 2048\n")
    project.edit("config/smoke.yaml", "seeds: [0, 1]", "seeds: [0]")
    done = project.snakemake("--config", "study=smoke", "--", "results/smoke/judges/mt/manifest.json")
    assert done.returncode == 0, done.stdout[-5000:]
    manifest = json.loads((project.folder / "results/smoke/judges/mt/manifest.json").read_text())
    assert manifest["report"]["judgements"] == 4 * 80
    assert manifest["report"]["nulls"] == {}
    with (project.folder / "results/smoke/judges/mt/summary.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert {r["value"] for r in rows} == {"4"}
    assert {r["figure"] for r in rows} >= {"score", "turn_1", "turn_2", "category_math"}
