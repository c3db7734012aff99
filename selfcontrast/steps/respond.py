"""Let a policy answer the held-out prompts.

In: a held-out split, the policy. Out: responses.parquet. One GPU at full size; seconds on a CPU for `tiny`. Finished batches
are kept until the table is written: a job that was killed goes on behind them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import cli
from selfcontrast.seeds import derive_seed
from selfcontrast.threads import use_threads


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--split", required=True, help="held-out split to answer")
    parser.add_argument("--policy", type=Path, required=True, metavar="MANIFEST", help="of the policy")
    parser.add_argument(
        "--policy-spec", type=Path, required=True, help="spec of the policy: how its weights are loaded"
    )
    parser.add_argument("--template", required=True, help="chat template of the model")
    parser.add_argument("--seed", type=int, required=True, help="training seed")
    parser.add_argument("--stream", choices=["baseline", "trained"], required=True, help="see work()")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that the job was granted")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the answers.

    All trained policies draw from the same random streams (prompt, sample, seed), so that their differences are not
    blurred by the luck of the draw; the SFT model has streams of its own, so that wins against it are independent.
    """
    from selfcontrast import artifacts
    from selfcontrast.backends import Policy
    from selfcontrast.checkpoints import load_tokenizer, stated_ends
    from selfcontrast.rendering import Renderer
    from selfcontrast.sampling import Request, Sampling, sample_shard, text_ids

    use_threads(args.threads)
    spec = step.spec
    loading = artifacts.read_json(args.policy_spec)
    folder = step.open(args.policy).path("model")
    renderer = Renderer(load_tokenizer(folder, trust_remote_code=loading["trust_remote_code"]), args.template)
    step.join_template(renderer.digest, where=str(folder))
    split = step.open(args.prompts).table(f"{args.split}.parquet", ["prompt_id", "prompt_ids"])
    ids = split["prompt_id"]
    request = Request(
        n=spec["samples"],
        seed_of=lambda i, j: derive_seed(spec["seed"], args.stream, args.seed, ids[i], j),
        sampling=Sampling.within(spec["max_new_tokens"], spec["temperature"], spec["top_p"], spec.get("max_length", 0)),
        eos_ids=renderer.stop_ids(stated_ends(folder)),
        prompts_per_batch=max(1, spec["batch_responses"] // spec["samples"]),
        name_of=lambda i: f"prompt {ids[i]}",
    )
    with Policy(step, folder, loading=loading, gpus=args.gpus) as policy:
        chunks = policy.chunks()
        sampled = sample_shard(split["prompt_ids"], request, policy.sampler, chunks=chunks)
    rows = [(ids[i], f"eval.{j}", a) for i in range(len(ids)) for j, a in enumerate(sampled[i])]
    step.write_table(
        "responses.parquet",
        {
            "prompt_id": [r[0] for r in rows],
            "response_id": [r[1] for r in rows],
            "text": [renderer.response_text(text_ids(r[2])) for r in rows],
            "n_tokens": [len(r[2].ids) - (r[2].finish == "stop") for r in rows],
            "finish": [r[2].finish for r in rows],
        },
    )
    chunks.remove()
    n_cut = sum(r[2].finish == "length" for r in rows)
    step.report = {"responses": len(rows), "cut_by_length": n_cut, **renderer.unreadable()}
    step.cost |= {"sampled_tokens": sum(len(r[2].ids) for r in rows)}


if __name__ == "__main__":
    cli.leave(main())
