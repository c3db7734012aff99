"""What is sent to a judge and what comes back: requests with a key that names no endpoint, and replies read from raw JSON."""

from __future__ import annotations

import hashlib
import json
import math
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
        text: the content of the message, without parts that are thoughts; empty if there is none.
        first_logprobs: log-probabilities, in nats, of the likeliest first tokens, by token; None if the server gave none.
        finish: why it ended, in the server's word: ``stop``, ``length``, ``content_filter``, ...; empty if it did not say.
        input_tokens: what the server counted; None if it did not say.
        output_tokens: the same of the reply.
        fault: why the message is no answer, whatever its text; empty if it may be one.
    """

    text: str
    first_logprobs: Mapping[str, float] | None
    finish: str
    input_tokens: int | None
    output_tokens: int | None
    fault: str = ""

    @property
    def is_broken_off(self) -> bool:
        """Return whether the server failed on the way, so that another attempt may succeed."""
        return self.finish.lower() in _BROKEN_OFF


CUT = "cut by length"
_UNSAID = {"", "none", "null"}
_ENDED = _UNSAID | {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed"}
_CUT = {"length", "max_tokens", "max_output_tokens", "max_completion_tokens", "model_length"}
_CUT |= {"model_context_window_exceeded", "incomplete"}
_BROKEN_OFF = {"error", "failed", "abort", "aborted", "cancelled", "canceled", "insufficient_system_resource"}
"""Words for the end of a reply, of OpenAI, vLLM, TGI, Anthropic, Gemini, Mistral, DeepSeek and OpenRouter. Any other word,
such as ``content_filter`` or ``SAFETY``, is an end that the judge did not choose."""


def why_no_verdict(reply: Reply, request: Request) -> str:
    """Return why nothing in a reply's text is a verdict: the judge did not finish it; empty if it did.

    ``CUT`` is for texts alone. A judge that reads the log-probabilities of the first token has read it before any cut.
    """
    finish = reply.finish.lower()
    if reply.fault:
        return reply.fault
    used_up = reply.output_tokens is not None and reply.output_tokens >= request.most_output_tokens
    if finish in _CUT or (finish in _UNSAID and used_up):
        return CUT
    return "" if finish in _ENDED else f"ended by {reply.finish[:40]}"


def read_reply(raw: Any) -> Reply:
    """Return the first choice of a chat completion; also of the layouts of OpenAI's responses and of Anthropic's messages.

    A body that holds a reply is always read: what is missing or odd in it leaves text or counts empty, or is its ``fault``.
    Asking again would mean paying again for the same reply.

    Raises:
        ReplyError: the body holds no reply: it is an error message, or JSON of another kind.
    """
    if not isinstance(raw, dict) or not {"choices", "output", "content"} & raw.keys():
        raise ReplyError("the body is no chat completion")
    if raw.get("error") and not raw.get("choices"):
        raise ReplyError("the body is an error message")
    if "choices" in raw:
        choices = raw["choices"] if isinstance(raw["choices"], list) else []
        choice = choices[0] if choices and isinstance(choices[0], dict) else {}
        message = choice.get("message")
        parts = message if isinstance(message, dict) else {"content": choice.get("text")}
        stop = choice.get("stop_reason")
        finish = (
            "error" if choice.get("error") else choice.get("finish_reason") or (stop if isinstance(stop, str) else "")
        )
        fault = "" if choice else "no choice in the reply"
    elif "output" in raw:
        choice, parts = {}, {"content": _flat(raw["output"])}
        details = raw.get("incomplete_details")
        finish = (details.get("reason") if isinstance(details, dict) else "") or raw.get("status")
        fault = ""
    else:
        choice, parts = {}, raw
        finish, fault = raw.get("stop_reason"), ""
    text, fault = _text(parts.get("content")), fault or _fault(parts)
    try:
        first = _first_logprobs(choice.get("logprobs"))
    except (KeyError, IndexError, TypeError, AttributeError, ReplyError):
        first, fault = None, fault or "log-probabilities that are no numbers below 0"
    usage = raw["usage"] if isinstance(raw.get("usage"), dict) else {}
    asked = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    answered = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    return Reply(text, first, _word(finish), asked, answered, fault)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _flat(items: Any) -> list[Any]:
    """Return the parts of the messages among the items of a response; items of other types, such as thoughts, as they are."""
    found: list[Any] = []
    for item in items if isinstance(items, list) else []:
        inner = item.get("content") if isinstance(item, dict) and item.get("type", "message") == "message" else None
        found += inner if isinstance(inner, list) else [item]
    return found


def _text(content: Any) -> str:
    """Return the text of a message's content: itself, or its text parts one after the other."""
    if isinstance(content, str):
        return content
    found = []
    for part in content if isinstance(content, list) else []:
        text = part
        if isinstance(part, dict):
            text = part.get("text") if part.get("type") in ("text", "output_text", None) else ""
            text = text.get("value") if isinstance(text, dict) else text
        found.append(text if isinstance(text, str) else "")
    return "".join(found)


def _fault(message: Mapping[str, Any]) -> str:
    """Return whether a message refuses, or calls a tool instead of answering."""
    content = message.get("content")
    types = {part.get("type") for part in content if isinstance(part, dict)} if isinstance(content, list) else set()
    if message.get("refusal") or "refusal" in types:
        return "the judge refused"
    calls = message.get("tool_calls") or message.get("function_call") or types & {"tool_use", "function_call"}
    return "a tool call instead of a text" if calls and not _text(content).strip() else ""


def _count(value: Any) -> int | None:
    """Return a number of tokens, which some servers write as a float or as text; None for anything else."""
    try:
        number = math.ceil(float(value)) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1
    except (ValueError, OverflowError):
        return None
    return number if number >= 0 else None


def _first_logprobs(logprobs: Any) -> dict[str, float] | None:
    content = (logprobs or {}).get("content")
    if not content or not content[0].get("top_logprobs"):
        return None
    given = [(t["token"], t["logprob"]) for t in content[0]["top_logprobs"]]
    if not all(isinstance(k, str) and isinstance(v, int | float) and v == v and v <= 1e-3 for k, v in given):
        raise ReplyError("a log-probability is no number below 0")
    # Several tokens may have one spelling: the likeliest of them counts, not the last.
    return dict(sorted(given, key=lambda pair: pair[1]))
