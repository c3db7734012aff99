"""Train one arm with one seed: preference training from the SFT model, which is also the reference.

In: groups, pool, reference log-probabilities, the SFT model. Out: model/, history.jsonl. One GPU at full size; 5 to 30 s on
one CPU core for `tiny`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast import artifacts, cli, joins, plugins
from selfcontrast.errors import InputError
from selfcontrast.finite import require_stored
from selfcontrast.records import ELSEWHERE, TARGET, training_column
from selfcontrast.seeds import derive_seed

if TYPE_CHECKING:
    from numpy import ndarray

    from selfcontrast.training.preference import Objective
    from selfcontrast.training.stored import StoredGroups


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
        execution = Execution(job.sharing(groups.longest_row), tokens)
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
    n_shown = len(history) * spec["training"]["batch"]
    step.cost |= {"trained_tokens": round(groups.n_tokens * n_shown / len(groups))}


def _token_groups(args: argparse.Namespace, step: cli.Step, objective: Objective) -> StoredGroups:
    """Join groups with tokens and reference log-probabilities by (prompt, response); a missing key is an error.

    Pool and log-probabilities pass through a few rows at a time; what no group names is not kept.
    """
    import numpy as np

    from selfcontrast.ragged import Ragged
    from selfcontrast.training.stored import StoredGroups

    encoded = step.open(args.prompts)
    column = training_column(encoded.manifest)
    split = encoded.arrow("pool.parquet", ["prompt_id", column, "target_ids"])
    prompt_ids = split["prompt_id"].to_pylist()
    response_ids = {TARGET: 0, ELSEWHERE: 1}
    prompts, named, records = _read_groups(args, step, objective, prompt_ids, response_ids)
    keys, n_ids = joins.Keys(prompt_ids, list(response_ids)), len(response_ids)
    members = [p * n_ids + r for p, r in zip(prompts, named, strict=True)]
    wanted = np.unique(np.concatenate(members))
    elsewhere = prompts * n_ids + response_ids[ELSEWHERE]
    drift, shared = objective.needs("drift"), objective.needs("shared")
    scored = np.union1d(wanted, elsewhere) if drift else wanted

    pool = step.open(args.pool).batches("responses.parquet", ["prompt_id", "response_id", "response_ids"])
    row, found = joins.pick(pool, keys, wanted, ["response_ids"])
    is_target = wanted % n_ids == response_ids[TARGET]
    row[is_target] = sum(map(len, found["response_ids"])) + wanted[is_target] // n_ids  # the targets come last
    columns = ["logp", "token_logps"] if shared else ["logp"]
    batches = _reference(args, step).batches("logps.parquet", ["prompt_id", "response_id", *columns])
    scored_row, reference = joins.pick(batches, keys, scored, columns)
    if missing := [*wanted[row < 0], *scored[scored_row < 0]]:
        raise InputError(
            "a response of a group has no reference log-probability",
            found=keys.name(missing[0]),
            where=str(args.ref_logps),
            remedy="delete that file's folder and run snakemake again",
        )
    logp = np.concatenate([column.to_numpy() for column in reference["logp"]])[scored_row]
    require_stored(logp, "a reference log-probability", lambda i: keys.name(scored[i]), where=args.ref_logps)
    of_wanted, of_elsewhere = np.searchsorted(scored, wanted), np.searchsorted(scored, elsewhere)
    targets = Ragged(split["target_ids"].chunks)
    return StoredGroups(
        prompt_ids=[prompt_ids[p] for p in prompts],
        prompts=Ragged(split[column].chunks).take(prompts),
        members=[np.searchsorted(wanted, m) for m in members],
        records=records,
        tokens=Ragged([*found["response_ids"], *split["target_ids"].chunks]).take(row),
        logp=logp[of_wanted],
        token_logps=Ragged(reference["token_logps"]).take(scored_row[of_wanted]) if shared else None,
        elsewhere=(targets.take((prompts + 1) % len(targets)), logp[of_elsewhere]) if drift else None,
    )


def _read_groups(
    args: argparse.Namespace,
    step: cli.Step,
    objective: Objective,
    prompt_ids: Sequence[str],
    response_ids: dict[str, int],
) -> tuple[ndarray, list[ndarray], list[dict[str, Any]]]:
    """Return each group's prompt and responses, chosen first, as numbers, and what else its record holds.

    Args:
        response_ids: the number of each id; new ids are added.
    """
    import numpy as np

    place = {prompt_id: i for i, prompt_id in enumerate(prompt_ids)}
    prompts: list[int] = []
    named: list[ndarray] = []
    records: list[dict[str, Any]] = []
    for row, record in artifacts.read_jsonl(step.open(args.groups).path("groups.jsonl")):
        if objective.needs("score") and record.get("score") is None:
            raise InputError(
                "the objective reads the scores of the negatives, and the selection has no scorer",
                where=f"{args.groups}, row {row}",
                remedy="give the selection a `scorer`, or take another objective",
            )
        for key in ("score", "margin"):
            require_stored(
                record.get(key) or (), f"a {key}", lambda i: f"negative {i + 1}", where=f"{args.groups}, row {row}"
            )
        prompts.append(place[record["prompt_id"]])
        ids = (record["chosen"], *record["rejected"])
        named.append(np.array([response_ids.setdefault(r, len(response_ids)) for r in ids]))
        records.append({key: record[key] for key in ("margin", "score", "weight") if key in record})
    return np.array(prompts), named, records


def _reference(args: argparse.Namespace, step: cli.Step) -> artifacts.Artifact:
    """Return the reference's log-probabilities, or raise InputError if they are stale."""
    artifact = step.open(args.ref_logps)
    for name, digest in artifact.manifest["inputs"].items():
        if step.inputs.get(name, digest) != digest:
            raise InputError(
                "the reference's log-probabilities are stale: they belong to another state of an input",
                found=name,
                where=str(args.ref_logps),
                remedy="delete that file's folder and run snakemake again",
            )
    return artifact


if __name__ == "__main__":
    cli.leave(main())
