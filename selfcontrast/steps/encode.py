"""Render and tokenise every dialogue once for one model, and divide the prompts into splits.

In: dialogues, the base model's tokenizer. Out: sft, pool, validation and test as parquet. CPU, seconds to minutes; memory
does not grow with the number of dialogues, which are sorted on disk.

A prompt belongs to one split only; which one follows from a hash of its id, not from its place in the file. `pool` is a
part of `sft`: preference training uses the prompts of the SFT data, as the paper does.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from selfcontrast import artifacts, cli, parquet
from selfcontrast.errors import InputError
from selfcontrast.records import TRAINING_PROMPT, Message
from selfcontrast.seeds import derive_seed
from selfcontrast.sorting import PLACE, SortedRows
from selfcontrast.token_rows import ALL, Rows

NOT_RENDERED = "the chat template cannot render the prompt"
TOO_LONG = "the prompt with one of its answers does not fit into the context"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--dialogues", type=Path, required=True, metavar="MANIFEST", help="of the step prompts")
    parser.add_argument("--base", required=True, help="folder or hub id of the base model")
    cli.add_fetched_flag(parser)
    parser.add_argument("--room", type=int, required=True, help="tokens that sampling needs behind a prompt")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the splits."""
    from selfcontrast.checkpoints import embedding_rows, load_tokenizer
    from selfcontrast.rendering import renderer_of_base, settings_of

    spec = step.spec
    code = spec["trust_remote_code"]
    tokenizer, n_rows = (
        load_tokenizer(args.base, trust_remote_code=code),
        embedding_rows(args.base, trust_remote_code=code),
    )
    renderer = renderer_of_base(tokenizer, spec["template"], rows=n_rows, **settings_of(spec))
    renderer.check_rows()
    step.join_template(renderer.digest, where=args.base)
    path = step.open(args.dialogues).path("dialogues.jsonl.gz")
    with artifacts.scratch(step.folder / "rows") as folder:
        rows, tally = encode(path, renderer, spec, room=args.room, folder=folder, embedded=renderer.rows)
        bounds = split_bounds(len(rows), spec["splits"], where=str(path), dropped=tally.dropped)
        for name, (start, stop) in bounds.items():
            with step.table_writer(f"{name}.parquet", _columns(renderer)) as writer:
                for part in rows.between(start, stop):
                    writer.write(part)
    sizes = {name: stop - start for name, (start, stop) in bounds.items()}
    step.report = {
        "dropped": dict(tally.dropped),
        "prompts": sizes,
        "unused": len(rows) - sum(n for name, n in sizes.items() if name != "pool"),
        "new_tokens": len(renderer.rows.added),
        "trains_apart": renderer.trains_apart,
        "control_tokens": dict(renderer.counts),
        "longest_prompt": tally.longest_prompt,
        "mean_prompt_tokens": round(tally.prompt_tokens / len(rows), 2),
        "mean_target_tokens": round(tally.target_tokens / len(rows), 2),
        "unknown_tokens": tally.unknown_tokens,
        **cli.commit_of(step, args.fetched),
    }


