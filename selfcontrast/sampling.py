"""What back-ends of sampling share: what is asked, what comes back, and the plan that makes shards and order irrelevant."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from selfcontrast.chunks import Chunks
from selfcontrast.finite import NotFiniteError

log = logging.getLogger(__name__)

Tokens = Sequence[int]

LOG_EVERY_S = 30


@dataclass(frozen=True)
class Sampling:
    """How a policy is sampled.

    Attributes:
        max_new_tokens: longest response.
        temperature: 0 is greedy.
        top_p: 1 samples from the whole distribution.
        max_length: longest prompt and response together; None where ``max_new_tokens`` alone bounds a response.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    max_length: int | None = None

    @classmethod
    def within(cls, max_new_tokens: int | None, temperature: float, top_p: float, max_length: int) -> Sampling:
        """Return it with responses of at most so many tokens; None: as many as a context of ``max_length`` leaves."""
        if max_new_tokens is None:
            return cls(max_length - 1, temperature, top_p, max_length)
        return cls(max_new_tokens, temperature, top_p)

    def room(self, prompt: Tokens) -> int:
        """Return the longest response to a prompt, in tokens."""
        if self.max_length is None:
            return self.max_new_tokens
        return min(self.max_new_tokens, self.max_length - len(prompt))


@dataclass(frozen=True)
class Sampled:
    """One sampled response.

    Attributes:
        ids: its tokens, the one that ended it included if the model ended it.
        finish: why it ended.
        logps: log-probability of each token under the model (temperature 1, the whole distribution), in nats; None from a
            back-end that was not asked for them.
    """

    ids: list[int]
    finish: Literal["stop", "length"]
    logps: list[float] | None = None


def text_ids(sampled: Sampled) -> list[int]:
    """Return the tokens of a response without the one that ended it, which may be no special token to the tokenizer."""
    return sampled.ids[:-1] if sampled.finish == "stop" else sampled.ids


class Sampler(Protocol):
    """A model that answers, on some back-end.

    Attributes:
        settings: software and switches on which numbers may depend, for run.json.
    """

    settings: dict[str, Any]

    def sample(
        self,
        prompts: Sequence[Tokens],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        eos_ids: frozenset[int],
    ) -> list[list[Sampled]]:
        """Return ``len(seeds[i])`` responses to each ``prompts[i]``; response ``(i, j)`` draws from ``seeds[i][j]``.

        A response ends with the first token of ``eos_ids``, which is kept, or where its room ends. Equal
        calls give equal responses, whatever was sampled in between.

        Raises:
            NotFiniteError: the model cannot say what comes next; its ``row`` is the prompt.
        """

    def close(self) -> None:
        """End the processes that the back-end started."""


def plan_batches(lengths: Sequence[int], *, prompts_per_batch: int) -> list[list[int]]:
    """Return the batches in which prompts are sampled: indices of prompts of like length, ties in prompt order.

    The plan depends on the whole pool alone; shards take contiguous runs of batches. So the batch in which a prompt
    runs, and with it every rounding error, is the same for any number of shards.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[i : i + prompts_per_batch] for i in range(0, len(order), prompts_per_batch)]


@dataclass(frozen=True)
class Request:
    """What is asked of a policy about each prompt.

    Attributes:
        n: responses to each prompt.
        seed_of: random stream of response j to the prompt with index i.
        prompts_per_batch: prompts whose responses are sampled together. Shards are divided by batches: a pool that
            asks several times about the same prompts must ask with the same number.
        name_of: what the prompt with index i is called in messages.
    """

    n: int
    seed_of: Callable[[int, int], int]
    sampling: Sampling
    eos_ids: frozenset[int]
    prompts_per_batch: int
    name_of: Callable[[int], str] = "prompt {}".format


def sample_shard(
    prompts: Sequence[Tokens],
    request: Request,
    sampler: Callable[[], Sampler],
    *,
    shard: int = 1,
    shards: int = 1,
    chunks: Chunks | None = None,
) -> dict[int, list[Sampled]]:
    """Return the responses to the prompts of one shard (counted from 1), by index of the prompt, in sampling order.

    Args:
        sampler: called for each batch that has to be sampled, and for no other.
        chunks: where finished batches are kept, so that an interruption costs one batch at most.

    Raises:
        NotFiniteError: the model cannot say what comes next.
    """
    batches = plan_batches([len(p) for p in prompts], prompts_per_batch=request.prompts_per_batch)
    mine = range((shard - 1) * len(batches) // shards, shard * len(batches) // shards)
    found: dict[int, list[Sampled]] = {}
    n_stored, logged = 0, time.monotonic()
    for number in mine:
        batch = batches[number]
        asked = [list(prompts[i]) for i in batch], [[request.seed_of(i, j) for j in range(request.n)] for i in batch]
        name = f"batch-{number:06d}-{_digest(*asked, request)}"
        answers = None if chunks is None else _stored(chunks, name)
        n_stored += answers is not None
        if answers is None:
            try:
                rows = sampler().sample(*asked, request.sampling, eos_ids=request.eos_ids)
            except NotFiniteError as error:
                raise error if error.row is None else error.but(of=request.name_of(batch[error.row])) from None
            answers = [answer for row in rows for answer in row]
            if chunks is not None:
                chunks.store(name, {"ids": [a.ids for a in answers], "finish": [a.finish for a in answers]})
        found |= {i: answers[k * request.n : (k + 1) * request.n] for k, i in enumerate(batch)}
        if time.monotonic() - logged > LOG_EVERY_S:
            logged = time.monotonic()
            log.info("batch %d of %d", number - mine.start + 1, len(mine))
    if n_stored:
        log.info("%d of %d batches were sampled before an interruption", n_stored, len(mine))
    return found


def _digest(prompts: list[list[int]], seeds: list[list[int]], request: Request) -> str:
    asked = [prompts, seeds, asdict(request.sampling), sorted(request.eos_ids)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]


def _stored(chunks: Chunks, name: str) -> list[Sampled] | None:
    if (columns := chunks.find(name)) is None:
        return None
    return [Sampled(*row) for row in zip(columns["ids"], columns["finish"], strict=True)]
