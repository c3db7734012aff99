"""Fine-tune the base model on the SFT targets; the result is the baseline, the sampler of pools and the reference.

In: the split sft, the base model. Out: model/, history.jsonl. One GPU at full size; seconds on a CPU for `tiny`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfcontrast import artifacts, cli
from selfcontrast.records import training_column


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--base", required=True, help="folder or hub id of the base model")
    cli.add_fetched_flag(parser)
    cli.add_execution_flags(parser)
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Train and save the model."""
    from selfcontrast.checkpoints import reset_generation, source_of
    from selfcontrast.training.job import Job
    from selfcontrast.training.sft import Example, train_sft

    spec = step.spec
    fetched = cli.commit_of(step, args.fetched)
    if fetched:
        step.open(args.fetched).path("files")  # compares their hash
    if spec["training"] is None:
        _adopt(args, step, fetched)
        return
    prompts = step.open(args.prompts)
    table = prompts.table("sft.parquet", [training_column(prompts.manifest), "target_ids", "prompt_id"])
    examples = [Example(p, [t], name) for p, t, name in zip(*table.values(), strict=True)]
    job = Job.start(args.base, args, step, template=spec["template"])
    source: dict[str, Any] = {**source_of(job.model), **fetched}
    if reset := reset_generation(job.model):
        source["generation_config_reset"] = reset
    training, tokens = spec["training"], args.tokens or None
    length: dict[str, int] = {"n_steps": spec["n_steps"], "seed": spec["seed"]}
    if training["trainer"] == "trl":
        from selfcontrast.training.trl import train_sft_with_trl

        history = train_sft_with_trl(job.model, job.tokenizer, examples, training, tokens=tokens, **length)
    else:
        history = train_sft(
            job.engine, examples, training, **length, tokens=tokens, store=job.store, monitor=job.monitor()
        )
    job.finish(history)
    step.report = {
        "examples": len(examples),
        "steps": len(history),
        "first_loss": history[0]["loss"],
        "last_loss": history[-1]["loss"],
        **source,
    }
    per_epoch = sum(len(e.prompt_ids) + e.n_tokens for e in examples)
    step.cost |= {"trained_tokens": round(per_epoch * len(history) * spec["training"]["batch"] / len(examples))}


def _adopt(args: argparse.Namespace, step: cli.Step, fetched: Mapping[str, str]) -> None:
    """Write the base model as the SFT model: it has been fine-tuned elsewhere. Of several processes the first one does."""
    if not cli.is_first_process():
        return
    from selfcontrast.checkpoints import load_model, load_tokenizer, reset_generation, save_checkpoint, source_of
    from selfcontrast.training.job import fit_to_template

    spec = step.spec
    step.open(args.prompts)
    model = load_model(args.base, dtype=spec["dtype"], trust_remote_code=spec["trust_remote_code"])
    tokenizer = load_tokenizer(args.base, trust_remote_code=spec["trust_remote_code"])
    reset = reset_generation(model)
    new_tokens = fit_to_template(model, tokenizer, step, where=args.base)
    save_checkpoint(step.folder / "model", model, tokenizer)
    step.add_output("model")
    artifacts.write_jsonl(step.folder / "history.jsonl", [])
    step.add_output("history.jsonl")
    step.report = {"examples": 0, "steps": 0, "new_tokens": len(new_tokens), **source_of(model), **fetched}
    if reset:
        step.report["generation_config_reset"] = reset


if __name__ == "__main__":
    cli.leave(main())
