"""Train a reward model from the SFT model, on pairs of pool answers that a scorer has graded.

In: the pool and its scores, the SFT model. Out: model/, a classifier with one label; history.jsonl; the report counts pairs
and says how many of the held-out ones it orders as their labels do. One GPU at full size; half a minute on a CPU core for
`tiny`. A training that was killed starts anew.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from selfcontrast import artifacts, cli, cuts
from selfcontrast.errors import InputError
from selfcontrast.finite import require_finite
from selfcontrast.reward_pairs import PairSets, RewardPair, make_pairs
from selfcontrast.seeds import derive_seed
from selfcontrast.stored_pools import StoredPools
from selfcontrast.threads import use_threads

HELD_OUT_SPLITS = ("validation", "test")

READ_TOKENS = 16384
"""Tokens that run together when pairs are checked."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--pool", type=Path, required=True, metavar="MANIFEST", help="of the step gather_pool")
    parser.add_argument("--labels", type=Path, required=True, metavar="MANIFEST", help="of the step score_pool")
    parser.add_argument("--policy", type=Path, required=True, metavar="MANIFEST", help="of the model to start from")
    parser.add_argument("--tokens", type=int, default=0, help="tokens that run together, padding counted; 0: a batch")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Train, check and save the model."""
    import torch

    from selfcontrast.checkpoints import load_tokenizer, save_checkpoint
    from selfcontrast.rendering import Renderer
    from selfcontrast.reward_models import (
        TRAINED_TEMPLATE,
        load_reward_model,
        new_reward_model,
        render_answers,
        score_rows,
    )
    from selfcontrast.training.trl import train_reward_with_trl

    spec = step.spec
    sets = _pairs(args, step)
    start, code = step.open(args.policy).path("model"), spec["trust_remote_code"]
    use_threads(args.threads)
    tokenizer = load_tokenizer(start, trust_remote_code=code)
    renderer = Renderer(tokenizer, TRAINED_TEMPLATE)
    n_cut = 0
    rendered: dict[str, list[list[int]]] = {"learned": [], "held_out": []}
    for name, rows in rendered.items():
        for pair in getattr(sets, name):
            ids, cut = render_answers(renderer, pair.prompt, (pair.chosen, pair.rejected), longest=spec["max_length"])
            rows += ids
            n_cut += cut
    remedy = (
        f"the reward model reads {spec['max_length']} tokens of a prompt and answer: raise `max_length` of the model"
    )
    cuts.count_cut(Counter(), cuts.BY_REWARD_MODEL, n_cut, sum(map(len, rendered.values())), remedy=remedy)
    pad = tokenizer.pad_token_id
    model = new_reward_model(
        start,
        pad_id=tokenizer.eos_token_id if pad is None else pad,
        trust_remote_code=code,
        seed=derive_seed(spec["seed"], "head"),
    )
    started, training, learned = time.monotonic(), spec["training"], rendered["learned"]
    history = train_reward_with_trl(
        model,
        tokenizer,
        list(zip(learned[::2], learned[1::2], strict=True)),
        training,
        n_steps=max(1, round(training["epochs"] * len(sets.learned) / training["batch"])),
        seed=derive_seed(spec["seed"], "batches"),
        tokens=args.tokens or None,
    )
    save_checkpoint(step.folder / "model", model.to(getattr(torch, spec["dtype"])), tokenizer)
    step.add_output("model")
    artifacts.write_jsonl(step.folder / "history.jsonl", history)
    step.add_output("history.jsonl")
    seconds = time.monotonic() - started
    read, device = load_reward_model(step.folder / "model", "sequence", dtype="float32", trust_remote_code=code)
    right = {}
    for name, rows in rendered.items():
        rewards, pairs = score_rows(read, rows, tokens=READ_TOKENS, device=device), getattr(sets, name)
        require_finite(rewards, "the reward of an answer", _names_of(pairs), model=str(step.folder / "model"))
        right[name] = _right(rewards)
    step.report = {
        "pairs": len(sets.learned),
        "held_out_pairs": len(sets.held_out),
        **sets.counts,
        "cut_by_reward_model": n_cut,
        "steps": len(history),
        "first_loss": history[0]["loss"],
        "last_loss": history[-1]["loss"],
        "accuracy": right["learned"],
        "held_out_accuracy": right["held_out"],
    }
    shown = len(history) * training["batch"] / len(sets.learned)
    step.cost |= {"training_s": round(seconds, 2), "trained_tokens": round(shown * sum(map(len, learned)))}


def _pairs(args: argparse.Namespace, step: cli.Step) -> PairSets:
    spec, prompts = step.spec, step.open(args.prompts)
    split = prompts.table("pool.parquet", ["prompt_id", "prompt", "target"])
    never = {text for name in HELD_OUT_SPLITS for text in prompts.table(f"{name}.parquet", ["prompt"])["prompt"]}
    responses = step.open(args.pool).path("responses.parquet")
    labels = step.open(args.labels).path("scores.parquet")
    pools = StoredPools(split["prompt_id"], split["target"], responses, labels)
    sets = make_pairs(pools, split["prompt"], spec["pairs"], held_out=spec["held_out"], never=never, seed=spec["seed"])
    if not sets.learned or not sets.held_out:
        raise InputError(
            "there are too few pairs to train a reward model and to check it",
            expected="two prompts or more with answers whose labels differ",
            found=f"{len(sets.learned)} pairs to learn from, {len(sets.held_out)} held out; left out: {dict(sets.counts)}",
            where=str(args.labels),
            remedy="raise the split `pool` or n_responses of the pool, or take other labels",
        )
    return sets


def _names_of(pairs: Sequence[RewardPair]) -> Callable[[int], str]:
    return lambda row: f"{'rejected' if row % 2 else 'chosen'} answer to the prompt {pairs[row // 2].prompt[:80]!r}"


def _right(rewards: Sequence[float]) -> float:
    """Return the share of pairs (chosen, rejected, chosen, ...) with the higher reward for the chosen, ties half."""
    pairs = list(zip(rewards[::2], rewards[1::2], strict=True))
    return round(sum((chosen > rejected) + 0.5 * (chosen == rejected) for chosen, rejected in pairs) / len(pairs), 4)


if __name__ == "__main__":
    cli.leave(main())
