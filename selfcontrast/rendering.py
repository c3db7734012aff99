"""The only place where a dialogue becomes token ids: sampling, training and evaluation all read its result."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from selfcontrast import plugins
from selfcontrast.errors import InputError
from selfcontrast.escaping import Escaper
from selfcontrast.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ESCAPED, STRAY = "texts_escaped", "tokens_from_texts"
"""Counts of a renderer: prompts and responses with the name of a control token in them, which was kept as text; and control
tokens that came from texts all the same, since the tokenizer makes them from plain text or cannot be copied."""

_PROBE = (Message("user", "What is 2+2,\nplease?"), Message("assistant", "Four."), Message("user", "Café 東京 <|x|>"))
"""A dialogue that every template can render; its ids tell apart tokenizers and renderings."""


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, template: str) -> list[int]:
    """Give a tokenizer, in place, what a template needs: its tokens, its end of turn as EOS, its text as chat template.

    The steps ``encode`` and ``sft`` both do this to the tokenizer of the base model, and get the same ids: missing tokens are
    added in the order of their names. A second call changes nothing.

    Returns:
        The ids of the tokens that were not in the vocabulary; the model needs embeddings for them.

    Raises:
        InputError: the tokenizer takes no new tokens.
    """
    definition = plugins.load("templates", template)
    missing = [t for t in sorted(definition.TOKENS) if not _is_special(tokenizer, t)]
    new = [t for t in missing if t not in tokenizer.get_vocab()]
    try:
        if missing:
            tokenizer.add_tokens(missing, special_tokens=True)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise _lacks(tokenizer, template, missing, why=str(error)) from None
    _check_tokens(tokenizer, template)
    if definition.END:
        tokenizer.eos_token = definition.END
    if definition.CHAT:
        tokenizer.chat_template = definition.CHAT
    return [int(tokenizer.convert_tokens_to_ids(t)) for t in new]


def renderer_of_base(tokenizer: PreTrainedTokenizerBase, template: str) -> Renderer:
    """Return the renderer of a base model's tokenizer, which gets what the template needs."""
    prepare_tokenizer(tokenizer, template)
    return Renderer(tokenizer, template)


