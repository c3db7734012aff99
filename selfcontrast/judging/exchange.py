"""What is sent to a judge and what comes back: requests with a key that names no endpoint, and replies read from raw JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from selfcontrast.records import Message

BYTES_PER_TOKEN = 4
"""Of English text, about: for estimates alone. A cap counts one token for each byte, which no tokenizer exceeds."""

TOKENS_PER_MESSAGE = 16
"""Allowance for what a chat template writes around a message."""


class ReplyError(ValueError):
    """A body that is no chat completion."""


@dataclass(frozen=True)
class Request:
    """One question to a judge.

    Attributes:
        model: name of the judge at its endpoint.
        revision: which version of it that is, as far as anyone can say; a label.
        messages: what is asked.
        sampling: everything else of the body: ``temperature``, ``max_tokens``, ``logprobs``, ...
        template: hash of the prompt template.
        repeat: number of this asking of the same question, from 0.
    """

    model: str
    revision: str
    messages: tuple[Message, ...]
    sampling: Mapping[str, Any]
    template: str
    repeat: int = 0

    @property
    def body(self) -> dict[str, Any]:
        """Return the JSON body of the request."""
        messages = [{"role": m.role, "content": m.content} for m in self.messages]
        return {"model": self.model, "messages": messages, **self.sampling}

    @cached_property
    def key(self) -> str:
        """Return a SHA-256 of everything on which the reply depends; the endpoint is no part of it."""
        named = {"body": self.body, "revision": self.revision, "template": self.template, "repeat": self.repeat}
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()

    @cached_property
    def n_bytes(self) -> int:
        """Return the bytes of the messages: no fewer than their tokens."""
        return sum(len(m.content.encode()) for m in self.messages)

    @property
    def most_input_tokens(self) -> int:
        """Return how many tokens the prompt can have at most."""
        return self.n_bytes + TOKENS_PER_MESSAGE * len(self.messages)

    @property
    def likely_input_tokens(self) -> int:
        """Return about how many tokens the prompt has."""
        return self.n_bytes // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * len(self.messages)

    @property
    def most_output_tokens(self) -> int:
        """Return how many tokens the reply can have at most."""
        return int(self.sampling["max_tokens"])


@dataclass(frozen=True)
class Reply:
    """What a judge said.

    Attributes:
        text: the content of the message; empty if there is none.
        first_logprobs: log-probabilities, in nats, of the likeliest first tokens, by token; None if the server gave none.
        finish: why it ended: ``stop``, ``length``, ``content_filter``, ...
        input_tokens: what the server counted; None if it did not say.
        output_tokens: the same of the reply.
    """

    text: str
    first_logprobs: Mapping[str, float] | None
    finish: str
    input_tokens: int | None
    output_tokens: int | None


def read_reply(raw: Any) -> Reply:
    """Return the first choice of a chat completion.

    Raises:
        ReplyError: the JSON has another layout.
    """
    try:
        choice = raw["choices"][0]
        text = choice["message"].get("content")
        usage = raw.get("usage") or {}
        tokens = [usage.get(k) for k in ("prompt_tokens", "completion_tokens")]
        first = _first_logprobs(choice.get("logprobs"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ReplyError(f"{type(error).__name__}: {error}") from None
    if not isinstance(text, str | None) or not all(t is None or (type(t) is int and t >= 0) for t in tokens):
        raise ReplyError("the content is no text, or the usage no number")
    return Reply(text or "", first, str(choice.get("finish_reason")), *tokens)


def _first_logprobs(logprobs: Any) -> dict[str, float] | None:
    content = (logprobs or {}).get("content")
    if not content or not content[0].get("top_logprobs"):
        return None
    found = {t["token"]: t["logprob"] for t in content[0]["top_logprobs"]}
    if not all(isinstance(k, str) and isinstance(v, int | float) and v == v and v <= 1e-3 for k, v in found.items()):
        raise ReplyError("a log-probability is no number below 0")
    return found