@dataclass
class Tally:
    """What is counted while dialogues are tokenised.

    Attributes:
        dropped: dialogues that were left out, by reason.
        longest_prompt: tokens of the longest prompt that was kept.
        prompt_tokens: tokens of all prompts that were kept.
        target_tokens: tokens of their targets.
        unknown_tokens: tokens of kept prompts and targets that the tokenizer does not know.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    longest_prompt: int = 0
    prompt_tokens: int = 0
    target_tokens: int = 0
    unknown_tokens: int = 0


def encode(
    path: Path, renderer: Any, spec: dict[str, Any], *, room: int, folder: Path, embedded: Rows = ALL
) -> tuple[SortedRows, Tally]:
    """Return every dialogue that fits, tokenised, in the order in which splits are cut from them; ``folder`` holds them.

    Args:
        embedded: ids that the model has an embedding for; others stop the step.
    """
    tally = Tally()
    with SortedRows(folder, parquet.schema(_columns(renderer)), tie="prompt_id") as rows:
        for row in _encoded(path, renderer, spec, room, tally, embedded):
            rows.add(row)
    return rows, tally


def _encoded(
    path: Path, renderer: Any, spec: dict[str, Any], room: int, tally: Tally, embedded: Rows = ALL
) -> Iterator[dict[str, Any]]:
    unknown = renderer.tokenizer.unk_token_id
    for _, record in artifacts.read_jsonl(path):
        messages = [Message(m["role"], m["content"]) for m in record["messages"]]
        try:
            prompts = {column: render(messages) for column, render in _prompt_columns(renderer).items()}
        except InputError as error:
            if spec["bad_records"] == "error":
                raise InputError(str(error), where=f"row {record['row']} of {record['file']}") from None
            tally.dropped[NOT_RENDERED] += 1
            continue
        prompt_ids, target_ids = max(prompts.values(), key=len), renderer.response_ids(record["target"])
        rejected_ids = [renderer.response_ids(r) for r in record["rejected"]]
        made = chain(*prompts.values(), target_ids, *rejected_ids)
        embedded.check(renderer.tokenizer, made, where=f"row {record['row']} of {record['file']}")
        longest_rejected = max(map(len, rejected_ids), default=0)
        needed = len(prompt_ids) + max(len(target_ids), longest_rejected, room)
        if needed > spec["max_length"]:
            if spec["long_prompts"] == "error":
                raise InputError(
                    TOO_LONG,
                    expected=f"at most {spec['max_length']} tokens for prompt and response (models.<id>.max_length)",
                    found=f"{len(prompt_ids)} for the prompt, {len(target_ids)} for the target, {longest_rejected} for the "
                    f"longest rejected answer, {room} for sampling",
                    where=f"row {record['row']} of {record['file']}",
                    remedy="raise max_length, lower max_new_tokens, or set `long_prompts: drop` for this data set",
                )
            tally.dropped[TOO_LONG] += 1
            continue
        tally.longest_prompt = max(tally.longest_prompt, len(prompt_ids))
        tally.prompt_tokens += len(prompt_ids)
        tally.target_tokens += len(target_ids)
        tally.unknown_tokens += prompt_ids.count(unknown) + target_ids.count(unknown)
        yield {
            "prompt_id": record["prompt_id"],
            "prompt": record["messages"][-1]["content"],
            **prompts,
            "target": record["target"],
            "target_ids": target_ids,
            "rejected": record["rejected"],
            PLACE: derive_seed(spec["seed"], record["prompt_id"]),
        }


def _columns(renderer: Any) -> list[str]:
    """Return the columns of a split."""
    return ["prompt_id", "prompt", *_prompt_columns(renderer), "target", "target_ids", "rejected"]


def _prompt_columns(renderer: Any) -> dict[str, Callable[[list[Message]], list[int]]]:
    """Return the columns of token ids of a prompt, each with what makes it."""
    columns = {"prompt_ids": renderer.prompt_ids}
    if renderer.trains_apart:
        columns[TRAINING_PROMPT] = renderer.training_prompt_ids
    return columns


def split_bounds(
    n_rows: int, sizes: dict[str, int], *, where: str, dropped: Counter[str]
) -> dict[str, tuple[int, int]]:
    """Return where each split starts and ends: held-out prompts first, so that they stay the same when `sft` grows."""
    needed = sizes["sft"] + sizes["validation"] + sizes["test"]
    if n_rows < needed:
        raise InputError(
            "the data set has too few prompts for its splits",
            expected=f"{needed} (sft {sizes['sft']} + validation {sizes['validation']} + test {sizes['test']})",
            found=f"{n_rows}" + (f", after {dropped.total()} that are too long" if dropped else ""),
            where=where,
            remedy="lower datasets.<id>.splits, or give more data",
        )
    sft = sizes["test"] + sizes["validation"]
    return {
        "sft": (sft, sft + sizes["sft"]),
        "pool": (sft, sft + sizes["pool"]),
        "validation": (sizes["test"], sft),
        "test": (0, sizes["test"]),
    }


if __name__ == "__main__":
    cli.leave(main())
