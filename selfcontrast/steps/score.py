"""Score every response of a table with one scorer, and the SFT target of its prompt too.

In: responses (of a pool, or a policy's answers to held-out prompts), the split of their prompts. Out: scores.parquet, where
the target of a prompt has the response id `target`. One GPU for large embedding or reward models; CPU for `tiny`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import cli, plugins
from selfcontrast.records import TARGET, Answer, PromptPool


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--split", required=True, help="split that the responses answer")
    parser.add_argument(
        "--responses", type=Path, required=True, metavar="MANIFEST", help="of the step gather_pool or respond"
    )
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the scores."""
    spec = step.spec
    split = step.open(args.prompts).table(f"{args.split}.parquet", ["prompt_id", "prompt", "target"])
    table = step.open(args.responses).table("responses.parquet", ["prompt_id", "response_id", "text"])
    answers: dict[str, list[Answer]] = {i: [] for i in split["prompt_id"]}
    for prompt_id, response_id, text in zip(table["prompt_id"], table["response_id"], table["text"], strict=True):
        answers[prompt_id].append(Answer(response_id, text))
    pools = [
        PromptPool(i, target, (*answers[i], Answer(TARGET, target)))
        for i, target in zip(split["prompt_id"], split["target"], strict=True)
    ]
    scorer = plugins.load("scorers", spec["kind"])
    scores = scorer.score(pools, split["prompt"], scorer.Params(**spec["params"]))
    step.write_table(
        "scores.parquet",
        {
            "prompt_id": [p.prompt_id for p in pools for _ in p.answers],
            "response_id": [a.response_id for p in pools for a in p.answers],
            "score": [float(s) for row in scores for s in row],
        },
    )
    step.report = {"prompts": len(pools), "responses": len(table["text"]), "distinct_texts": len(set(table["text"]))}


if __name__ == "__main__":
    cli.leave(main())
