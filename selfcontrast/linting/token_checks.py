"""Questions to the token ids of a row: BOS, EOS and length."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain

from selfcontrast.linting.findings import FINE, Question, Row, RowCheck
from selfcontrast.token_rows import Rows


@dataclass(frozen=True)
class Limits:
    """What a tokenizer and a model allow.

    Attributes:
        bos: id of the token that starts a prompt; None if the tokenizer has none.
        eos: id of the token that ends an answer.
        max_length: longest prompt plus answer, in tokens; None if it is not known.
        before_bos: tokens that the template writes before BOS, such as a newline.
        rows: ids that the model has an embedding for.
    """

    bos: int | None
    eos: int
    max_length: int | None
    before_bos: int = 0
    rows: Rows = field(default_factory=Rows)


def token_checks(limits: Limits) -> list[RowCheck]:
    """Return the checks of token ids, fresh for one pass over the rows."""
    missing = "a token has an id for which the model has no embedding"
    return [
        *([] if limits.rows.n is None else [RowCheck("rows", missing, "error", without_row(limits))]),
        RowCheck(
            "bos",
            "a prompt does not start with exactly one BOS, or an answer holds one",
            "error",
            wrong_bos(limits),
            if_never="the tokenizer has no BOS token",
        ),
        RowCheck("bos_inside", "the prompt holds a further BOS behind the first", "warning", later_bos(limits)),
        RowCheck("eos", "an answer does not end with exactly one EOS, or holds one", "error", wrong_eos(limits)),
        RowCheck("long_prompt", "the prompt alone fills the context", "warning", long_prompt(limits)),
        RowCheck(
            "truncated",
            "the prompt with one of its answers is longer than the context",
            "warning",
            long_answer(limits),
            if_never="the length of the context is not known",
        ),
    ]


def wrong_bos(limits: Limits) -> Question:
    """Return a question that finds prompts without a BOS or with two at their start, and answers with one."""

    def ask(row: Row) -> str | None:
        if row.tokens is None or limits.bos is None:
            return None
        start = list(row.tokens.prompt[: limits.before_bos + 2])
        if limits.bos not in start[:-1]:
            return f"the prompt starts with id {start[0] if start else 'none'}, not with BOS {limits.bos}"
        if start[start.index(limits.bos) + 1 :][:1] == [limits.bos]:
            return f"the prompt starts with two BOS {limits.bos}"
        # Where one token serves as both, the EOS of an answer is no BOS.
        if limits.bos != limits.eos and any(limits.bos in answer for answer in row.tokens.answers):
            return f"an answer holds BOS {limits.bos}"
        return FINE

    return ask


def later_bos(limits: Limits) -> Question:
    """Return a question that finds a BOS behind the start of a prompt: some templates write one for each turn."""

    def ask(row: Row) -> str | None:
        if row.tokens is None or limits.bos is None or limits.bos == limits.eos:
            return None
        n = list(row.tokens.prompt[limits.before_bos + 2 :]).count(limits.bos)
        return f"{n} of id {limits.bos}" if n else FINE

    return ask


def wrong_eos(limits: Limits) -> Question:
    """Return a question that finds answers that end without EOS, with two, or hold one before their end."""

    def ask(row: Row) -> str | None:
        if row.tokens is None:
            return None
        for i, answer in enumerate(row.tokens.answers):
            n, ends = list(answer).count(limits.eos), list(answer[-1:]) == [limits.eos]
            if n != 1 or not ends:
                name = "the chosen answer" if i == 0 else "a rejected answer"
                return f"{name} has {n} of EOS {limits.eos} and ends with {'it' if ends else 'another id'}"
        return FINE

    return ask


def without_row(limits: Limits) -> Question:
    """Return a question that finds token ids for which the model has no embedding."""

    def ask(row: Row) -> str | None:
        if row.tokens is None:
            return None
        missing = limits.rows.lacking(chain(row.tokens.prompt, *row.tokens.answers))
        return f"id {missing[-1]}; the model has {limits.rows.n} rows" if missing else FINE

    return ask


def long_prompt(limits: Limits) -> Question:
    """Return a question that finds prompts that leave no room for a single token of an answer."""

    def ask(row: Row) -> str | None:
        if row.tokens is None or limits.max_length is None:
            return None
        n = len(row.tokens.prompt)
        return f"{n} tokens of at most {limits.max_length}" if n >= limits.max_length else FINE

    return ask


def long_answer(limits: Limits) -> Question:
    """Return a question that finds prompts that do not fit into the context together with their longest answer."""

    def ask(row: Row) -> str | None:
        if row.tokens is None or limits.max_length is None:
            return None
        n, longest = len(row.tokens.prompt), max((len(a) for a in row.tokens.answers), default=0)
        return f"{n} + {longest} tokens of at most {limits.max_length}" if n + longest > limits.max_length else FINE

    return ask
