"""Describe the negatives of every selection, n and seed of one data set and model, and how alike to the target they are.

In: the split pool, pools, their scores, groups. Out: negatives.parquet, histograms.parquet. CPU, about as long as selecting
the groups of every selection once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast import artifacts, cli, plugins
from selfcontrast.layout import Layout
from selfcontrast.seeds import derive_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from selfcontrast.negatives import Pool, Scores


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    return cli.run_step(cli.step_parser(__doc__).parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write both tables."""
    diagnosis = _Diagnosis(step)
    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for selection in step.spec["selections"]:
        for n in selection["n"]:
            for seed in step.spec["seeds"]:
                head = {"selection": selection["id"], "n": n, "seed": seed}
                rows.append(head | diagnosis.describe(selection, n, seed))
            bars += diagnosis.histograms(selection, n)
    for name, table in (("negatives", rows), ("histograms", bars)):
        columns = list(table[0]) if table else []
        step.write_table(f"{name}.parquet", {c: [row[c] for row in table] for c in columns})
    step.report = {"selections": len(step.spec["selections"]), "rows": len(rows)}


class _Diagnosis:
    """The files of one data set and model, each read once."""

    def __init__(self, step: cli.Step) -> None:
        model = step.folder.parent
        self.step, self.layout = step, Layout(model.parents[1], model.parent.name, model.name)
        # Every pool and score serves several selections.
        self.pool, self.scores = cache(self._pool), cache(self._scores)

    def describe(self, selection: dict[str, Any], n: int, seed: int) -> dict[str, Any]:
        """Return what the negatives of one selection, n and seed are."""
        from selfcontrast.negatives import describe_negatives, false_share

        pool, truth = self.pool(selection["pool"]), self._truth(selection["pool"])
        groups, report = self._groups(selection["id"], n, seed)
        return {
            "pool": selection["pool"],
            "prompts": report["prompts"],
            "groups": len(groups),
            "truth": self.step.spec["truth"],
            "false_in_pool": false_share(pool, truth),
            **describe_negatives(pool, groups, truth),
            "realised_fraction": report["realised_fraction"],
        }

    def histograms(self, selection: dict[str, Any], n: int) -> list[dict[str, Any]]:
        """Return the similarity of pool, candidates and negatives for the first seed, a row for each bar."""
        import numpy as np

        from selfcontrast.negatives import bin_edges, histogram, negatives_of

        seed, scorer = self.step.spec["seeds"][0], selection["similarity"]
        if scorer is None:
            return []
        pool, score = self.pool(selection["pool"]), self.scores(selection["pool"], scorer).responses
        groups, _ = self._groups(selection["id"], n, seed)
        edges = bin_edges(score)
        parts = {
            "pool": np.arange(len(score)),
            "candidates": self._candidates(selection, n, seed, pool),
            "negatives": negatives_of(pool, groups),
        }
        return [
            {
                "selection": selection["id"],
                "n": n,
                "scorer": scorer,
                "set": name,
                "low": low,
                "high": high,
                "count": int(c),
            }
            for name, rows in parts.items()
            for low, high, c in zip(edges[:-1], edges[1:], histogram(score[rows], edges), strict=True)
        ]

    def _candidates(self, selection: dict[str, Any], n: int, seed: int, pool: Pool) -> NDArray:
        """Return the positions of the responses that the selection offered, by running it once more."""
        import numpy as np

        from selfcontrast.selection import Draw, find_candidates

        module = plugins.load("selections", selection["kind"])
        params = module.Params(**selection["params"])
        draw = Draw(n, 0, selection["nested"], derive_seed(selection["seed"], seed))
        score = self.scores(selection["pool"], selection["scorer"]).responses if selection["scorer"] else None
        return np.array(
            [
                pool.at[prompt.prompt_id, r]
                for prompt in pool.prompts(score)
                for r in find_candidates(prompt, draw, module, params).rejected
            ],
            dtype=int,
        )

    def _groups(self, selection: str, n: int, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        artifact = self._open(self.layout.groups(selection, n, seed))
        return [record for _, record in artifacts.read_jsonl(artifact.path("groups.jsonl"))], artifact.manifest[
            "report"
        ]

    def _truth(self, pool: str) -> Scores | None:
        truth = self.step.spec["truth"]
        return None if truth is None else self.scores(pool, truth)

    def _scores(self, pool: str, scorer: str) -> Scores:
        from selfcontrast.negatives import scores_of

        return scores_of(self.pool(pool), self._open(self.layout.pool_scores(pool, scorer)).table("scores.parquet"))

    def _pool(self, pool: str) -> Pool:
        import numpy as np

        from selfcontrast.negatives import Pool

        prompts, responses = self._open(self.layout.prompts), self._open(self.layout.pool(pool))
        split = prompts.table("pool.parquet", ["prompt_id", "target"])
        table = responses.table("responses.parquet", ["prompt_id", "response_id", "text"])
        place = {p: i for i, p in enumerate(split["prompt_id"])}
        return Pool(
            split["prompt_id"],
            split["target"],
            np.array(prompts.lengths("pool.parquet", "target_ids")),
            np.array([place[p] for p in table["prompt_id"]], dtype=int),
            table["response_id"],
            table["text"],
            np.array(responses.lengths("responses.parquet", "response_ids")),
        )

    def _open(self, manifest: Path) -> artifacts.Artifact:
        """Open an artifact and note it as an input under its whole path: there is one of each name for every selection."""
        artifact = artifacts.Artifact.open(manifest)
        self.step.inputs[manifest.parent.relative_to(self.layout.root).as_posix()] = artifact.digest
        return artifact


if __name__ == "__main__":
    cli.leave(main())
