"""Fine-tune the base model on the SFT targets; the result is the baseline, the sampler of pools and the reference.

In: the split sft, the base model. Out: model/, history.jsonl. One GPU at full size; seconds on a CPU for `tiny`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import artifacts, cli


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--base", required=True, help="folder or hub id of the base model")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Train and save the model."""
    import torch

    from selfcontrast.checkpoints import load_model, load_tokenizer, save_checkpoint
    from selfcontrast.training.sft import Example, train_sft

    torch.set_num_threads(args.threads)
    spec = step.spec
    table = step.open(args.prompts).table("sft.parquet", ["prompt_ids", "target_ids"])
    examples = [Example(p, [t]) for p, t in zip(table["prompt_ids"], table["target_ids"], strict=True)]
    model = load_model(args.base, dtype=spec["dtype"], trust_remote_code=spec["trust_remote_code"])
    tokenizer = load_tokenizer(args.base, trust_remote_code=spec["trust_remote_code"])
    history = train_sft(model, examples, spec["training"], n_steps=spec["n_steps"], seed=spec["seed"])
    artifacts.write_jsonl(step.folder / "history.jsonl", history)
    step.add_output("history.jsonl")
    save_checkpoint(step.folder / "model", model, tokenizer)
    step.add_output("model")
    step.report = {
        "examples": len(examples),
        "steps": len(history),
        "first_loss": history[0]["loss"],
        "last_loss": history[-1]["loss"],
    }
    per_epoch = sum(len(r) for e in examples for r in e.responses)
    step.cost = {"trained_tokens": round(per_epoch * len(history) * spec["training"]["batch"] / len(examples))}


if __name__ == "__main__":
    cli.leave(main())
