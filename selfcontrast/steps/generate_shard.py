"""Make the responses to one shard of the pool's prompts.

In: the split pool, the policy (for pools that sample). Out: shard.parquet. One GPU at full size, or several with vLLM.
Finished batches are kept until the shard is written: a job that was killed goes on behind them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import cli, plugins
from selfcontrast.seeds import derive_seed
from selfcontrast.threads import use_threads


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--policy", type=Path, required=True, metavar="MANIFEST", help="of the model that answers")
    parser.add_argument("--shard", required=True, metavar="I-of-N", help="which part, counted from 1")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that the job was granted")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the responses of the shard, in prompt order."""
    from selfcontrast.backends import Policy
    from selfcontrast.checkpoints import load_tokenizer, stated_ends
    from selfcontrast.pools._context import PoolContext, PoolPrompt
    from selfcontrast.rendering import Renderer

    use_threads(args.threads)
    spec = step.spec
    shard, shards = (int(x) for x in args.shard.split("-of-"))
    table = step.open(args.prompts).table("pool.parquet", ["prompt_id", "prompt_ids", "rejected"])
    prompts = [
        PoolPrompt(i, ids, tuple(r))
        for i, ids, r in zip(table["prompt_id"], table["prompt_ids"], table["rejected"], strict=True)
    ]
    folder = step.open(args.policy).path("model")
    renderer = Renderer(load_tokenizer(folder, trust_remote_code=spec["trust_remote_code"]), spec["template"])
    step.join_template(renderer.digest, where=str(folder))
    module = plugins.load("pools", spec["kind"])
    with Policy(step, folder, loading=spec, gpus=args.gpus) as policy:
        chunks = policy.chunks()
        context = PoolContext(
            renderer=renderer,
            sampler=policy.sampler,
            seed_of=lambda prompt_id, j: derive_seed(spec["seed"], prompt_id, j),
            max_length=spec.get("max_length", 0),
            chunks=chunks,
            stop_ids=renderer.stop_ids(stated_ends(folder)),
        )
        found = module.respond(prompts, context, module.Params(**spec["params"]), shard=shard, shards=shards)
    rows = [
        (p.prompt_id, f"{spec['pool']}.{j}", r)
        for p in prompts
        if p.prompt_id in found
        for j, r in enumerate(found[p.prompt_id])
    ]
    step.write_table(
        "shard.parquet",
        {
            "prompt_id": [r[0] for r in rows],
            "response_id": [r[1] for r in rows],
            "text": [r[2].text for r in rows],
            "response_ids": [r[2].ids for r in rows],
            "finish": [r[2].finish for r in rows],
        },
    )
    chunks.remove()
    step.report = {"responses": len(rows), **renderer.unreadable()}
    step.cost |= {"sampled_tokens": sum(len(r[2].ids) for r in rows)}


if __name__ == "__main__":
    cli.leave(main())