class Renderer:
    """Turns prompts and responses into token ids with one template and one tokenizer.

    Prompt and response are tokenised apart, so that the ids of a prompt never depend on what follows. A prompt starts
    with exactly one BOS, if the tokenizer has one; a complete response ends with exactly one EOS, which is the template's end
    of turn. The names of control tokens in a text stay text.

    Args:
        tokenizer: of a base model after ``prepare_tokenizer``, or of a model that was trained with the template.
        template: name of a plug-in of selfcontrast/templates.

    Attributes:
        counts: of ``ESCAPED`` and ``STRAY``.

    Raises:
        InputError: the tokenizer has no EOS, no chat template of its own, or lacks tokens of the template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        definition = plugins.load("templates", template)
        self.tokenizer = tokenizer
        self.template = template
        self.counts: Counter[str] = Counter()
        _check_tokens(tokenizer, template)
        if definition.END and tokenizer.eos_token != definition.END:
            raise InputError(
                "the tokenizer ends a turn with another token than the template",
                expected=definition.END,
                found=str(tokenizer.eos_token),
                where=str(tokenizer.name_or_path),
                remedy=f"train the model with `template: {template}`, or take the template that it was trained with",
            )
        if tokenizer.eos_token_id is None:
            raise InputError(
                "the tokenizer has no EOS token",
                where=str(tokenizer.name_or_path),
                remedy="set eos_token in its tokenizer_config.json",
            )
        if not definition.CHAT and not tokenizer.chat_template:
            raise InputError(
                "the tokenizer brings no chat template",
                where=str(tokenizer.name_or_path),
                remedy="set `template` of this model in the study file to one of: "
                + ", ".join(t for t in plugins.names("templates") if t != template),
            )
        self._chat: str = definition.CHAT or _default_template(tokenizer)
        self._training_chat: str | None = getattr(definition, "TRAINING_CHAT", None)
        self._escaper = Escaper(tokenizer)
        controls = tokenizer.convert_tokens_to_ids(list(self._escaper.control))
        self._control_ids = frozenset(controls) - {tokenizer.unk_token_id}
        self._n_expected: dict[tuple[bool, tuple[str, ...]], int] = {}

    @property
    def chat(self) -> str:
        """Return the text of the chat template, in Jinja."""
        return self._chat

    @property
    def digest(self) -> str:
        """Return a hash of everything that turns text into ids: templates, ends, and the ids of a dialogue as a probe."""
        probe = [self.prompt_ids(_PROBE), self.training_prompt_ids(_PROBE), self.response_ids("Of course: 7.")]
        ends = [self.tokenizer.bos_token, self.tokenizer.eos_token]
        state = json.dumps([self._chat, self._training_chat, ends, probe])
        return hashlib.sha256(state.encode()).hexdigest()

    @property
    def trains_apart(self) -> bool:
        """Return whether training reads another prompt than sampling: an accident that some published code has."""
        return self._training_chat is not None

    def prompt_text(self, messages: Sequence[Message], *, training: bool = False) -> str:
        """Return the rendered prompt, up to where the answer starts.

        Raises:
            InputError: the template cannot render this order of turns.
        """
        _check_order([m.role for m in messages])
        return self._render([m.role for m in messages], [m.content for m in messages], training=training)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a prompt, BOS first, as sampling and evaluation read it."""
        return self._prompt_ids(messages, training=False)

    def training_prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a prompt as training reads it: those of ``prompt_ids``, unless ``trains_apart``."""
        return self._prompt_ids(messages, training=True)

    def response_ids(self, text: str) -> list[int]:
        """Return the ids of a complete response, EOS last."""
        self.counts[ESCAPED] += self._escaper.contains_control([text])
        ids = self._escaper.encode([text], lambda texts: texts[0])
        self.counts[STRAY] += self._n_controls(ids)
        return [*ids, int(self.tokenizer.eos_token_id)]

    def response_text(self, ids: Sequence[int]) -> str:
        """Return the text of sampled ids, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _prompt_ids(self, messages: Sequence[Message], *, training: bool) -> list[int]:
        roles, texts = [m.role for m in messages], [m.content for m in messages]
        _check_order(roles)
        key = training, tuple(roles)
        if key not in self._n_expected:
            self._n_expected[key] = self._n_controls(self._encode(roles, ["x"] * len(roles), training=training))
        ids = self._encode(roles, texts, training=training)
        self.counts[ESCAPED] += self._escaper.contains_control(texts)
        self.counts[STRAY] += max(0, self._n_controls(ids) - self._n_expected[key])
        return ids

    def _encode(self, roles: list[str], texts: list[str], *, training: bool) -> list[int]:
        ids = self._escaper.encode(texts, lambda parts: self._render(roles, parts, training=training))
        bos = self.tokenizer.bos_token_id
        return ids if bos is None else [bos, *(ids[1:] if ids[:1] == [bos] else ids)]

    def _render(self, roles: list[str], texts: list[str], *, training: bool) -> str:
        from jinja2 import TemplateError

        chat = self._training_chat if training and self._training_chat is not None else self._chat
        turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        try:
            rendered = self.tokenizer.apply_chat_template(
                turns, chat_template=chat, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise InputError(
                f"the chat template `{self.template}` cannot render a dialogue",
                found=f"{error}; turns: {', '.join(roles)}",
                remedy="take another `template` for this model, or leave such records out",
            ) from None
        return str(rendered)

    def _n_controls(self, ids: Sequence[int]) -> int:
        return sum(i in self._control_ids for i in ids)


def _default_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template of a tokenizer; of several, the one that is named `default`."""
    own = tokenizer.chat_template
    if isinstance(own, dict) and "default" not in own:
        raise InputError(
            "the tokenizer has named chat templates, and none of them is its default",
            expected="one that is named `default`",
            found=", ".join(own),
            where=str(tokenizer.name_or_path),
            remedy="write the one that is meant into chat_template.jinja there, or set `template` in the study file",
        )
    return str(tokenizer.get_chat_template())


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


def _is_special(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Return whether the tokenizer reads a text as one token wherever it stands, and leaves it out of decoded text."""
    return any(t.special and t.content == token for t in tokenizer.added_tokens_decoder.values())


def _check_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
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
