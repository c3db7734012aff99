"""Make the tidy tables of a finished study, and write down what they were made from.

In: every manifest of the study. Out: metrics, comparisons, best, variance, power, trend, data, selections, negatives,
benchmarks, histograms, gradient, similarity, proxy, wins and rewards as .tsv, main.md, main.tex, provenance.json.
CPU, seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfcontrast import __version__, artifacts, cli
from selfcontrast.checkpoint_checks import checkpoints_of, fetch_key
from selfcontrast.schema import Study
from selfcontrast.sweep import benchmark_seeds, expand_arms

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "numpy",
    "pandas",
    "pyarrow",
    "statsmodels",
    "lm_eval",
    "snakemake",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--lock", type=Path, required=True, help="file of locked versions")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the tables."""
    from selfcontrast import evidence, main_table, proxies, tables
    from selfcontrast.cells import read_cells
    from selfcontrast.harness.tables import benchmark_table

    study = Study.model_validate(step.spec["study"])
    cells = read_cells(study, step.folder.parent, step.spec["arms"])
    made = {
        "metrics": tables.metrics_table(cells),
        "benchmarks": benchmark_table(study, [(cell.layout, cell.arms) for cell in cells]),
        "comparisons": tables.comparisons_table(cells),
        "best": evidence.best_table(cells),
        "variance": evidence.variance_table(cells),
        "power": evidence.power_table(cells),
        "trend": evidence.trend_table(cells),
        "data": tables.data_table(cells),
        "selections": tables.selections_table(cells),
        "negatives": evidence.stored_table(cells, lambda cell: cell.layout.negatives, "negatives"),
        "histograms": evidence.stored_table(cells, lambda cell: cell.layout.negatives, "histograms"),
        "gradient": evidence.gradient_table(cells),
        "similarity": tables.similarity_table(cells),
        "proxy": proxies.proxy_table(cells),
        "wins": proxies.wins_table(cells),
        "rewards": proxies.rewards_table(cells),
    }
    for name, table in made.items():
        with artifacts.atomic(step.folder / f"{name}.tsv") as partial:
            table.to_csv(partial, sep="\t", index=False, float_format="%.6g", lineterminator="\n")
        step.add_output(f"{name}.tsv")
    for name, text in (("main.md", main_table.markdown(study, made)), ("main.tex", main_table.latex(study, made))):
        with artifacts.atomic(step.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
        step.add_output(name)
    artifacts.write_json(step.folder / "provenance.json", _provenance(study, step.folder.parent, args.lock))
    step.add_output("provenance.json")


def _provenance(study: Study, root: Path, lock: Path) -> dict[str, Any]:
    """Return versions, seeds, the study as it was understood, and the hash of every manifest of the run."""
    from importlib import metadata

    # Steps may run in environments of their own, so that not every package need be in this one.
    versions = {d.name: d.version for d in metadata.distributions()}
    manifests = sorted(p for p in root.rglob(artifacts.MANIFEST) if _is_current(p.relative_to(root).parts, study))
    commits = _commits(study, root)
    return {
        "selfcontrast": __version__,
        "packages": {p: versions.get(p) for p in PACKAGES},
        "python": ".".join(map(str, sys.version_info[:3])),
        "lock_sha256": artifacts.sha256(lock),
        "seed": study.seed,
        "seeds": list(study.seeds),
        "study": study.model_dump(mode="json"),
        "records": {dataset: _records(study, root, dataset) for dataset in study.datasets},
        **({"checkpoints": commits} if commits else {}),
        "manifests": {p.relative_to(root).as_posix(): artifacts.sha256(p) for p in manifests},
    }


def _commits(study: Study, root: Path) -> dict[str, str]:
    """Return the commit of every checkpoint that was fetched from the hub, by its name in the study."""
    found = {n.name: root / fetch_key(n.name) / artifacts.MANIFEST for n in checkpoints_of(study) if n.is_on_hub}
    return {name: artifacts.read_json(path)["report"]["commit"] for name, path in found.items() if path.is_file()}


def _records(study: Study, root: Path, dataset: str) -> dict[str, str]:
    """Return the hash of a data set's records and, if they came from the hub, the commit."""
    found = {"sha256": artifacts.read_json(root / dataset / "prompts" / artifacts.MANIFEST)["inputs"]["records"]}
    if study.datasets[dataset].hub is not None:
        found["commit"] = artifacts.read_json(root / dataset / "fetch" / artifacts.MANIFEST)["report"]["commit"]
    return found


def _is_current(parts: tuple[str, ...], study: Study) -> bool:
    """Return whether a manifest belongs to the study as it is now, not to an arm or seed that was removed from it."""
    if parts[0] in ("tables", "figures", "cost", "export", "report") or "shards" in parts:
        return False
    if parts[0] == "models" and parts[-2] == "fetch":
        return "/".join(parts[:-1]) in {fetch_key(named.name) for named in checkpoints_of(study) if named.is_on_hub}
    if parts[0] == "judges":
        return parts[1] in study.evaluation.judges
    if parts[-2] == "pocket_tasks":
        return any(benchmark.world for benchmark in study.evaluation.benchmarks.values())
    if "rewards" in parts:
        return parts[parts.index("rewards") + 1] in study.reward_models
    if "arms" in parts:
        arm, seed, *rest = parts[parts.index("arms") + 1 :]
        number, arms = int(seed.removeprefix("s")), expand_arms(study)
        if rest[:1] == ["benchmarks"] and arm in arms:
            return rest[1] in study.evaluation.benchmarks and number in benchmark_seeds(study, rest[1], arms[arm])
        return arm in arms and number in study.seeds
    if "groups" in parts:
        selection, n, seed = parts[parts.index("groups") + 1 :][:3]
        used = {(a.selection, f"n{a.n}") for a in expand_arms(study).values()}
        return (selection, n) in used and int(seed.removeprefix("s")) in study.seeds
    return True


if __name__ == "__main__":
    cli.leave(main())
