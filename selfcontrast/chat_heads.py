"""Lines at the head of a chat template: they make its text alone say what is rendered, whatever the day and the tokenizer.

Chat templates are Jinja, and transformers gives them more than the dialogue: a clock, and the tokenizer's special tokens.
What a study settles is written in front of the template as statements of Jinja that print nothing. So it is saved with the
tokenizer, other software renders the same text, and the template's hash covers it.
"""

from __future__ import annotations

import json
import re
from datetime import date

from selfcontrast.errors import InputError

CLOCK = "strftime_now"
"""Function by which a chat template asks for the time, as transformers and vLLM offer it."""

DEFAULT_DATE = "2024-07-26"
"""Day on which prompts are rendered unless a study names another: the one that Llama 3.1's template has built in."""

_END = re.compile(r'\{% set end_of_turn = (".*?") %\}\n')
_PERCENT = "\x01"

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def with_date(chat: str, day: str) -> str:
    """Return a template whose clock stands at the midnight that begins ``day`` (ISO); one without a clock stays as it is."""
    names = [value for kind, value in _tokens(chat) if kind == "name"]
    if CLOCK not in names or f"macro {CLOCK}(" in chat:
        return chat
    filters = "".join(f" | replace({json.dumps(k)}, {json.dumps(v)})" for k, v in _directives(day).items())
    return f"{{% macro {CLOCK}(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}\n{chat}"


def with_eos(chat: str, eos: str) -> str:
    """Return a template for which ``eos_token`` stays what it was, however the tokenizer's EOS changes."""
    return _set("eos_token", eos) + chat if ("name", "eos_token") in _tokens(chat) else chat


def with_end(chat: str, token: str) -> str:
    """Return a template that says which token ends a turn; see ``stated_end``."""
    return chat if stated_end(chat) == token else _set("end_of_turn", token) + _END.sub("", chat)


def stated_end(chat: str) -> str | None:
    """Return the token that ends a turn as a study has stated it, or None if it has not."""
    found = _END.search(chat)
    return None if found is None else str(json.loads(found[1]))


def refuse_chance(chat: str, *, where: str) -> None:
    """Raise InputError if a template draws random numbers."""
    tokens = [value.strip("'\"") for kind, value in _tokens(chat) if kind != "whitespace"]
    for before, token in zip(["", *tokens], tokens, strict=False):
        if token == "lipsum" or (token == "random" and before in ("|", "(")):  # a filter, or map("random")
            raise InputError(
                "the chat template draws random numbers, so that a dialogue has no text of its own",
                found=f"`{token}`",
                where=where,
                remedy="remove it from the checkpoint's chat_template, or take another `template` for this model",
            )


def _set(name: str, text: str) -> str:
    return f"{{% set {name} = {json.dumps(text, ensure_ascii=False)} %}}\n"  # escapes are the same in JSON and in Jinja


def _tokens(chat: str) -> list[tuple[str, str]]:
    """Return the kinds and texts of a template's tokens; none of one that is not valid, which rendering reports."""
    from jinja2 import Environment, TemplateSyntaxError

    try:
        return [(kind, value) for _, kind, value in Environment().lex(chat)]
    except TemplateSyntaxError:
        return []


def _directives(day: str) -> dict[str, str]:
    """Return what each directive of ``strftime`` becomes, in the order of their replacement; names in English."""
    moment = date.fromisoformat(day)
    month, weekday = _MONTHS[moment.month - 1], _DAYS[moment.weekday()]
    found = {f"%{k}": moment.strftime(f"%{k}") for k in "dmyYjuwGVUWHIMSf"}  # numbers, the same in every locale
    found |= {f"%-{k}": str(int(found[f"%{k}"])) for k in "dmyjHIMS"}
    found |= {"%a": weekday[:3], "%A": weekday, "%b": month[:3], "%h": month[:3], "%B": month, "%p": "AM"}
    found |= {"%e": f"{moment.day:2}", "%z": "", "%Z": ""}
    found |= {"%F": moment.isoformat(), "%T": "00:00:00", "%X": "00:00:00", "%R": "00:00"}
    found["%D"] = found["%x"] = f"{found['%m']}/{found['%d']}/{found['%y']}"
    found["%c"] = f"{found['%a']} {found['%b']} {found['%e']} 00:00:00 {found['%Y']}"
    return {"%%": _PERCENT, **found, _PERCENT: "%"}
