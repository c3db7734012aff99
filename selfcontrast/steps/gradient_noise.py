"""Measure how the variance of a prompt's gradient falls with the number of negatives, at the SFT model.

In: the split pool, a pool, the SFT model. Out: gradient.parquet. One GPU for large models, with room for weights and one
gradient; seconds to a minute on one CPU core for `tiny`: a backward pass for each response. Finished prompts are kept until
the table is written.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfcontrast import cli
from selfcontrast.errors import InputError
from selfcontrast.finite import name_of_model, require_finite
from selfcontrast.seeds import derive_seed
from selfcontrast.threads import use_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--pool", type=Path, required=True, metavar="MANIFEST", help="of the step gather_pool")
    parser.add_argument("--policy", type=Path, required=True, metavar="MANIFEST", help="of the step sft")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the curve."""
    import numpy as np

    from selfcontrast.attention import check_model
    from selfcontrast.checkpoints import load_model
    from selfcontrast.chunks import Chunks, software
    from selfcontrast.gradient_noise import WIDTH, Sketch, pair_gradients, variance_curve

    use_threads(args.threads)
    spec = step.spec
    split = step.open(args.prompts).table("pool.parquet", ["prompt_id", "prompt_ids", "target_ids"])
    pool = step.open(args.pool).table("responses.parquet", ["prompt_id", "response_ids"])
    responses: dict[str, list[list[int]]] = {i: [] for i in split["prompt_id"]}
    for prompt_id, ids in zip(pool["prompt_id"], pool["response_ids"], strict=True):
        if ids:  # a response without a token has no gradient
            responses[prompt_id].append(ids)
    enough = [i for i, p in enumerate(split["prompt_id"]) if len(responses[p]) >= spec["negatives"]]
    if len(enough) < 2:
        raise InputError(
            f"a variance over prompts needs two prompts with {spec['negatives']} responses",
            found=f"{len(enough)}",
            where=str(args.pool),
            remedy="lower figures.gradient.negatives",
        )
    taken = sorted(random.Random(spec["seed"]).sample(enough, min(spec["prompts"], len(enough))))
    folder = step.open(args.policy).path("model")
    model = load_model(folder, dtype=spec["dtype"], trust_remote_code=spec["trust_remote_code"])
    check_model(model)
    model.eval()
    sketch = Sketch(WIDTH, derive_seed(spec["seed"], "sketch"))
    chunks = Chunks.open(
        step.folder / ".chunks",
        spec=spec,
        inputs=step.inputs,
        software=software(
            ("gradient_noise", "logprobs", "attention", "lm_head", "checkpoints"), ("torch", "transformers")
        ),
    )

    def gradients_of(i: int) -> NDArray:
        """Return the sketched gradients of one prompt's pairs, kept until the table is written."""
        name = f"prompt-{i:09d}"
        if (stored := chunks.find(name)) is not None:
            return np.array(stored["gradient"], np.float32)
        prompt_id = split["prompt_id"][i]
        negatives = responses[prompt_id][: spec["negatives"]]
        found = pair_gradients(model, split["prompt_ids"][i], split["target_ids"][i], negatives, sketch)
        total = float(found.sum(dtype=np.float64))
        whose = f"prompt {prompt_id}"
        require_finite([total], "the sum of the gradients of its pairs", whose, model=name_of_model(model))
        chunks.store(name, {"gradient": list(found)})
        return found

    gradients = np.stack([gradients_of(i) for i in taken])
    curve = variance_curve(gradients, n_resamples=RESAMPLES, seed=derive_seed(spec["seed"], "bootstrap"))
    rows = len(curve["n"])
    counts = {"prompts": [len(taken)] * rows, "negatives": [spec["negatives"]] * rows}
    step.write_table("gradient.parquet", {"pool": [spec["pool"]] * rows, **counts, **curve})
    chunks.remove()
    step.report = {"prompts": len(taken), "too_few_responses": len(split["prompt_id"]) - len(enough)}


if __name__ == "__main__":
    cli.leave(main())
