"""Make tables and report of a large study from synthetic answers: time and peak memory of both steps, size of the report.

    python benchmarks/bench_tables.py

100 arms, 805 prompts and 3 seeds by default, with 5,000 resamples. The answers are random numbers; the files, their
hashes and everything that the steps compute are those of a real study. Exit code 1 above 60 s for both, 1 GiB or 20 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from selfcontrast import artifacts
from selfcontrast.config import parse_study
from selfcontrast.layout import Layout
from selfcontrast.records import TARGET
from selfcontrast.schema import Study
from selfcontrast.specs import expand_specs
from selfcontrast.sweep import arms_of

WORDS = ("answer", "because", "<b>", "question", "of", "a", "prompt", "\u00fcber", "&", "length,", "negative", "the")
ROOT = Path(__file__).resolve().parents[1]
MOST_SECONDS, MOST_MB, MOST_PAGE_MB = 60.0, 1024, 20


def study_of(n_arms: int, n_prompts: int, n_seeds: int, n_samples: int) -> Study:
    """Return a study with one sweep of many selections, for each of which n = 1, 2, 4, 8, 16, and the SFT model."""
    ns = [1, 2, 4, 8, 16]
    names = [f"least{i}" for i in range(-(-(n_arms - 1) // len(ns)))]
    kept: dict[str, Any] = {
        s: {"kind": "target", "pool": "sft", "scorer": "grade", "filter": {"kind": "least", "keep": 0.5}} for s in names
    }
    optimisation = {"lr": 1e-4, "batch": 16, "epochs": 1}
    raw: dict[str, Any] = {
        "name": "synthetic",
        "description": "random numbers",
        "seed": 0,
        "seeds": list(range(n_seeds)),
        "datasets": {
            "hh": {
                "adaptor": "hh_rlhf",
                "world": {"dialogues": 4 * n_prompts},
                "splits": {"sft": n_prompts, "pool": n_prompts, "validation": 0, "test": n_prompts},
            }
        },
        "models": {"pocket": {"path": "./none", "max_length": 128, "sft": optimisation}},
        "pools": {"sft": {"kind": "policy", "n_responses": 32, "max_new_tokens": 8}},
        "scorers": {"grade": {"kind": "grade"}},
        "selections": kept,
        "methods": {"sft": {"train": False}, "selfcontrast": {"sweeps": [{"selections": names, "n": ns}]}},
        "training": optimisation,
        "comparison": {"prompt_set": "common", "negatives": "nested", "budget": "equal_steps"},
        "evaluation": {
            "judge": "grade",
            "samples": n_samples,
            "max_new_tokens": 8,
            "compare_to": ["sft-none-n0", "selfcontrast-least0-n16", "selfcontrast-least0-n1"],
        },
        "figures": {"scaling": "selfcontrast-least0", "ablation_n": 4},
    }
    return parse_study(raw, where="benchmarks/bench_tables.py")


def write(folder: Path, tables: dict[str, dict[str, list[Any]]], report: dict[str, Any]) -> None:
    """Write the outputs of a step with a manifest."""
    for name, columns in tables.items():
        artifacts.write_table(folder / name, columns)
    hashes = {name: artifacts.sha256(folder / name) for name in tables}
    artifacts.write_json(folder / "manifest.json", {"inputs": {}, "outputs": hashes, "report": report})


def write_history(folder: Path, records: list[dict[str, float]]) -> None:
    """Write the history of a training with a manifest."""
    artifacts.write_jsonl(folder / "history.jsonl", records)
    outputs = {"history.jsonl": artifacts.sha256(folder / "history.jsonl")}
    artifacts.write_json(folder / "manifest.json", {"inputs": {}, "outputs": outputs, "report": {}})


def _text(rng: np.random.Generator, mean: int) -> str:
    """Return words of about so many characters, with what HTML would read as marks."""
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), max(1, int(rng.normal(mean, mean / 4)) // 6)))


def write_results(study: Study, root: Path) -> None:
    """Write what the step reads."""
    rng = np.random.default_rng(0)
    layout, arms = Layout(root, "hh", "pocket"), arms_of(study, "hh")
    n, k = study.datasets["hh"].splits.test, study.evaluation.samples
    ids = [f"{i:064x}" for i in range(n)]
    kept = {"records": n, "dropped": {}, "kept": n}
    artifacts.write_json(
        root / "hh" / "prompts" / "manifest.json", {"inputs": {"records": "0" * 64}, "outputs": {}, "report": kept}
    )
    write(
        layout.prompts.parent,
        {
            "test.parquet": {
                "prompt_id": ids,
                "prompt": [_text(rng, 200) for _ in ids],
                "target": [_text(rng, 400) for _ in ids],
            }
        },
        {"dropped": {}, "prompts": {"test": n}, "unused": 0},
    )
    write(layout.lint.parent, {}, {"findings": {"error": 0}})
    hard = rng.normal(0, 0.3, (n, 1))
    target = rng.random(n)
    history = [
        {"step": t, "loss": 1 / (t + 1), "margin": 0.1 * t, "accuracy": 0.5, "grad_norm": 1.0, "lr": 1e-4}
        for t in range(100)
    ]
    write_history(layout.base / "sft", history)
    for i, arm in enumerate(arms.values()):
        for seed in study.seeds:
            score = 0.5 + 0.002 * i + rng.normal(0, 0.01) + hard + rng.normal(0, 0.2, (n, k))
            answers = {
                "prompt_id": [p for p in ids for _ in range(k)],
                "response_id": [f"eval.{j}" for _ in ids for j in range(k)],
                "text": [_text(rng, 300) for _ in range(n * k)],
                "n_tokens": rng.poisson(60, n * k).tolist(),
            }
            scores = {
                "prompt_id": [p for p in ids for _ in range(k + 1)],
                "response_id": [r for _ in ids for r in [*(f"eval.{j}" for j in range(k)), TARGET]],
                "score": np.column_stack([score, target]).ravel().tolist(),
            }
            e = study.evaluation
            write(layout.answers(arm.id, seed, e.split).parent, {"responses.parquet": answers}, {})
            write(layout.answer_scores(arm.id, seed, e.split, e.judge).parent, {"scores.parquet": scores}, {})
            if arm.is_trained:
                write_history(layout.policy(arm.id, seed, is_trained=True).parent, history)
                report = {
                    "prompts": n,
                    "groups": n,
                    "too_few_candidates": 0,
                    "candidates_min": 16,
                    "candidates_mean": 16,
                }
                report |= {"realised_fraction": 0.5, "answers_left_out": {}}
                write(layout.groups(arm.selection, arm.n, seed).parent, {}, report)
    negatives = {"selection": ["least0"], "n": [1], "seed": [0], "truth": ["grade"]}
    write(layout.negatives.parent, {"negatives.parquet": negatives, "histograms.parquet": negatives}, {})


def write_cost(root: Path) -> None:
    """Write what the report reads beside the tables: the cost, and a figure."""
    for name, text in {
        "cost/cost.tsv": "stage\tjobs\twall_s\ntrain\t297\t9000.0\n",
        "figures/scaling/scaling.svg": "<svg/>",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
        outputs = {path.name: artifacts.sha256(path)}
        artifacts.write_json(path.parent / "manifest.json", {"inputs": {}, "outputs": outputs, "report": {}})


def main() -> int:
    """Print seconds, peak memory and size of both steps; return 1 if one is more than it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=805)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="copy report.html to this path")
    args = parser.parse_args()
    study = study_of(args.arms, args.prompts, args.seeds, args.samples)
    folder = Path(tempfile.mkdtemp())
    try:
        root = folder / "results" / "synthetic"
        write_results(study, root)
        artifacts.write_json(root / "summary" / "spec.json", expand_specs(study)["summary"])
        out = root / "tables" / "manifest.json"
        command = [sys.executable, "-m", "selfcontrast.steps.tables", "--spec", str(root / "summary" / "spec.json")]
        command += ["--lock", str(ROOT / "requirements.lock"), "--out", str(out)]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        write_cost(root)
        page = root / "report" / "manifest.json"
        command = [sys.executable, "-m", "selfcontrast.steps.report", "--spec", str(root / "summary" / "spec.json")]
        command += [
            "--tables",
            str(out),
            "--cost",
            str(root / "cost" / "manifest.json"),
            "--citation",
            str(ROOT / "CITATION.cff"),
        ]
        command += ["--figures", str(root / "figures" / "scaling" / "manifest.json"), "--out", str(page)]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        runs = {
            step.parent.name: json.loads((step.parent / "run.json").read_text(encoding="utf-8")) for step in (out, page)
        }
        report = json.loads(page.read_text(encoding="utf-8"))["report"]
        if args.keep:
            shutil.copyfile(root / "report.html", args.keep)
    finally:
        shutil.rmtree(folder)
    print(f"{len(arms_of(study, 'hh'))} arms, {args.prompts} prompts, {args.seeds} seeds, {args.samples} answer(s)")
    for name, run in runs.items():
        print(f"{name}: {run['wall_s']:.1f} s ({run['cpu_s']:.1f} s of processor), {run['peak_rss_mb']} MiB")
    size = report["bytes"] / 2**20
    print(
        f"report.html: {size:.1f} MiB, texts of {report['prompts_shown']['hh/pocket']} prompts, {report['texts']} texts"
    )
    seconds, memory = sum(r["wall_s"] for r in runs.values()), max(r["peak_rss_mb"] for r in runs.values())
    return 0 if seconds <= MOST_SECONDS and memory <= MOST_MB and size <= MOST_PAGE_MB else 1


if __name__ == "__main__":
    sys.exit(main())
