"""Train one arm with one seed: preference training from the SFT model, which is also the reference.

In: groups, pool, reference log-probabilities, the SFT model. Out: model/, history.jsonl. One GPU at full size; 5 to 30 s on
one CPU core for `tiny`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from selfcontrast import artifacts, cli, plugins
from selfcontrast.errors import InputError
from selfcontrast.records import ELSEWHERE, TARGET, training_column
from selfcontrast.seeds import derive_seed

if TYPE_CHECKING:
    from selfcontrast.training.groups import TokenGroup
    from selfcontrast.training.preference import Objective

_Value = TypeVar("_Value")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--pool", type=Path, required=True, metavar="MANIFEST", help="of the step gather_pool")
    parser.add_argument("--groups", type=Path, required=True, metavar="MANIFEST", help="of the step select_groups")
    parser.add_argument("--ref-logps", type=Path, required=True, metavar="MANIFEST", help="of the step gather_logps")
    parser.add_argument("--policy", type=Path, required=True, metavar="MANIFEST", help="of the model to start from")
    parser.add_argument("--seed", type=int, required=True, help="training seed")
    cli.add_execution_flags(parser)
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Train and save the policy."""
    from selfcontrast.training.job import Job
    from selfcontrast.training.preference import Execution, Objective, train_preference

    spec = step.spec
    policy = step.open(args.policy)
    module = plugins.load("objectives", spec["objective"]["kind"])
    objective = Objective(module, module.Params(**spec["objective"]["params"]), spec["sft_weight"])
    groups = _token_groups(args, step, objective)
    job = Job.start(policy.path("model"), args, step)
    training, tokens = spec["training"], args.tokens or None
    length: dict[str, int] = {"n_steps": spec["n_steps"], "seed": derive_seed(args.seed, "batches")}
    if training["trainer"] == "trl":
        from selfcontrast.training.trl import train_dpo_with_trl

        beta = spec["objective"]["params"]["beta"]
        history = train_dpo_with_trl(job.model, job.tokenizer, groups, training, beta=beta, tokens=tokens, **length)
    else:
        longest = max(len(g.prompt_ids) + max(g.lengths) for g in groups)
        execution = Execution(job.sharing(longest), tokens)
        history = train_preference(
            job.engine,
            groups,
            objective,
            training,
            **length,
            execution=execution,
            store=job.store,
            monitor=job.monitor(),
        )
    job.finish(history)
    step.report = {
        "groups": len(groups),
        "steps": len(history),
        "seed": args.seed,
        "first_loss": history[0]["loss"],
        "last": {k: v for k, v in history[-1].items() if k != "step"},
    }
    per_epoch = sum(sum(g.lengths) for g in groups)
    step.cost |= {"trained_tokens": round(per_epoch * len(history) * spec["training"]["batch"] / len(groups))}


def _token_groups(args: argparse.Namespace, step: cli.Step, objective: Objective) -> list[TokenGroup]:
    """Join groups with tokens and reference log-probabilities by (prompt, response); a missing key is an error."""
    from selfcontrast.training.groups import Elsewhere, TokenGroup

    encoded = step.open(args.prompts)
    column = training_column(encoded.manifest)
    split = encoded.table("pool.parquet", ["prompt_id", column, "target_ids"])
    pool = step.open(args.pool).table("responses.parquet", ["prompt_id", "response_id", "response_ids"])
    prompts = dict(zip(split["prompt_id"], split[column], strict=True))
    targets = dict(zip(split["prompt_id"], split["target_ids"], strict=True))
    tokens = dict(zip(zip(pool["prompt_id"], pool["response_id"], strict=True), pool["response_ids"], strict=True))
    tokens |= {(i, TARGET): ids for i, ids in targets.items()}
    reference = _Reference(args, step, tokens=objective.needs("shared"))
    following = dict(zip(split["prompt_id"], [*split["prompt_id"][1:], split["prompt_id"][0]], strict=True))
    groups = []
    for row, record in artifacts.read_jsonl(step.open(args.groups).path("groups.jsonl")):
        prompt_id = record["prompt_id"]
        keys = [(prompt_id, r) for r in (record["chosen"], *record["rejected"])]
        if objective.needs("score") and record.get("score") is None:
            raise InputError(
                "the objective reads the scores of the negatives, and the selection has no scorer",
                where=f"{args.groups}, row {row}",
                remedy="give the selection a `scorer`, or take another objective",
            )
        elsewhere = None
        if objective.needs("drift"):
            elsewhere = Elsewhere(targets[following[prompt_id]], reference.logp((prompt_id, ELSEWHERE)))
        groups.append(
            TokenGroup(
                prompts[prompt_id],
                [reference.known(k, tokens) for k in keys],
                [reference.logp(k) for k in keys],
                [reference.token_logps[k] for k in keys] if objective.needs("shared") else None,
                margin=record.get("margin", ()),
                score=record.get("score"),
                weight=record.get("weight", 1.0),
                elsewhere=elsewhere,
            )
        )
    return groups


class _Reference:
    """The reference's log-probabilities by (prompt, response)."""

    def __init__(self, args: argparse.Namespace, step: cli.Step, *, tokens: bool) -> None:
        columns = ["prompt_id", "response_id", "logp", *(["token_logps"] if tokens else [])]
        artifact = step.open(args.ref_logps)
        for name, digest in artifact.manifest["inputs"].items():
            if step.inputs.get(name, digest) != digest:
                raise InputError(
                    "the reference's log-probabilities are stale: they belong to another state of an input",
                    found=name,
                    where=str(args.ref_logps),
                    remedy="delete that file's folder and run snakemake again",
                )
        stored = artifact.table("logps.parquet", columns)
        keys = list(zip(stored["prompt_id"], stored["response_id"], strict=True))
        self._where = str(args.ref_logps)
        self._sums = dict(zip(keys, stored["logp"], strict=True))
        self.token_logps = dict(zip(keys, stored["token_logps"], strict=True)) if tokens else {}

    def logp(self, key: tuple[str, str]) -> float:
        """Return the log-probability of a response, in nats."""
        return self.known(key, self._sums)

    def known(self, key: tuple[str, str], table: dict[tuple[str, str], _Value]) -> _Value:
        """Return what a table holds for a response, or raise InputError."""
        if key not in table:
            raise InputError(
                "a response of a group has no reference log-probability",
                found=f"{key[1]} of prompt {key[0]}",
                where=self._where,
                remedy="delete that file's folder and run snakemake again",
            )
        return table[key]


if __name__ == "__main__":
    cli.leave(main())
