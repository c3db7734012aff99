"""What a chat template writes behind an answer, read from dialogues that it renders.

A checkpoint ends its turns with what it was trained on, and that is in its template. The tokenizer's EOS is another matter:
Gemma, Phi-3 and the first Llama 3 Instruct name a token there that their templates never write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Render = Callable[[Sequence[tuple[str, str]], bool], str | None]
"""Turns (role, text), and whether the start of an answer follows; to the text, or None if the template refuses them."""

_QUESTION, _ANSWER, _NEXT = "6180339", "2718281", "1414213"
"""Texts of the dialogues that are rendered: digits, which no filter of a template changes."""


@dataclass(frozen=True)
class TurnEnd:
    """The end of an assistant's turn.

    Attributes:
        token: name of the token that ends it; None if the template writes none, so that the tokenizer's EOS has to.
        lead: text between the answer and that token.
        final: everything behind the last answer of a dialogue; empty if the template refuses such a dialogue.
        unclear: why the end cannot be told; empty if it can.
    """

    token: str | None = None
    lead: str = ""
    final: str = ""
    unclear: str = ""


def read_turn_end(render: Render, tokens: Sequence[str], *, bos: str | None, eos: str | None = None) -> TurnEnd:
    """Return the end of an assistant's turn.

    It is the first token behind the last answer. Where there is none, since some templates end a turn only if another
    follows, it is the token with which both the next question and the next answer begin.

    Args:
        tokens: names of the tokenizer's added tokens.
        bos: name of BOS, which ends no turn.
        eos: name of EOS, which may end a turn although a dialogue begins with it: OLMo's does.
    """
    asked = [("user", _QUESTION), ("assistant", _ANSWER)]
    rendered = render(asked, False)
    followed = render([*asked, ("user", _NEXT)], True)
    final, prompted = _behind(rendered), _behind(render(asked, True))
    between = _behind(followed)
    if between is not None:
        between = between.partition(_NEXT)[0] if _NEXT in between else None
    whole = rendered or followed or ""
    named = sorted({t for t in tokens if t.strip() and t != bos}, key=lambda t: (-len(t), t))
    start = whole.lstrip().removeprefix(bos or "").lstrip()
    head, before_answer = whole.partition(_QUESTION)[0], whole.partition(_ANSWER)[0].rstrip()

    def first(text: str | None) -> tuple[str, str] | None:
        """Return the first token and the text before it, unless it is the one that begins the whole dialogue."""
        places = [(text.index(t), -len(t), t) for t in named if t in text] if text else []
        if text is None or not places:
            return None
        place, _, token = min(places)
        begins = (head.rstrip(), before_answer)
        if start.startswith(token) and (token != eos or any(begin.endswith(text.strip()) for begin in begins)):
            return None
        return token, text[:place]

    if found := first(final):
        return TurnEnd(*found, final=final or "")
    if (found := first(between)) and (
        found == first(prompted) if prompted not in (None, final) else not head.endswith(between or "")
    ):
        return TurnEnd(*found, final=final or "")
    return _without_token(final, between, head=head, before_answer=before_answer)


def _without_token(final: str | None, between: str | None, *, head: str, before_answer: str) -> TurnEnd:
    """Return the end of a turn that no token ends, or what is unclear about it."""
    if final is None and between is None:
        return TurnEnd(unclear="it renders no dialogue with an answer in it")
    if final is not None:
        # What stands before every answer is the start of a further one: some templates always write it.
        written = "" if before_answer.endswith(final.strip()) else final.strip()
    else:
        assert between is not None
        n_shared = next((n for n in range(len(between), -1, -1) if head.endswith(between[len(between) - n :])), 0)
        written = between[: len(between) - n_shared].strip()
    if written:
        return TurnEnd(final=final or "", unclear=f"it writes {written!r} there, which is no token of the tokenizer")
    return TurnEnd(final="")


def _behind(text: str | None) -> str | None:
    """Return what stands behind the answer; None if it does not stand there."""
    return text.partition(_ANSWER)[2] if text is not None and _ANSWER in text else None
