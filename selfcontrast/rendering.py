"""The only place where a dialogue becomes token ids: sampling, training and evaluation all read its result."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from selfcontrast import plugins
from selfcontrast.chat_heads import refuse_chance
from selfcontrast.chat_tokenizers import (
    TEMPLATE_ERRORS,
    apply_template,
    chat_of,
    check_tokens,
    prepare_tokenizer,
    settings_of,
    turn_end_of,
    unclear_end,
)
from selfcontrast.errors import InputError
from selfcontrast.escaping import Escaper
from selfcontrast.records import UNREADABLE, Message
from selfcontrast.token_rows import ALL, Rows
from selfcontrast.turn_ends import TurnEnd

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ESCAPED", "STRAY", "Renderer", "prepare_tokenizer", "renderer_of_base", "settings_of"]

log = logging.getLogger(__name__)

ESCAPED, STRAY = "texts_escaped", "tokens_from_texts"
"""Counts of a renderer: prompts and responses with the name of a control token in them, which was kept as text; and control
tokens that came from texts all the same, since the tokenizer makes them from plain text or cannot be copied."""

_PROBE = (Message("user", "What is 2+2,\nplease?"), Message("assistant", "Four."), Message("user", "Café 東京 <|x|>"))
"""A dialogue that nearly every template can render; its ids tell apart tokenizers and renderings."""


def renderer_of_base(
    tokenizer: PreTrainedTokenizerBase, template: str, *, rows: int | None = None, **settings: str
) -> Renderer:
    """Return the renderer of a base model's tokenizer, which gets what the template needs.

    Args:
        rows: of the model's embedding; None if they are not known.
        settings: see ``settings_of``.
    """
    new = prepare_tokenizer(tokenizer, template, **settings)
    # Somebody may have added the template's tokens to the tokenizer, and no rows to the model.
    own = tokenizer.convert_tokens_to_ids(list(plugins.load("templates", template).TOKENS))
    return Renderer(tokenizer, template, rows=Rows(rows, frozenset([*new, *Rows(rows).lacking(own)])))


class Renderer:
    """Turns prompts and responses into token ids with one template and one tokenizer.

    Prompt and response are tokenised apart, so that the ids of a prompt never depend on what follows. A prompt has exactly
    one BOS, if the tokenizer has one: where the template puts it, otherwise in front. A complete response ends with the
    template's end of turn. The names of control tokens in a text stay text.

    Args:
        tokenizer: of a base model after ``prepare_tokenizer``, or of a model that was trained with the template.
        template: name of a plug-in of selfcontrast/templates.

    Attributes:
        counts: of ``ESCAPED`` and ``STRAY``, and of ``UNREADABLE`` if there are any.
        rows: of the model's embedding, as far as they are known.

    Raises:
        InputError: the tokenizer has no EOS, no chat template of its own, or lacks tokens of the template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, *, rows: Rows | None = None) -> None:
        definition = plugins.load("templates", template)
        self.tokenizer = tokenizer
        self.template = template
        self.rows = rows or ALL
        self.counts: Counter[str] = Counter()
        check_tokens(tokenizer, template)
        if definition.END and tokenizer.eos_token != definition.END:
            raise InputError(
                "the tokenizer ends a turn with another token than the template",
                expected=definition.END,
                found=str(tokenizer.eos_token),
                where=str(tokenizer.name_or_path),
                remedy=f"train the model with `template: {template}`, or take the template that it was trained with",
            )
        self._chat = chat_of(tokenizer, template)
        refuse_chance(self._chat, where=str(tokenizer.name_or_path))
        self._training_chat: str | None = getattr(definition, "TRAINING_CHAT", None)
        end = turn_end_of(tokenizer, self._chat)
        self._end = TurnEnd(final=end.final) if definition.CHAT else end
        self._end_token = self._end.token or tokenizer.eos_token
        if self._end_token is None:
            raise InputError(
                "the tokenizer has no EOS token",
                where=str(tokenizer.name_or_path),
                remedy="set eos_token in its tokenizer_config.json",
            )
        self._escaper = Escaper(tokenizer)
        controls = tokenizer.convert_tokens_to_ids(list(self._escaper.control))
        self._control_ids = frozenset(controls) - {tokenizer.unk_token_id}
        self._shapes: dict[tuple[bool, tuple[str, ...]], _Shape] = {}

    @property
    def chat(self) -> str:
        """Return the text of the chat template, in Jinja."""
        return self._chat

    @property
    def end_id(self) -> int:
        """Return the id of the token that ends an assistant's turn.

        Raises:
            InputError: the checkpoint's own template does not tell.
        """
        if self._end.unclear:
            raise unclear_end(self.tokenizer, self._end)
        return int(self.tokenizer.convert_tokens_to_ids(self._end_token))

    def stop_ids(self, stated: Iterable[int] = ()) -> frozenset[int]:
        """Return the ids that end a response: the end of turn, and the control tokens among ``stated``.

        A checkpoint may name several ends, all of which its model may write. One that is text and no control token is a wish
        for how to decode, as a penalty is, and would cut answers in their middle.

        Args:
            stated: ids that the checkpoint names as EOS.
        """
        return frozenset([self.end_id, *(i for i in stated if i in self._control_ids)])

    @property
    def digest(self) -> str:
        """Return a hash of everything that turns text into ids: templates, ends, and the ids of a dialogue as a probe."""
        try:
            prompts = [self.prompt_ids(_PROBE), self.training_prompt_ids(_PROBE)]
        except InputError:  # a template for a single question
            prompts = [self.prompt_ids(_PROBE[:1]), self.training_prompt_ids(_PROBE[:1])]
        probe = [*prompts, self.response_ids("Of course: 7.")]
        ends = [self.tokenizer.bos_token, self._end_token]
        state = json.dumps([self._chat, self._training_chat, ends, probe])
        return hashlib.sha256(state.encode()).hexdigest()

    @property
    def trains_apart(self) -> bool:
        """Return whether training reads another prompt than sampling: an accident that some published code has."""
        return self._training_chat is not None

    @cached_property
    def _known_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.get_vocab().values())

    def check_rows(self) -> None:
        """Raise InputError if the model has no embedding for a special token or for a token that the template writes."""
        self.rows.check_specials(self.tokenizer)
        ids = [*self.prompt_ids([Message("user", "x")]), *self.response_ids("x")]
        self.rows.check(self.tokenizer, ids, where=f"{self.tokenizer.name_or_path}, its chat template")

    def prompt_text(self, messages: Sequence[Message], *, training: bool = False) -> str:
        """Return the rendered prompt, up to where the answer starts.

        Raises:
            InputError: the template cannot render this order of turns.
        """
        _check_order([m.role for m in messages])
        return self._render([m.role for m in messages], [m.content for m in messages], training=training)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a prompt, with its BOS, as sampling and evaluation read it."""
        return self._prompt_ids(messages, training=False)

    def training_prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a prompt as training reads it: those of ``prompt_ids``, unless ``trains_apart``."""
        return self._prompt_ids(messages, training=True)

    def response_ids(self, text: str) -> list[int]:
        """Return the ids of a complete response, the end of turn last."""
        self.counts[ESCAPED] += self._escaper.contains_control([text])
        ids = self._escaper.encode([text], lambda texts: texts[0] + self._end.lead)
        self.counts[STRAY] += self._n_controls(ids)
        return [*ids, self.end_id]

    def finished_ids(self, text: str) -> list[int]:
        """Return the ids of a complete response with all that the template writes behind the last answer of a dialogue.

        Reward models read these: their number stands at the last token of the rendered dialogue, which is a newline behind
        the end of turn in some templates.
        """
        final = self._end.final
        return self._escaper.encode([text], lambda texts: texts[0] + final) if final else self.response_ids(text)

    def response_text(self, ids: Sequence[int]) -> str:
        """Return the text of sampled ids, without special tokens; ids that are no tokens are counted."""
        if unreadable := sum(i not in self._known_ids for i in ids):
            self.counts[UNREADABLE] += unreadable
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def unreadable(self) -> dict[str, int]:
        """Return the count of ``UNREADABLE`` for a report; nothing if there were none."""
        n = self.counts[UNREADABLE]
        if n:
            log.warning("%d sampled ids are no tokens of the tokenizer; the texts of their responses lack them", n)
        return {UNREADABLE: n} if n else {}

    def _prompt_ids(self, messages: Sequence[Message], *, training: bool) -> list[int]:
        roles, texts = [m.role for m in messages], [m.content for m in messages]
        _check_order(roles)
        shape = self._shape(roles, training=training)
        ids = self._encode(roles, texts, training=training)
        self.counts[ESCAPED] += self._escaper.contains_control(texts)
        self.counts[STRAY] += max(0, self._n_controls(ids) - shape.n_controls)
        return self._with_one_bos(ids, is_written=shape.has_bos)

    def _shape(self, roles: list[str], *, training: bool) -> _Shape:
        """Return what a template writes by itself around turns of these roles."""
        key = training, tuple(roles)
        if key not in self._shapes:
            marks = [f"6180339{i}" for i in range(len(roles))]  # digits, which no filter of a template changes
            text = self._render(roles, marks, training=training)
            asked = [m for m, role in zip(marks, roles, strict=True) if role == "user" and m in text]
            head = text.partition(asked[0])[0] if asked else text  # BOS may stand behind a system turn
            bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token
            # Where one token serves as both, one that does not stand in front may end a turn.
            has_bos = bos is not None and (head.lstrip().startswith(bos) or (bos != eos and bos in head))
            n_controls = self._n_controls(self._encode(roles, marks, training=training))
            self._shapes[key] = _Shape(n_controls, has_bos)
        return self._shapes[key]

    def _encode(self, roles: list[str], texts: list[str], *, training: bool) -> list[int]:
        return self._escaper.encode(texts, lambda parts: self._render(roles, parts, training=training))

    def _with_one_bos(self, ids: list[int], *, is_written: bool) -> list[int]:
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        if bos not in ids or not (is_written or ids[0] == bos):
            return [bos, *ids]
        place = ids.index(bos)
        rest = ids[place:]
        while rest[1:2] == [bos]:
            rest = rest[1:]
        return [*ids[:place], *rest]

    def _render(self, roles: list[str], texts: list[str], *, training: bool) -> str:
        chat = self._training_chat if training and self._training_chat is not None else self._chat
        try:
            return apply_template(self.tokenizer, chat, list(zip(roles, texts, strict=True)), prompts=True)
        except TEMPLATE_ERRORS as error:
            raise InputError(
                f"the chat template `{self.template}` cannot render a dialogue",
                found=f"{error}; turns: {', '.join(roles)}",
                remedy="take another `template` for this model, or leave such records out",
            ) from None

    def _n_controls(self, ids: Sequence[int]) -> int:
        return sum(i in self._control_ids for i in ids)


@dataclass(frozen=True)
class _Shape:
    """What a template writes by itself: how many control tokens, and whether BOS is among them."""

    n_controls: int
    has_bos: bool


def _check_order(roles: Sequence[str]) -> None:
    """Raise InputError unless the turns are the user's and the assistant's in turn, after a system turn or none."""
    turns = roles[1:] if roles[:1] == ["system"] else roles
    in_turn = all(a != b for a, b in zip(turns, turns[1:], strict=False))
    if not turns or turns[-1] != "user" or not set(turns) <= {"user", "assistant"} or not in_turn:
        raise InputError(
            "a prompt cannot be rendered",
            expected="turns of user and assistant that alternate and end with the user's, after a system turn or none",
            found=", ".join(roles) or "no turn",
        )
