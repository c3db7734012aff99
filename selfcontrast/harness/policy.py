"""A policy as lm-evaluation-harness asks it: the token ids that it was trained to read, and its own way of stopping alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selfcontrast.errors import InputError
from selfcontrast.escaping import Escaper
from selfcontrast.finite import NotFiniteError, name_of_model, require_finite
from selfcontrast.records import Message
from selfcontrast.rendering import Renderer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TRUNCATED, CONTROLS, SYSTEM, UNUSUAL = "truncated", "control_tokens_read", "system_turns_dropped", "unusual_dialogues"
"""What is counted: requests that lost the beginning of their prompt; requests in plain text with the name of a control
token, which is read as that token; prompts without their system turn, since the chat template refuses it; prompts whose
turns are in an order that no training prompt has, which the harness renders."""


def stop_ids(model: PreTrainedModel, renderer: Renderer) -> tuple[int, ...]:
    """Return the ids that end an answer of a policy, the end of a turn first: the same as where it is sampled."""
    stated = model.generation_config.eos_token_id if model.generation_config is not None else None
    others = renderer.stop_ids([stated] if isinstance(stated, int) else stated or ()) - {renderer.end_id}
    return (renderer.end_id, *sorted(others))


class Rendered(str):
    """A prompt that the chat template rendered, which remembers of which turns: its ids cannot be read off its text.

    Attributes:
        turns: up to the question; () where the harness rendered it by itself.
        beginning: of the answer, which the task gives; mostly empty.
        ids: of the turns, once they were asked for.
    """

    turns: tuple[Message, ...] = ()
    beginning: str = ""
    ids: tuple[int, ...] | None = None


class Prompts:
    """Texts of the harness as token ids: ``Renderer.prompt_ids`` behind a chat template, else plain text with one BOS."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self.first: int | None = renderer.tokenizer.bos_token_id
        self.bos = self.first  # None for texts that get none
        self.counts: Counter[str] = Counter(dict.fromkeys((TRUNCATED, CONTROLS, SYSTEM, UNUSUAL), 0))
        self._escaper = Escaper(renderer.tokenizer)

    def render(self, history: Sequence[Mapping[str, str]], *, is_begun: bool) -> Rendered | None:
        """Return a dialogue of the harness as a prompt, None if the policy was trained on no dialogue of such turns.

        Args:
            is_begun: the last turn is the beginning of the answer.
        """
        turns = [Message(str(turn["role"]), turn["content"]) for turn in history]
        beginning = turns.pop().content if is_begun else ""
        for kept in (turns, turns[1:]) if turns and turns[0].role == "system" else (turns,):
            try:
                prompt = Rendered(self.renderer.prompt_text(kept) + beginning)
            except InputError:
                continue
            self.counts[SYSTEM] += len(kept) < len(turns)
            prompt.turns, prompt.beginning = tuple(kept), beginning
            return prompt
        self.counts[UNUSUAL] += 1
        return None

    def prompt_ids(self, text: str, *, bos: bool = True) -> list[int]:
        """Return the ids of a prompt.

        Args:
            bos: plain text starts with BOS, if the tokenizer has one, whatever its post-processor says.
        """
        if isinstance(text, Rendered) and text.turns:
            return [*self._turn_ids(text), *self.answer_ids(text.beginning)]
        ids = list(self.renderer.tokenizer(text, add_special_tokens=False)["input_ids"])
        has_bos = self.bos in (ids if isinstance(text, Rendered) else ids[:1])  # a template writes it where it likes
        return ids if self.bos is None or has_bos or not bos else [self.bos, *ids]

    def pair_ids(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Return the ids of a prompt and of an answer whose likelihood is asked for.

        With a chat template both are tokenised apart, as in training. Plain text, and an answer that the task begins, are
        tokenised as a whole, then cut, and spaces before the cut belong to the answer: the harness' own rule.
        """
        if isinstance(prompt, Rendered) and prompt.turns:
            begun, behind = _cut(prompt.beginning, answer, self.answer_ids)
            return [*self._turn_ids(prompt), *begun], behind or self.answer_ids(answer)
        before, behind = _cut(prompt, answer, self.prompt_ids)
        # A token that holds the end of the prompt and all of the answer leaves nothing behind the cut.
        return before, behind or self.prompt_ids(prompt[len(prompt.rstrip()) :] + answer, bos=False)

    def answer_ids(self, text: str) -> list[int]:
        """Return the ids of a part of an answer; the names of control tokens in it stay text."""
        return self._escaper.encode([text], lambda texts: texts[0]) if text else []

    def fit(self, ids: Sequence[int], room: int) -> list[int]:
        """Return a prompt that loses its beginning, if it must, but not its BOS."""
        if len(ids) <= room:
            return list(ids)
        self.counts[TRUNCATED] += 1
        head = list(ids[: ids.index(self.bos) + 1]) if self.bos in ids else []
        head = head[: max(room, 0)]
        return [*head, *ids[len(ids) - (room - len(head)) :]]

    def _turn_ids(self, prompt: Rendered) -> tuple[int, ...]:
        if prompt.ids is None:
            prompt.ids = tuple(self.renderer.prompt_ids(prompt.turns))
        return prompt.ids

    def note(self, texts: Iterable[str]) -> None:
        """Count the requests in plain text in which the name of a control token is read as that token."""
        self.counts[CONTROLS] += sum(
            self._escaper.contains_control([t]) for t in texts if not (isinstance(t, Rendered) and t.turns)
        )


def _cut(start: str, rest: str, encode: Callable[[str], list[int]]) -> tuple[list[int], list[int]]:
    """Return the ids of a text's start without spaces at its end, and what the ids of the whole text have behind as many."""
    before = encode(start.rstrip())
    return before, encode(start + rest)[len(before) :]


def policy_lm(model: PreTrainedModel, renderer: Renderer, *, batch: int) -> Any:
    """Return a policy as a model of the harness; ``prompts.counts`` says what happened to its requests.

    The harness' own model encodes as the tokenizer's post-processor says, which training does not read. It also takes BOS
    away from what it truncates, and ends answers at the tokenizer's EOS alone.
    """
    import torch
    from lm_eval.models.huggingface import HFLM

    from selfcontrast.attention import why_no_shared_prompt

    stops = stop_ids(model, renderer)
    is_alone = why_no_shared_prompt(model) is not None

    class PolicyLM(HFLM):  # type: ignore[misc]
        def __init__(self) -> None:
            self.prompts = Prompts(renderer)
            pad, rows = renderer.tokenizer.pad_token_id, model.get_input_embeddings().weight.shape[0]
            if pad is None or pad >= rows:  # the harness would add a token, for which the model has no row
                renderer.tokenizer.pad_token_id = stops[0]
            # Named, since the harness takes a decoder of an architecture that also has encoders for a pair of both.
            super().__init__(pretrained=model, backend="causal", tokenizer=renderer.tokenizer, batch_size=batch)

        @property
        def eot_token_id(self) -> int:
            return stops[0]

        @property
        def prefix_token_id(self) -> int:
            return stops[0] if self.prompts.first is None else self.prompts.first

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            found = self.prompts.render(chat_history, is_begun=not add_generation_prompt)
            return (
                Rendered(super().apply_chat_template(chat_history, add_generation_prompt)) if found is None else found
            )

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return self.prompts.prompt_ids(string, bos=add_special_tokens is not False)

        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            before, behind = self.prompts.pair_ids(context, continuation)
            return before or [self.prefix_token_id], behind

        def tok_batch_encode(
            self, strings: Sequence[str], left_truncate_len: int | None = None, **_: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            """Return ids and attention mask ``(prompts, longest)``, padded on the left."""
            rows = [self.prompts.prompt_ids(text) or [self.prefix_token_id] for text in strings]
            rows = [self.prompts.fit(row, left_truncate_len or len(row)) for row in rows]
            longest, pad = max(map(len, rows)), self.tokenizer.pad_token_id
            ids = [[pad] * (longest - len(row)) + row for row in rows]
            mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
            return torch.tensor(ids), torch.tensor(mask)

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
            if skip_special_tokens and isinstance(tokens, list):
                end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
                tokens = tokens[:end]
            return str(super().tok_decode(tokens, skip_special_tokens=skip_special_tokens))

        def loglikelihood(self, requests: Any, **kwargs: Any) -> Any:
            self.prompts.note(request.args[0] for request in requests)
            return super().loglikelihood(requests, **kwargs)

        def generate_until(self, requests: Any, **kwargs: Any) -> Any:
            self.prompts.note(request.args[0] for request in requests)
            return self.run_answers(requests, **kwargs)

        def run_answers(self, requests: Any, **kwargs: Any) -> Any:
            """Return the answers to requests that are counted already.

            The harness pads prompts on the left, which some models read as text: those answer one by one.
            """
            self.batch_size_per_gpu = 1 if is_alone else batch
            try:
                return super().generate_until(requests, **kwargs)
            finally:
                self.batch_size_per_gpu = batch

        def loglikelihood_rolling(self, requests: Any, **kwargs: Any) -> Any:
            """Return the log-likelihood of whole texts; BOS is what they follow, and no part of them."""
            self.prompts.note(request.args[0] for request in requests)
            self.prompts.bos = None
            try:
                return super().loglikelihood_rolling(requests, **kwargs)
            finally:
                self.prompts.bos = self.prompts.first

        def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> Any:
            for key, _, said in requests:
                if not 0 < len(said) <= self.max_length:
                    raise InputError(
                        "the likelihood of an answer cannot be computed",
                        expected=f"1 to {self.max_length} tokens, the model's context",
                        found=f"{len(said)} tokens: {str(key)[:200]!r}",
                        remedy="correct the choices of the task, or take a model with a longer context",
                    )
            room = self.max_length + 1  # the last token of an answer is read by nobody
            fitted = [(key, self.prompts.fit(asked, room - len(said)), said) for key, asked, said in requests]
            return self.run_likelihoods(fitted, **kwargs)

        def run_likelihoods(self, requests: Any, **kwargs: Any) -> Any:
            """Return the log-likelihoods of requests that fit into the context."""
            found = super()._loglikelihood_tokens(requests, **kwargs)
            numbers = [number for number, _ in found]
            require_finite(
                numbers, "the log-likelihood of a text", lambda i: _end_of(requests[i][0]), model=name_of_model(model)
            )
            return found

        def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
            finite = FiniteLogits(model, renderer.tokenizer)
            return super()._model_generate(context, *args, logits_processor=[finite], **kwargs)

    return PolicyLM()


class FiniteLogits:
    """What `generate` of transformers calls with the logits of each step: raises NotFiniteError where none is the largest."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take the model and the tokenizer for messages; the latter's padding stands where an answer has ended."""
        self._model, self._tokenizer = model, tokenizer
        self._start: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits as they are."""
        self._start = input_ids.shape[1] if self._start is None else self._start
        has_ended = (input_ids[:, -1] == self._tokenizer.pad_token_id) & (input_ids.shape[1] > self._start)
        largest = scores.amax(-1)
        if bad := (~largest.isfinite() & ~has_ended).nonzero()[:, 0].tolist():
            question = self._tokenizer.decode(input_ids[bad[0], : self._start], skip_special_tokens=True)
            raise NotFiniteError(
                f"the largest logit of token {input_ids.shape[1] - self._start + 1} of an answer",
                largest[bad[0]].item(),
                of=_end_of((question,)),
                model=name_of_model(self._model),
            )
        return scores


def _end_of(texts: Sequence[str | None] | None) -> str:
    """Return what a question is called in messages: its end, since the beginning may be that of every question."""
    return f"the question that ends in {str(texts[0])[-80:]!r}" if texts and texts[0] else "a text"
