"""Choose the chosen and the n rejected responses of every prompt, by response id.

In: the split pool, the pool, its scores (for selections that use them). Out: groups.jsonl. CPU, seconds; no tensor library.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfcontrast import artifacts, cli, plugins
from selfcontrast.errors import InputError
from selfcontrast.records import Group
from selfcontrast.seeds import derive_seed
from selfcontrast.selection import Draw, Selected, select_groups
from selfcontrast.stored_pools import StoredPools, by_prompt


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--pool", type=Path, required=True, metavar="MANIFEST", help="of the step gather_pool")
    parser.add_argument("--scores", type=Path, metavar="MANIFEST", help="of the step score_pool")
    parser.add_argument("--seed", type=int, required=True, help="training seed")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the groups. Responses and scores are read prompt by prompt, the scores of the groups once more."""
    spec = step.spec
    split = step.open(args.prompts).table("pool.parquet", ["prompt_id", "target"])
    responses = step.open(args.pool).path("responses.parquet")
    scores = step.open(args.scores).path("scores.parquet") if args.scores is not None else None
    most = max(len(rows) for rows in by_prompt(split["prompt_id"], responses, ["response_id"]))
    # A data set with too few annotated answers for common_n, in a study with others that have more, is not asked for it.
    can_give = plugins.load("selections", spec["kind"]).largest_n(most, spec["params"]) if most else 0
    reserve = spec["common_n"] if can_give >= spec["common_n"] else 0
    draw = Draw(spec["n"], reserve, spec["nested"], derive_seed(spec["seed"], args.seed))
    pools = StoredPools(split["prompt_id"], split["target"], responses, scores)
    selected = select_groups(pools, draw, kind=spec["kind"], params=spec["params"])
    if not selected.groups:
        raise _no_groups(selected, max(draw.n, draw.common_n), most, str(args.pool))
    artifacts.write_jsonl(step.folder / "groups.jsonl", _records(selected.groups, split["prompt_id"], scores))
    step.add_output("groups.jsonl")
    step.report = {"common_n": reserve, **_report(selected)}


def _no_groups(selected: Selected, needed: int, most: int, where: str) -> InputError:
    """Return the message for a selection that no prompt can serve.

    Args:
        most: answers of the prompt that has most.
    """
    if most == 0:
        found = f"no answer to any of {len(selected.n_answers)} prompts in the pool"
        remedy = (
            "a pool of the kind `annotated` holds the data set's own rejected answers: add some to its records, or take the "
            "arms on this selection out of the study"
        )
    else:
        found = f"at most {max(selected.n_candidates)} candidates, of at most {most} answers to a prompt"
        if reasons := {reason: n for reason, n in sorted(selected.left_out.items()) if n}:
            found += "; answers left out: " + ", ".join(f"{n} {reason}" for reason, n in reasons.items())
        remedy = (
            "lower n or comparison.common_n, keep more in the filter, or have more answers in the pool (n_responses)"
        )
    message = f"no prompt has {needed} candidates for negatives"
    return InputError(message, found=found, where=where, remedy=remedy)


def _records(groups: Sequence[Group], prompt_ids: Sequence[str], scores: Path | None) -> Iterator[dict[str, Any]]:
    """Yield the groups as they are written, with the scores of the negatives where there is a scorer."""
    scored = zip(prompt_ids, by_prompt(prompt_ids, scores, ["response_id", "score"]), strict=True) if scores else None
    for group in groups:
        score = None
        if scored is not None:
            of_response = next(dict(rows) for prompt_id, rows in scored if prompt_id == group.prompt_id)
            score = [of_response[r] for r in group.rejected]
        yield {"prompt_id": group.prompt_id, "chosen": group.chosen, "rejected": group.rejected, "score": score}


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
