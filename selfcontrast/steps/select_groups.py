"""Choose the chosen and the n rejected responses of every prompt, by response id.

In: the split pool, the pool, its scores (for selections that use them). Out: groups.jsonl. CPU, seconds; no tensor library.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import artifacts, cli
from selfcontrast.errors import InputError
from selfcontrast.records import Answer, PromptPool
from selfcontrast.seeds import derive_seed
from selfcontrast.selection import Draw, Selected, select_groups


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--pool", type=Path, required=True, metavar="MANIFEST", help="of the step gather_pool")
    parser.add_argument("--scores", type=Path, metavar="MANIFEST", help="of the step score_pool")
    parser.add_argument("--seed", type=int, required=True, help="training seed")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the groups."""
    spec = step.spec
    pools = _pools(args, step)
    # A data set with fewer annotated answers than common_n, in a study with others that have more, is not asked for it.
    reserve = spec["common_n"] if max(len(p.answers) for p in pools) >= spec["common_n"] else 0
    draw = Draw(spec["n"], reserve, spec["nested"], derive_seed(spec["seed"], args.seed))
    selected = select_groups(pools, draw, kind=spec["kind"], params=spec["params"])
    if not selected.groups:
        raise InputError(
            f"no prompt has {max(draw.n, draw.common_n)} candidates for negatives",
            found=f"at most {max(selected.n_candidates, default=0)} candidates; answers left out: {dict(selected.left_out)}",
            where=str(args.pool),
            remedy="lower n or comparison.common_n, keep more in the filter, or raise n_responses of the pool",
        )
    score = {(p.prompt_id, a.response_id): a.score for p in pools for a in p.answers} if args.scores else None
    artifacts.write_jsonl(
        step.folder / "groups.jsonl",
        (
            {
                "prompt_id": g.prompt_id,
                "chosen": g.chosen,
                "rejected": g.rejected,
                "score": score and [score[g.prompt_id, r] for r in g.rejected],
            }
            for g in selected.groups
        ),
    )
    step.add_output("groups.jsonl")
    step.report = {"common_n": reserve, **_report(selected)}


def _pools(args: argparse.Namespace, step: cli.Step) -> list[PromptPool]:
    split = step.open(args.prompts).table("pool.parquet", ["prompt_id", "target"])
    table = step.open(args.pool).table("responses.parquet", ["prompt_id", "response_id", "text"])
    scores: dict[tuple[str, str], float] = {}
    if args.scores is not None:
        scored = step.open(args.scores).table("scores.parquet")
        scores = dict(zip(zip(scored["prompt_id"], scored["response_id"], strict=True), scored["score"], strict=True))
    answers: dict[str, list[Answer]] = {i: [] for i in split["prompt_id"]}
    for prompt_id, response_id, text in zip(table["prompt_id"], table["response_id"], table["text"], strict=True):
        score = scores.get((prompt_id, response_id))
        if args.scores is not None and score is None:
            raise InputError(
                "a response has no score",
                found=f"{response_id} of prompt {prompt_id}",
                where=str(args.scores),
                remedy="delete the scores and run snakemake again",
            )
        answers[prompt_id].append(Answer(response_id, text, score))
    return [PromptPool(i, t, tuple(answers[i])) for i, t in zip(split["prompt_id"], split["target"], strict=True)]


def _report(selected: Selected) -> dict[str, object]:
    n_prompts = len(selected.n_candidates)
    shares = [c / max(1, a) for c, a in zip(selected.n_candidates, selected.n_answers, strict=True)]
    return {
        "prompts": n_prompts,
        "groups": len(selected.groups),
        "too_few_candidates": len(selected.short),
        "answers_left_out": dict(sorted(selected.left_out.items())),
        "candidates_min": min(selected.n_candidates),
        "candidates_mean": round(sum(selected.n_candidates) / n_prompts, 4),
        "realised_fraction": round(sum(shares) / n_prompts, 4),
    }


if __name__ == "__main__":
    cli.leave(main())
