"""Let the harness' model keep what it has computed, batch by batch, so that an interruption costs one batch."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from selfcontrast.chunks import Chunks


def keep_batches(lm: Any, chunks: Chunks) -> None:
    """Make a model of the harness ask for log-likelihoods and answers one batch at a time, and keep each of them.

    The batches are those that the harness itself would run, so that no number changes. What a kept batch has added to
    ``lm.prompts.counts`` is added again, and answers that were drawn at random leave the random numbers as they left them.

    Args:
        lm: of ``harness.policy.policy_lm``; two methods of this object are replaced.
    """
    likelihoods, answers, counts = lm.run_likelihoods, lm.run_answers, lm.prompts.counts

    def run(batches: Sequence[Sequence[int]], requests: Sequence[Any], ask: Callable[..., Any], kind: str) -> list[Any]:
        found: list[Any] = [None] * len(requests)
        for batch in batches:
            asked = [requests[i] for i in batch]
            state = _random_state()
            name = f"{kind}-{_digest(asked, lm.tok_encode, state)}"
            stored = chunks.find(name)
            if stored is None:
                before = Counter(counts)
                values = ask(asked, disable_tqdm=True)
                columns = {"value": values}
                if kind == "likelihoods":
                    columns = {"value": [logp for logp, _ in values], "greedy": [greedy for _, greedy in values]}
                after = _random_state()
                same = {"counts": json.dumps(_added(before, counts)), "random": after if after != state else ""}
                chunks.store(name, columns | {key: [text] * len(asked) for key, text in same.items()})
            else:
                counts.update(json.loads(stored["counts"][0]))
                if after := stored["random"][0]:
                    _set_random_state(after)
                value, greedy = stored["value"], stored.get("greedy")
                values = value if greedy is None else list(zip(value, greedy, strict=True))
            for i, value in zip(batch, values, strict=True):
                found[i] = value
        return found

    def kept_likelihoods(requests: Sequence[Any], disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        return run(likelihood_batches(requests, lm.batch_size), requests, likelihoods, "likelihoods")

    def kept_answers(requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        return run(answer_batches(requests, lm.batch_size, lm.tok_encode), requests, answers, "answers")

    lm.run_likelihoods, lm.run_answers = kept_likelihoods, kept_answers


def likelihood_batches(requests: Sequence[Any], size: int) -> list[list[int]]:
    """Return the places of the requests that the harness runs together.

    Requests that differ in their last token alone are one row of a batch; rows are in the order of falling length.

    Args:
        requests: (texts, ids of the prompt, ids of the answer).
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for i, (_, asked, said) in enumerate(requests):
        rows.setdefault((*asked, *said[:-1]), []).append(i)

    def order(row: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        _, asked, said = requests[max(row, key=lambda i: len(requests[i][2]))]
        return -len(asked) - len(said), (*asked, *said)

    return _cut(sorted(rows.values(), key=order), size)


def answer_batches(requests: Sequence[Any], size: int, encode: Callable[[str], Sequence[int]]) -> list[list[int]]:
    """Return the places of the requests that the harness runs together: of the same settings, by falling length.

    Args:
        requests: their ``args`` are a prompt and the settings of its answer.
    """
    by_settings: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        by_settings.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(i)

    def order(i: int) -> tuple[int, str]:
        return -len(encode(requests[i].args[0])), requests[i].args[0]

    return [batch for some in by_settings.values() for batch in _cut([[i] for i in sorted(some, key=order)], size)]


def _cut(rows: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Return batches of ``size`` rows, the places in each in their own order, by which the harness breaks ties."""
    return [sorted(i for row in rows[start : start + size] for i in row) for start in range(0, len(rows), size)]


def _digest(requests: Sequence[Any], encode: Callable[[str], Sequence[int]], state: str) -> str:
    """Return a hash of what the answers follow from.

    Prompts of one text can differ in their ids; and a question that is asked twice has two answers where they are drawn.
    """
    asked = [
        [list(encode(request.args[0])), request.args[1]] if hasattr(request, "args") else request[1:]
        for request in requests
    ]
    return hashlib.sha256(json.dumps([asked, state], sort_keys=True, default=str).encode()).hexdigest()[:24]


def _random_state() -> str:
    """Return the state of the generators of random numbers, from which the harness draws answers."""
    import torch

    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    return json.dumps([bytes(state.tolist()).hex() for state in states])


def _set_random_state(text: str) -> None:
    import torch

    first, *others = (torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8) for state in json.loads(text))
    torch.set_rng_state(first)
    if others:
        torch.cuda.set_rng_state_all(others)


def _added(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    return {key: n - before[key] for key, n in after.items() if n != before[key]}
