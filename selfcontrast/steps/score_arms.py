"""Score the answers of every arm and seed to a held-out split, and its SFT targets, with one scorer beside the judge.

In: the split, the answers of all arms. Out: scores/, a table for each arm and seed. One GPU for large reward models; on a CPU
core a millisecond for each text of `tiny`. A model is loaded once, and a text that several arms answer is read once. Finished
blocks are kept until the tables are written.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfcontrast import artifacts, cli
from selfcontrast.errors import StepError
from selfcontrast.records import TARGET, Answer, PromptPool
from selfcontrast.scoring import Scorer
from selfcontrast.stored_pools import by_prompt


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--split", required=True, help="split that the answers are to")
    cli.add_model_flags(parser)
    parser.add_argument(
        "--answers",
        type=Path,
        required=True,
        nargs="+",
        metavar="MANIFEST",
        help="of the step respond, one for each table",
    )
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the scores."""
    spec = step.spec
    names = [f"{arm}-s{seed}" for arm in spec["arms"] for seed in spec["seeds"]]
    if len(names) != len(args.answers):
        raise StepError(
            "each arm and seed needs its answers", expected=f"{len(names)} manifests", found=str(len(args.answers))
        )
    split = step.open(args.prompts).table(f"{args.split}.parquet", ["prompt_id", "prompt", "target"])
    prompt_ids = split["prompt_id"]
    tables = {}
    for name, manifest in zip(names, args.answers, strict=True):
        answers = step.open(manifest).path("responses.parquet")
        tables[name] = list(by_prompt(prompt_ids, answers, ["response_id", "text"]))
    pools = [
        PromptPool(prompt_id, target, tuple(Answer(TARGET if text == target else "", text) for text in texts))
        for prompt_id, target, texts in zip(prompt_ids, split["target"], _texts(tables, split["target"]), strict=True)
    ]
    scorer = Scorer.open(step, args)
    counts: Counter[str] = Counter()
    scores = [
        {a.text: number for a, number in zip(pool.answers, numbers, strict=True)}
        for pool, numbers in zip(pools, scorer.score(pools, split["prompt"], counts), strict=True)
    ]
    with artifacts.atomic(step.folder / "scores") as folder:
        folder.mkdir()
        for name, table in tables.items():
            rows = [
                (prompt_id, response_id, of_text[text])
                for prompt_id, answers, target, of_text in zip(prompt_ids, table, split["target"], scores, strict=True)
                for response_id, text in (*answers, (TARGET, target))
            ]
            columns = zip(*rows, strict=True)
            artifacts.write_table(
                folder / f"{name}.parquet", dict(zip(("prompt_id", "response_id", "score"), columns, strict=True))
            )
    step.add_output("scores")
    scorer.chunks.remove()
    n_answers = sum(len(answers) for table in tables.values() for answers in table)
    n_read = sum(len(pool.answers) for pool in pools)
    step.report = {"prompts": len(pools), "responses": n_answers, "distinct_texts": n_read, **counts}
    step.report |= cli.commit_of(step, args.fetched)


def _texts(tables: dict[str, list[list[tuple[Any, ...]]]], targets: Sequence[str]) -> list[list[str]]:
    """Return the different texts that answer each prompt, its target among them."""
    return [
        list(dict.fromkeys([target, *(text for table in tables.values() for _, text in table[i])]))
        for i, target in enumerate(targets)
    ]


if __name__ == "__main__":
    cli.leave(main())
