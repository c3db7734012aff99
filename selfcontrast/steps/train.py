"""Train one arm with one seed: preference training from the SFT model, which is also the reference.

In: groups, pool, reference log-probabilities, the SFT model. Out: model/, history.jsonl. One GPU at full size; 5 to 30 s on
one CPU core for `tiny`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfcontrast import artifacts, cli, plugins
from selfcontrast.errors import InputError
from selfcontrast.records import TARGET
from selfcontrast.seeds import derive_seed

if TYPE_CHECKING:
    from selfcontrast.training.preference import TokenGroup


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--pool", type=Path, required=True, metavar="MANIFEST", help="of the step gather_pool")
    parser.add_argument("--groups", type=Path, required=True, metavar="MANIFEST", help="of the step select_groups")
    parser.add_argument("--ref-logps", type=Path, required=True, metavar="MANIFEST", help="of the step ref_logps")
    parser.add_argument("--policy", type=Path, required=True, metavar="MANIFEST", help="of the model to start from")
    parser.add_argument("--seed", type=int, required=True, help="training seed")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Train and save the policy."""
    import torch

    from selfcontrast.checkpoints import load_model, load_tokenizer, save_checkpoint
    from selfcontrast.training.preference import train_preference

    torch.set_num_threads(args.threads)
    spec = step.spec
    groups = _token_groups(args, step)
    policy = step.open(args.policy)
    code = spec["trust_remote_code"]
    model = load_model(policy.path("model"), dtype=spec["dtype"], trust_remote_code=code)
    objective = plugins.load("objectives", spec["objective"]["kind"])
    params = objective.Params(**spec["objective"]["params"])
    seed = derive_seed(args.seed, "batches")
    history = train_preference(model, groups, objective, params, spec["training"], n_steps=spec["n_steps"], seed=seed)
    artifacts.write_jsonl(step.folder / "history.jsonl", history)
    step.add_output("history.jsonl")
    save_checkpoint(step.folder / "model", model, load_tokenizer(policy.path("model"), trust_remote_code=code))
    step.add_output("model")
    step.report = {
        "groups": len(groups),
        "steps": len(history),
        "seed": args.seed,
        "first_loss": history[0]["loss"],
        "last": {k: v for k, v in history[-1].items() if k != "step"},
    }
    per_epoch = sum(len(ids) for g in groups for ids in g.responses)
    step.cost = {"trained_tokens": round(per_epoch * len(history) * spec["training"]["batch"] / len(groups))}


def _token_groups(args: argparse.Namespace, step: cli.Step) -> list[TokenGroup]:
    """Join groups with tokens and reference log-probabilities by (prompt, response); a missing key is an error."""
    from selfcontrast.training.preference import TokenGroup

    split = step.open(args.prompts).table("pool.parquet", ["prompt_id", "prompt_ids", "target_ids"])
    pool = step.open(args.pool).table("responses.parquet", ["prompt_id", "response_id", "response_ids"])
    stored = step.open(args.ref_logps).table("logps.parquet")
    prompts = dict(zip(split["prompt_id"], split["prompt_ids"], strict=True))
    tokens = dict(zip(zip(pool["prompt_id"], pool["response_id"], strict=True), pool["response_ids"], strict=True))
    tokens |= {(i, TARGET): ids for i, ids in zip(split["prompt_id"], split["target_ids"], strict=True)}
    logps = dict(zip(zip(stored["prompt_id"], stored["response_id"], strict=True), stored["logp"], strict=True))
    groups = []
    for _, record in artifacts.read_jsonl(step.open(args.groups).path("groups.jsonl")):
        keys = [(record["prompt_id"], r) for r in (record["chosen"], *record["rejected"])]
        for key in keys:
            if key not in logps or key not in tokens:
                raise InputError(
                    "a response of a group has no reference log-probability",
                    found=f"{key[1]} of prompt {key[0]}",
                    where=str(args.ref_logps),
                    remedy="delete that file's folder and run snakemake again",
                )
        groups.append(TokenGroup(prompts[record["prompt_id"]], [tokens[k] for k in keys], [logps[k] for k in keys]))
    return groups


if __name__ == "__main__":
    cli.leave(main())
