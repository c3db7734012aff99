"""Run a policy on the tasks of lm-evaluation-harness.

In: the policy, and definitions of tasks where they are not the harness' own. Out: results.json, every task with its numbers,
standard errors and the hash of its definition; samples.jsonl, one row for each question. One GPU at full size; the network
only for tasks whose data are on the hub and not in its cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from selfcontrast import cli
from selfcontrast.task_pins import HARNESS, POCKET_TASKS
from selfcontrast.threads import use_threads

_MODULES = ("checkpoints", "harness/policy", "harness/resuming", "harness/running")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--policy", type=Path, required=True, metavar="MANIFEST", help="of the policy")
    parser.add_argument(
        "--policy-spec", type=Path, required=True, help="spec of the policy: how its weights are loaded"
    )
    parser.add_argument("--template", required=True, help="chat template of the model")
    parser.add_argument("--pocket", type=Path, metavar="MANIFEST", help="of the step pocket_tasks")
    parser.add_argument("--folder", type=Path, help="definitions of tasks of the user's own")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the results."""
    from selfcontrast import artifacts
    from selfcontrast.checkpoints import load_model, load_tokenizer, reset_generation, stated_ends
    from selfcontrast.chunks import RENDERING, Chunks, software
    from selfcontrast.harness.running import run_tasks
    from selfcontrast.rendering import Renderer
    from selfcontrast.sources import content_hash, task_files

    use_threads(args.threads)
    spec = step.spec
    loading = artifacts.read_json(args.policy_spec)
    checkpoint = step.open(args.policy).path("model")
    renderer = Renderer(load_tokenizer(checkpoint, trust_remote_code=loading["trust_remote_code"]), args.template)
    step.join_template(renderer.digest, where=str(checkpoint))
    renderer.tokenizer.chat_template = renderer.chat
    tasks = args.folder
    if args.pocket is not None:
        tasks = step.open(args.pocket).path("tasks")
    elif tasks is not None:
        step.inputs["folder"] = content_hash([artifacts.sha256(file) for file in task_files(tasks)])
    # Data of the hub stay in its cache for later jobs; the pocket world's have no business there.
    is_pocket = set(spec["tasks"]) <= set(POCKET_TASKS)
    chunks = Chunks.open(
        (step.folder / ".chunks").resolve(),  # tasks are run from their own folder
        spec=spec,
        inputs=step.inputs,
        loading=loading,
        template=renderer.digest,
        software=software((*_MODULES, *RENDERING), ("torch", "transformers", "lm_eval")),
    )
    model = load_model(checkpoint, dtype=loading["dtype"], trust_remote_code=loading["trust_remote_code"])
    reset = reset_generation(model, sorted(renderer.stop_ids(stated_ends(checkpoint))))
    with artifacts.scratch(step.folder / "cache") if is_pocket else nullcontext() as cache:
        outcome = run_tasks(model, renderer, spec, folder=tasks, cache=cache, chunks=chunks)
    results = {
        "harness": HARNESS,
        "chat_template": spec["chat_template"],
        "limit": spec["limit"],
        "tasks": outcome.tasks,
    }
    artifacts.write_json(step.folder / "results.json", results)
    step.add_output("results.json")
    artifacts.write_jsonl(step.folder / "samples.jsonl", outcome.samples)
    step.add_output("samples.jsonl")
    chunks.remove()
    step.report = {
        "questions": sum(task["questions"] for task in outcome.tasks.values()),
        **outcome.counts,
        "generation_config_reset": reset,
    }


if __name__ == "__main__":
    cli.leave(main())
