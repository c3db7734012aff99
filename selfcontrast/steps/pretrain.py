"""Train the small base model of the embedded study from scratch on the pocket world, answers of mixed quality.

Out: model/. CPU, about two minutes on two cores at the size of the study `tiny`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

from selfcontrast import cli
from selfcontrast.threads import use_threads


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    return cli.run_step(cli.step_parser(__doc__).parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Train and save the model."""
    from selfcontrast.checkpoints import save_checkpoint
    from selfcontrast.records import Message
    from selfcontrast.rendering import Renderer
    from selfcontrast.training.engine import Engine
    from selfcontrast.training.sft import Example, train_sft
    from selfcontrast.world.checkpoint import build_model, build_tokenizer
    from selfcontrast.world.dialogues import draw_question, mixed_answer

    use_threads(args.threads)
    spec = step.spec
    tokenizer = build_tokenizer(max_length=spec["max_length"])
    renderer = Renderer(tokenizer, "tokenizer")
    rng = random.Random(spec["seed"])
    examples = []
    for _ in range(spec["prompts"]):
        question = draw_question(rng)
        messages = [Message(r, c) for r, c in [*question.history, ("user", question.text)]]
        answers = [mixed_answer(rng, question, share_good=spec["share_good"]) for _ in range(spec["answers"])]
        examples.append(Example(renderer.prompt_ids(messages), [renderer.response_ids(a) for a in answers]))
    sizes = {k: spec[k] for k in ("n_layers", "width", "n_heads", "max_length")}
    model = build_model(**sizes, seed=spec["seed"] % 2**32)
    training = spec["training"]
    n_steps = max(1, round(training["epochs"] * len(examples) / training["batch"]))
    engine = Engine(model, clip=training["clip"])
    history = train_sft(engine, examples, training, n_steps=n_steps, seed=spec["seed"])
    save_checkpoint(step.folder / "model", model, tokenizer)
    step.add_output("model")
    step.report = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "steps": n_steps,
        "last_loss": history[-1]["loss"],
    }


if __name__ == "__main__":
    cli.leave(main())
