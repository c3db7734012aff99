"""Make the tables of a large study from synthetic answers: time and peak memory of the step `tables`.

    python benchmarks/bench_tables.py

100 arms, 805 prompts and 3 seeds by default, with 5,000 resamples. The answers are random numbers; the files, their
hashes and everything that the step computes are those of a real study. Exit code 1 above 60 s or 1 GiB.
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
from selfcontrast.sweep import arms_of, expand_specs

ROOT = Path(__file__).resolve().parents[1]
MOST_SECONDS, MOST_MB = 60.0, 1024


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


def write_results(study: Study, root: Path) -> None:
    """Write what the step reads."""
    rng = np.random.default_rng(0)
    layout, arms = Layout(root, "hh", "pocket"), arms_of(study, "hh")
    n, k = study.datasets["hh"].splits.test, study.evaluation.samples
    ids = [f"{i:064x}" for i in range(n)]
    kept = {"records": n, "dropped": {}, "kept": n}
    write(root / "hh" / "prompts", {}, kept)
    write(
        layout.prompts.parent,
        {"test.parquet": {"prompt_id": ids}},
        {"dropped": {}, "prompts": {"test": n}, "unused": 0},
    )
    hard = rng.normal(0, 0.3, (n, 1))
    target = rng.random(n)
    for i, arm in enumerate(arms.values()):
        for seed in study.seeds:
            score = 0.5 + 0.002 * i + rng.normal(0, 0.01) + hard + rng.normal(0, 0.2, (n, k))
            answers = {
                "prompt_id": [p for p in ids for _ in range(k)],
                "response_id": [f"eval.{j}" for _ in ids for j in range(k)],
                "text": ["An answer of some length, as they are."] * (n * k),
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


def main() -> int:
    """Print seconds and peak memory of the step; return 1 if it needs more than it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=805)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1)
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
        run = json.loads((out.parent / "run.json").read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(folder)
    print(
        f"{len(arms_of(study, 'hh'))} arms, {args.prompts} prompts, {args.seeds} seeds, {args.samples} answer(s): "
        f"{run['wall_s']:.1f} s ({run['cpu_s']:.1f} s of processor), {run['peak_rss_mb']} MiB"
    )
    return 0 if run["wall_s"] <= MOST_SECONDS and run["peak_rss_mb"] <= MOST_MB else 1


if __name__ == "__main__":
    sys.exit(main())
