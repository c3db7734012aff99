"""An answer ends with what the chat template writes behind it, in targets, stops and rewards, whatever EOS the tokenizer names.

Templates are those of published checkpoints, shortened where that changes nothing here; the byte tokenizer, whose EOS is
``</s>``, gives ids that can be worked out by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from tiny_tokenizers import with_template
from transformers import AutoTokenizer, GenerationConfig

from selfcontrast import cli, plugins
from selfcontrast.checkpoints import fit_to_tokenizer, load_tokenizer, save_checkpoint, stated_ends
from selfcontrast.config import parse_study
from selfcontrast.errors import ConfigError, InputError
from selfcontrast.linting.passes import limits_of
from selfcontrast.pools import policy
from selfcontrast.pools._context import PoolContext, PoolPrompt
from selfcontrast.records import Message
from selfcontrast.rendering import Renderer, prepare_tokenizer, renderer_of_base
from selfcontrast.reward_models import render_answers
from selfcontrast.sampling import Sampled
from selfcontrast.specs import expand_specs
from selfcontrast.training.job import fit_to_template
from selfcontrast.world.checkpoint import build_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

EOS = 257
ASKED = [Message("user", "Hi?")]
DIALOGUE = [*ASKED, Message("assistant", "Yes."), Message("user", "So?")]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
IM = ("<|im_start|>", "<|im_end|>")
TEMPLATES: dict[str, tuple[str, tuple[str, ...], str]] = {
    # name: template, control tokens, what stands between an answer and the rest: text, and the token that ends it
    "chatml": (CHATML, IM, "<|im_end|>"),
    "chatml that refuses to end with an answer": (
        "{% if messages[-1]['role'] == 'assistant' %}{{ raise_exception('no') }}{% endif %}" + CHATML,
        IM,
        "<|im_end|>",
    ),
    # Qwen1.5: an end only where something follows, and a system turn that ends with the same token in front
    "end only if another turn follows": (
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
        "{% if (loop.last and add_generation_prompt) or not loop.last %}{{ '<|im_end|>' + '\n' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        IM,
        "<|im_end|>",
    ),
    # Qwen3: thoughts are put before the last answer and taken out of earlier ones
    "thoughts": (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
        "{{ '<|im_start|>assistant\n' + ('<think>\n\n</think>\n\n' if loop.last else '') + said + '<|im_end|>\n' }}"
        "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{% endif %}",
        (*IM, "<think>", "</think>"),
        "<|im_end|>",
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
    ),
    # Phi-3: EOS stands behind the whole dialogue, and no turn ends with it
    "phi3": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
    ),
    # The first Llama 3 Instruct writes the header of an answer whether or not it is asked to
    "llama3 that ignores add_generation_prompt": (
        "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
        "+ m['content'] | trim + '<|eot_id|>' %}{{ bos_token + content if loop.first else content }}{% endfor %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
    ),
    "llama2": (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        (),
        " </s>",
    ),
    "deepseek-coder": (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] + '\n' }}"
        "{% else %}{{ '### Response:\n' + m['content'] + '\n<|EOT|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:' }}{% endif %}",
        ("<|EOT|>",),
        "\n<|EOT|>",
    ),
    "marks of what the model writes": (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}{% else %}"
        "ASSISTANT: {% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT: {% endif %}",
        ("<|end|>",),
        "<|end|>",
    ),
    # Nothing is written behind an answer: EOS has to end it
    "glm4": (
        "[gMASK]<sop>{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>"),
        "</s>",
    ),
    "starts alone": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '\n' }}{% endfor %}"
        "{{ '<|im_start|>assistant\n' }}",
        ("<|im_start|>",),
        "</s>",
    ),
    "alpaca": (
        "Below is an instruction.\n\n{% for m in messages %}"
        "{{ ('### Instruction:\n' if m['role'] == 'user' else '### Response:\n') + m['content'] + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}",
        (),
        "</s>",
    ),
    "plain text that ignores add_generation_prompt": (
        "{% for m in messages %}{{ m['role'] | upper + ': ' + m['content'] + '\n' }}{% endfor %}ASSISTANT: ",
        (),
        "</s>",
    ),
}


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_target_ends_with_what_the_template_writes(name: str) -> None:
    chat, control, written = TEMPLATES[name]
    tokenizer = with_template(chat, *control)
    before = tokenizer.apply_chat_template([{"role": m.role, "content": m.content} for m in DIALOGUE], tokenize=False)
    renderer = renderer_of_base(tokenizer, "tokenizer")
    assert renderer.response_ids("Yes.") == [*b"Yes.", *ids_of(tokenizer, written)]
    end = tokenizer.convert_ids_to_tokens(renderer.end_id)
    assert written.endswith(end)
    assert tokenizer.eos_token == end  # what lm-eval, TRL and an exported model take for the end
    # Its being EOS now changes no text: Phi-3's template writes `eos_token` where no turn ends.
    assert tokenizer.apply_chat_template([vars(m) for m in DIALOGUE], tokenize=False) == before
    assert renderer.response_text(renderer.response_ids("Yes.")) == "Yes."
    assert limits_of(renderer, None).eos == renderer.end_id


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_end_is_the_same_after_saving_and_when_read_again(name: str, tmp_path: Path) -> None:
    chat, control, _ = TEMPLATES[name]
    tokenizer = with_template(chat, *control)
    prepared = renderer_of_base(tokenizer, "tokenizer")
    tokenizer.save_pretrained(tmp_path)
    saved = Renderer(AutoTokenizer.from_pretrained(tmp_path), "tokenizer")
    assert (saved.digest, saved.end_id) == (prepared.digest, prepared.end_id)
    assert prepare_tokenizer(tokenizer, "tokenizer") == []
    assert Renderer(tokenizer, "tokenizer").digest == prepared.digest
    # One that was not prepared, a reward model's, reads the same.
    assert Renderer(with_template(chat, *control), "tokenizer").response_ids("Yes.") == prepared.response_ids("Yes.")


@pytest.mark.parametrize(
    "name", [n for n in TEMPLATES if TEMPLATES[n][2] != "</s>" and "only" not in n and "refuses" not in n]
)
def test_a_reward_is_read_where_the_dialogue_of_the_model_s_own_template_ends(name: str) -> None:
    """Two tokens in `chatml` and `gemma`: the end of turn, and the newline behind it."""
    chat, control, _ = TEMPLATES[name]
    renderer = Renderer(with_template(chat, *control), "tokenizer")
    (row,), n_cut = render_answers(renderer, "Hi?", ["Yes."], longest=1000)
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]
    whole = with_template(chat, *control).apply_chat_template(turns, return_dict=False)
    answer = next(i for i in range(len(whole)) if whole[i : i + 4] == [*b"Yes."])
    assert len(whole) > answer + 4
    assert row[-len(whole[answer:]) :] == whole[answer:]
    assert n_cut == 0


def test_a_reward_under_a_named_template_ends_as_the_template_does() -> None:
    tokenizer = build_tokenizer(max_length=64)
    (row,), _ = render_answers(Renderer(tokenizer, "tokenizer"), "Hello!", ["No."], longest=99)
    assert tokenizer.convert_ids_to_tokens(row)[-2:] == [".", "</s>"]
    (row,), _ = render_answers(Renderer(tokenizer, "dialogue"), "Hello!", ["No."], longest=99)
    assert tokenizer.convert_ids_to_tokens(row)[-2:] == [".", "</s>"]  # it writes an empty line alone


@pytest.mark.parametrize("template", [n for n in plugins.names("templates") if n != "tokenizer"])
def test_the_template_of_a_trained_model_is_read_as_it_was_meant(template: str) -> None:
    tokenizer = with_template("")
    by_name = renderer_of_base(tokenizer, template)
    assert Renderer(tokenizer, "tokenizer").response_ids("Yes.") == by_name.response_ids("Yes.")


def test_an_added_token_that_is_not_special_becomes_so() -> None:
    tokenizer = with_template(CHATML, plain=IM)
    assert renderer_of_base(tokenizer, "tokenizer").rows.added == frozenset()
    renderer = Renderer(tokenizer, "tokenizer")
    assert renderer.response_ids("Yes.") == [*b"Yes.", 259]
    assert renderer.response_text([*b"Yes.", 259]) == "Yes."


# One token as BOS and EOS, as OLMo, Pythia and GPT-2 have it

OLMO = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>\n' + m['content'] + '\n' }}{% else %}"
    "{{ '<|assistant|>\n' + m['content'] + eos_token + ('' if loop.last else '\n') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
BEFORE_EACH = "{% for m in messages %}{{ bos_token + m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
ONE_TOKEN = {
    # name: template, BOS; EOS is `<|end|>`
    "OLMo-2 writes it in front as BOS": ("{{ bos_token }}" + OLMO, "<|end|>"),
    "the first OLMo has no BOS and writes EOS in front": ("{{ eos_token }}" + OLMO, None),
    "it is in front, and an answer ends with it only if another turn follows": (
        "{{ bos_token }}" + OLMO.replace("eos_token + (", "('' if loop.last else eos_token) + ("),
        "<|end|>",
    ),
    "a dialogue that ends with an answer is refused": (
        "{{ bos_token }}{% if messages[-1]['role'] == 'assistant' %}{{ raise_exception('no') }}{% endif %}" + OLMO,
        "<|end|>",
    ),
    "it stands before each turn": (BEFORE_EACH, "<|end|>"),
    "it stands before each turn, and the answer's is always written": (
        BEFORE_EACH + "{{ bos_token + 'assistant: ' }}",
        "<|end|>",
    ),
    "it stands in front and behind all texts": (
        "{{ bos_token }}{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}",
        "<|end|>",
    ),
}


@pytest.mark.parametrize("name", ONE_TOKEN)
def test_eos_may_stand_in_front_of_a_dialogue_too(name: str) -> None:
    chat, bos = ONE_TOKEN[name]
    renderer = renderer_of_base(with_template(chat, bos_token=bos, eos_token="<|end|>"), "tokenizer")
    assert renderer.response_ids("Yes.") == [*b"Yes.", 256]
    ids = renderer.prompt_ids(ASKED)
    assert (ids[0], ids[1] == 256) == (256, False)


# What cannot be told

UNCLEAR = {
    "plain text": (CHATML, "it writes '<|im_end|>' there, which is no token of the tokenizer"),
    "one turn alone": (
        "{% if messages | length > 1 %}{{ raise_exception('one question') }}{% endif %}Q: {{ messages[0]['content'] }}",
        "it renders no dialogue with an answer in it: one question",
    ),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_cannot_be_told_is_asked_of_the_study(name: str) -> None:
    chat, reason = UNCLEAR[name]
    with pytest.raises(InputError, match="cannot be told from the checkpoint's chat template") as error:
        prepare_tokenizer(with_template(chat), "tokenizer")
    assert reason in str(error.value)
    assert "models.<id>.end_of_turn (EOS is </s>)" in str(error.value)
    with pytest.raises(InputError, match="cannot be told"):
        Renderer(with_template(chat), "tokenizer").response_ids("Yes.")


@pytest.mark.parametrize("name", UNCLEAR)
def test_the_token_that_a_study_names_goes_with_the_tokenizer(name: str, tmp_path: Path) -> None:
    tokenizer = with_template(UNCLEAR[name][0], "<|stop|>")
    renderer = renderer_of_base(tokenizer, "tokenizer", end_of_turn="<|stop|>")
    assert renderer.response_ids("Yes.") == [*b"Yes.", 258]
    tokenizer.save_pretrained(tmp_path)
    saved = Renderer(AutoTokenizer.from_pretrained(tmp_path), "tokenizer")
    assert (saved.digest, saved.end_id) == (renderer.digest, 258)
    assert saved.prompt_text(ASKED) == Renderer(with_template(UNCLEAR[name][0]), "tokenizer").prompt_text(ASKED)


def test_a_study_may_know_better_than_the_template() -> None:
    tokenizer = with_template(CHATML, *IM, "<|stop|>")
    assert renderer_of_base(tokenizer, "tokenizer", end_of_turn="<|stop|>").end_id == 260
    with pytest.raises(InputError, match="the token that ends a turn is none of the tokenizer's") as error:
        prepare_tokenizer(with_template(CHATML, *IM), "tokenizer", end_of_turn="<|halt|>")
    assert "found: <|halt|>" in str(error.value)


def test_a_study_may_name_a_token_of_the_plain_vocabulary() -> None:
    """`#` is the byte 35: it becomes a control token, so that one in a text stays text."""
    tokenizer = with_template(CHATML)
    renderer = renderer_of_base(tokenizer, "tokenizer", end_of_turn="#")
    assert renderer.end_id == 35
    assert renderer.rows.added == frozenset()
    assert renderer.response_ids("Yes.") == [*b"Yes.", 35]


def test_a_template_may_change_the_case_of_its_texts() -> None:
    chat = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | upper + '<|end|>' }}{% endfor %}"
    renderer = renderer_of_base(with_template(chat, "<|end|>"), "tokenizer")
    assert renderer.response_ids("Yes.") == [*b"Yes.", 258]


def smoke(**model: Any) -> dict[str, Any]:
    import yaml

    path = Path(__file__).resolve().parents[2] / "config" / "smoke.yaml"
    raw = {"name": "smoke", **yaml.safe_load(path.read_text(encoding="utf-8"))}
    raw["models"]["pocket"] |= model
    return raw


def test_the_key_is_in_the_specs_that_render_and_only_if_it_is_given() -> None:
    plain, given = (expand_specs(parse_study(smoke(**m), where="here")) for m in ({}, {"end_of_turn": "</s>"}))
    changed = {key for key in plain if plain[key] != given[key] and key != "summary"}
    assert changed == {"hh/pocket/prompts", "hh/pocket/lint", "hh/pocket/sft"}
    assert all(given[key] == plain[key] | {"end_of_turn": "</s>"} for key in changed)
    with pytest.raises(ConfigError, match="`end_of_turn` is for the checkpoint's own template; `zephyr` has its own"):
        parse_study(smoke(end_of_turn="</s>", template="zephyr"), where="here")


# What else ends a response


def test_generation_still_ends_where_it_did(llama: Callable[..., LlamaForCausalLM], tmp_path: Path) -> None:
    """Before: [257, 258] of the checkpoint; the tokenizer's 257 and the template's 259 are ends as well."""
    model, tokenizer = llama(260), with_template(CHATML, *IM)
    model.generation_config = GenerationConfig(eos_token_id=[257, 258])
    prepare_tokenizer(tokenizer, "tokenizer")
    fit_to_tokenizer(model, tokenizer, [], stops=[257, 256])
    save_checkpoint(tmp_path / "model", model, tokenizer)
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "model" / file).read_text())["eos_token_id"] == [259, 257, 258, 256]
    assert stated_ends(tmp_path / "model") == [259, 257, 258, 256]


def test_a_default_of_a_configuration_is_no_end(llama: Callable[..., LlamaForCausalLM]) -> None:
    """LlamaConfig says 2 where a checkpoint says nothing, and 2 is a byte here."""
    model, tokenizer = llama(260), with_template(CHATML, *IM)
    assert model.generation_config.eos_token_id == 2
    prepare_tokenizer(tokenizer, "tokenizer")
    fit_to_tokenizer(model, tokenizer, [])
    assert model.generation_config.eos_token_id == 259


def test_a_model_without_generation_config_ends_with_its_turn_alone(tmp_path: Path) -> None:
    assert stated_ends(tmp_path) == []
    renderer = renderer_of_base(with_template(CHATML, *IM), "tokenizer")
    assert renderer.stop_ids() == {renderer.end_id}


def test_control_tokens_that_a_checkpoint_names_end_a_response_and_text_does_not() -> None:
    """Llama 3 names two ends, and both are control tokens; an ordinary byte would cut answers in their middle."""
    renderer = renderer_of_base(with_template(CHATML, *IM), "tokenizer")
    assert renderer.end_id == 259
    assert renderer.stop_ids([258, 65, 257]) == {257, 258, 259}


def test_a_saved_policy_names_as_ends_what_its_answers_end_at_and_no_text(
    llama: Callable[..., LlamaForCausalLM], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Other software would stop an exported policy at the ordinary byte 65, where no answer was ever evaluated."""
    model, tokenizer = llama(260), with_template(CHATML, *IM)
    model.generation_config = GenerationConfig(eos_token_id=[257, 65, 258])
    fit_to_template(model, tokenizer, cli.Step({"template": "tokenizer"}, tmp_path / "manifest.json"), where="here")
    assert "text and no control tokens; they end no answer: [65]" in caplog.text
    save_checkpoint(tmp_path / "model", model, tokenizer)
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "model" / file).read_text())["eos_token_id"] == [259, 257, 258]
    renderer = Renderer(load_tokenizer(tmp_path / "model"), "tokenizer")
    assert renderer.stop_ids(stated_ends(tmp_path / "model")) == {257, 258, 259}


def test_a_pool_stops_at_all_ends_and_keeps_none_in_its_texts() -> None:
    tokenizer = with_template(CHATML, *IM)
    renderer = renderer_of_base(tokenizer, "tokenizer")
    asked: list[frozenset[int]] = []

    class Sampler:
        settings: ClassVar[dict[str, Any]] = {}

        def sample(self, prompts: Any, seeds: Any, sampling: Any, *, eos_ids: frozenset[int]) -> list[list[Sampled]]:
            asked.append(eos_ids)
            return [[Sampled([*b"A", 66], "stop"), Sampled([*b"AB"], "length")] for _ in prompts]

    context = PoolContext(renderer, Sampler, lambda *_: 0, stop_ids=frozenset([66, 259]))  # type: ignore[arg-type]
    params = policy.Params(n_responses=2, max_new_tokens=2)
    found = policy.respond([PoolPrompt("p", [1], ())], context, params, shard=1, shards=1)
    assert asked == [{66, 259}]
    assert [(r.text, r.ids, r.finish) for r in found["p"]] == [("A", [*b"AB"], "stop"), ("AB", [*b"AB"], "length")]
