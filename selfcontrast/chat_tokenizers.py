"""Tokenizers of base models get what a chat template needs, and say of themselves what their template does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from selfcontrast import plugins
from selfcontrast.chat_heads import DEFAULT_DATE, stated_end, with_date, with_end, with_eos
from selfcontrast.errors import InputError
from selfcontrast.turn_ends import TurnEnd, read_turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
"""What rendering a checkpoint's own template may end with."""


def settings_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return what a study says of a checkpoint's own template, as arguments of ``prepare_tokenizer``."""
    return {key: spec[key] for key in ("end_of_turn", "template_date") if spec.get(key) is not None}


def prepare_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    *,
    end_of_turn: str | None = None,
    template_date: str = DEFAULT_DATE,
) -> list[int]:
    """Give a tokenizer, in place, what a template needs: its tokens, its end of turn as EOS, its text as chat template.

    The steps ``encode`` and ``sft`` both do this to the tokenizer of the base model, and get the same ids: missing tokens are
    added in the order of their names. A second call changes nothing. Of a checkpoint's own template the end of turn is read.

    Args:
        end_of_turn: token that ends a turn under the checkpoint's own template, instead of what is read from it.
        template_date: day, in ISO form, for a template that asks for the date.

    Returns:
        The ids of the tokens that were not in the vocabulary; the model needs embeddings for them.

    Raises:
        InputError: the tokenizer takes no new tokens, or it cannot be told what ends a turn.
    """
    definition = plugins.load("templates", template)
    new = _add_tokens(tokenizer, template, definition.TOKENS)
    check_tokens(tokenizer, template)
    if definition.END:
        tokenizer.eos_token = definition.END
    if definition.CHAT:
        tokenizer.chat_template = with_date(definition.CHAT, template_date)
    elif tokenizer.chat_template:
        _settle_own_template(tokenizer, template, end_of_turn, template_date)
    return [int(tokenizer.convert_tokens_to_ids(t)) for t in new]


def apply_template(
    tokenizer: PreTrainedTokenizerBase, chat: str, turns: Sequence[tuple[str, str]], *, prompts: bool
) -> str:
    """Return the text of a dialogue.

    Args:
        turns: role and text of each.
        prompts: write what an answer begins with behind the last turn.

    Raises:
        TEMPLATE_ERRORS: the template refuses the turns, or is damaged.
    """
    messages = [{"role": role, "content": text} for role, text in turns]
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=chat, tokenize=False, add_generation_prompt=prompts
    )
    return str(rendered)


def chat_of(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """Return the text of a chat template with a fixed date.

    The tokenizer of a model that was trained has it with the date of its study, others get ``DEFAULT_DATE``.

    Raises:
        InputError: there is none.
    """
    chat = plugins.load("templates", template).CHAT
    if not chat:
        return with_date(_own_chat(tokenizer, template), DEFAULT_DATE)
    saved = tokenizer.chat_template
    return saved if isinstance(saved, str) and saved.endswith(chat) else with_date(chat, DEFAULT_DATE)


def turn_end_of(tokenizer: PreTrainedTokenizerBase, chat: str) -> TurnEnd:
    """Return what a template writes behind an answer, with the token that the study states if it does."""
    refused: list[str] = []

    def render(turns: Sequence[tuple[str, str]], prompts: bool) -> str | None:
        try:
            return apply_template(tokenizer, chat, turns, prompts=prompts)
        except TEMPLATE_ERRORS as error:
            refused.append(str(error))
            return None

    names = [token.content for token in tokenizer.added_tokens_decoder.values()]
    names += [tokenizer.eos_token] if tokenizer.eos_token else []
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    found = read_turn_end(render, names, bos=None if bos == eos else bos, eos=eos)
    if (stated := stated_end(chat)) is None:
        reason = ": ".join([found.unclear, *refused[:1]]) if found.unclear else ""
        return replace(found, unclear=reason)
    lead, token, _ = found.final.partition(stated)
    return TurnEnd(stated, lead if token else "", found.final if token else "")


def unclear_end(tokenizer: PreTrainedTokenizerBase, end: TurnEnd) -> InputError:
    """Return the error for a template whose end of turn cannot be told."""
    return InputError(
        "it cannot be told from the checkpoint's chat template what ends an answer",
        expected="a token behind the answer, or nothing, where the tokenizer's EOS ends it",
        found=end.unclear,
        where=str(tokenizer.name_or_path),
        remedy=f"name that token in models.<id>.end_of_turn (EOS is {tokenizer.eos_token}); or set models.<id>.template to "
        "one that brings tokens of its own, such as chatml",
    )


def _settle_own_template(
    tokenizer: PreTrainedTokenizerBase, template: str, end_of_turn: str | None, template_date: str
) -> None:
    """Make the end of turn of a checkpoint's own template its tokenizer's EOS; texts are rendered as before."""
    own = _own_chat(tokenizer, template)
    chat = with_date(own, template_date)
    if end_of_turn is not None:
        chat = with_end(chat, end_of_turn)
    end = turn_end_of(tokenizer, chat)
    if end.unclear:
        raise unclear_end(tokenizer, end)
    if end.token is not None:
        if end.token not in tokenizer.get_vocab():
            raise InputError(
                "the token that ends a turn is none of the tokenizer's",
                found=end.token,
                where=str(tokenizer.name_or_path),
                remedy="correct models.<id>.end_of_turn: it names one token of the vocabulary",
            )
        _add_tokens(tokenizer, template, [end.token])
        if end.token != tokenizer.eos_token:
            chat = with_eos(chat, tokenizer.eos_token or "")
            tokenizer.eos_token = end.token
    if chat != own:
        named = tokenizer.chat_template
        tokenizer.chat_template = {**named, "default": chat} if isinstance(named, dict) else chat


def _own_chat(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    named = tokenizer.chat_template
    if not named or (isinstance(named, dict) and "default" not in named):
        raise InputError(
            "the tokenizer brings no chat template" if not named else "the tokenizer brings no default chat template",
            found=", ".join(sorted(named)) if named else "",
            where=str(tokenizer.name_or_path),
            remedy="set `template` of this model in the study file to one of: "
            + ", ".join(t for t in plugins.names("templates") if t != template),
        )
    return tokenizer.get_chat_template()


def _add_tokens(tokenizer: PreTrainedTokenizerBase, template: str, tokens: Sequence[str]) -> list[str]:
    """Make tokens control tokens, in place, and return those that were not in the vocabulary."""
    missing = [t for t in sorted(tokens) if not _is_special(tokenizer, t)]
    new = [t for t in missing if t not in tokenizer.get_vocab()]
    try:
        if missing:
            tokenizer.add_tokens(missing, special_tokens=True)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise _lacks(tokenizer, template, missing, why=str(error)) from None
    return new


def _is_special(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Return whether the tokenizer reads a text as one token wherever it stands, and leaves it out of decoded text."""
    return any(t.special and t.content == token for t in tokenizer.added_tokens_decoder.values())


def check_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    """Raise InputError if the tokenizer lacks tokens of the template."""
    lacking = [t for t in plugins.load("templates", template).TOKENS if not _is_special(tokenizer, t)]
    if lacking:
        raise _lacks(tokenizer, template, lacking)


def _lacks(tokenizer: PreTrainedTokenizerBase, template: str, tokens: Sequence[str], *, why: str = "") -> InputError:
    return InputError(
        f"the tokenizer lacks tokens of the chat template `{template}`",
        expected=", ".join(tokens),
        found=why,
        where=str(tokenizer.name_or_path),
        remedy="the step sft adds them to a base model; if it cannot, take a template without tokens of its own",
    )
