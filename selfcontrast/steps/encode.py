"""Render and tokenise every dialogue once for one model, and divide the prompts into splits.

In: dialogues, the base model's tokenizer. Out: sft, pool, validation and test as parquet. CPU, seconds to minutes.

A prompt belongs to one split only; which one follows from a hash of its id, not from its place in the file. `pool` is a
part of `sft`: preference training uses the prompts of the SFT data, as the paper does.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from selfcontrast import artifacts, cli
from selfcontrast.errors import InputError
from selfcontrast.records import TRAINING_PROMPT, Message
from selfcontrast.seeds import derive_seed

NOT_RENDERED = "the chat template cannot render the prompt"
TOO_LONG = "the prompt with one of its answers does not fit into the context"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--dialogues", type=Path, required=True, metavar="MANIFEST", help="of the step prompts")
    parser.add_argument("--base", required=True, help="folder or hub id of the base model")
    parser.add_argument("--room", type=int, required=True, help="tokens that sampling needs behind a prompt")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the splits."""
    from selfcontrast.checkpoints import load_tokenizer
    from selfcontrast.rendering import Renderer, prepare_tokenizer

    spec = step.spec
    tokenizer = load_tokenizer(args.base, trust_remote_code=spec["trust_remote_code"])
    new_tokens = prepare_tokenizer(tokenizer, spec["template"])
    renderer = Renderer(tokenizer, spec["template"])
    step.join_template(renderer.digest, where=args.base)
    path = step.open(args.dialogues).path("dialogues.jsonl.gz")
    counts: Counter[str] = Counter()
    rows = sorted(
        _encoded(path, renderer, spec, args.room, counts),
        key=lambda r: (derive_seed(spec["seed"], r["prompt_id"]), r["prompt_id"]),
    )
    splits = _split(rows, spec["splits"], where=str(path), dropped=counts)
    for name, part in splits.items():
        columns = {
            key: [r[key] for r in part]
            for key in ("prompt_id", "prompt", *_prompt_columns(renderer), "target", "target_ids", "rejected")
        }
        step.write_table(f"{name}.parquet", columns)
    unused = len(rows) - sum(len(p) for name, p in splits.items() if name != "pool")
    step.report = {
        "dropped": dict(counts),
        "prompts": {name: len(part) for name, part in splits.items()},
        "unused": unused,
        "new_tokens": len(new_tokens),
        "trains_apart": renderer.trains_apart,
        "control_tokens": dict(renderer.counts),
        "longest_prompt": max(len(r["prompt_ids"]) for r in rows),
        "unknown_tokens": _count_unknown(rows, renderer),
    }


def _encoded(
    path: Path, renderer: Any, spec: dict[str, Any], room: int, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    for _, record in artifacts.read_jsonl(path):
        messages = [Message(m["role"], m["content"]) for m in record["messages"]]
        try:
            prompts = {column: render(messages) for column, render in _prompt_columns(renderer).items()}
        except InputError as error:
            if spec["bad_records"] == "error":
                raise InputError(str(error), where=f"row {record['row']} of the data set") from None
            counts[NOT_RENDERED] += 1
            continue
        prompt_ids, target_ids = max(prompts.values(), key=len), renderer.response_ids(record["target"])
        longest_rejected = max((len(renderer.response_ids(r)) for r in record["rejected"]), default=0)
        needed = len(prompt_ids) + max(len(target_ids), longest_rejected, room)
        if needed > spec["max_length"]:
            if spec["long_prompts"] == "error":
                raise InputError(
                    TOO_LONG,
                    expected=f"at most {spec['max_length']} tokens for prompt and response (models.<id>.max_length)",
                    found=f"{len(prompt_ids)} for the prompt, {len(target_ids)} for the target, {longest_rejected} for the "
                    f"longest rejected answer, {room} for sampling",
                    where=f"row {record['row']} of the data set",
                    remedy="raise max_length, lower max_new_tokens, or set `long_prompts: drop` for this data set",
                )
            counts[TOO_LONG] += 1
            continue
        yield {
            "prompt_id": record["prompt_id"],
            "prompt": record["messages"][-1]["content"],
            **prompts,
            "target": record["target"],
            "target_ids": target_ids,
            "rejected": record["rejected"],
        }


def _prompt_columns(renderer: Any) -> dict[str, Callable[[list[Message]], list[int]]]:
    """Return the columns of token ids of a prompt, each with what makes it."""
    columns = {"prompt_ids": renderer.prompt_ids}
    if renderer.trains_apart:
        columns[TRAINING_PROMPT] = renderer.training_prompt_ids
    return columns


def _split(
    rows: list[dict[str, Any]], sizes: dict[str, int], *, where: str, dropped: Counter[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return the splits: held-out prompts first, so that they stay the same when `sft` grows."""
    needed = sizes["sft"] + sizes["validation"] + sizes["test"]
    if len(rows) < needed:
        raise InputError(
            "the data set has too few prompts for its splits",
            expected=f"{needed} (sft {sizes['sft']} + validation {sizes['validation']} + test {sizes['test']})",
            found=f"{len(rows)}" + (f", after {dropped.total()} that are too long" if dropped else ""),
            where=where,
            remedy="lower datasets.<id>.splits, or give more data",
        )
    test = rows[: sizes["test"]]
    validation = rows[sizes["test"] : sizes["test"] + sizes["validation"]]
    sft = rows[sizes["test"] + sizes["validation"] :][: sizes["sft"]]
    return {"sft": sft, "pool": sft[: sizes["pool"]], "validation": validation, "test": test}


def _count_unknown(rows: list[dict[str, Any]], renderer: Any) -> int:
    unknown = renderer.tokenizer.unk_token_id
    return (
        sum(i == unknown for r in rows for key in ("prompt_ids", "target_ids") for i in r[key])
        if unknown is not None
        else 0
    )


if __name__ == "__main__":
    cli.leave(main())
