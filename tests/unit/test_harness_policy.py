"""What a policy reads and how it is decoded when lm-evaluation-harness asks it: the ids of the renderer, and the stop ids alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from every_architecture import small_config, small_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers.decoders import ByteLevel
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfcontrast import artifacts, checkpoints, cli, plugins
from selfcontrast.checkpoints import reset_generation
from selfcontrast.chunks import Chunks
from selfcontrast.errors import InputError
from selfcontrast.harness import policy
from selfcontrast.harness.policy import policy_lm
from selfcontrast.harness.resuming import keep_batches
from selfcontrast.records import Message
from selfcontrast.rendering import Renderer, prepare_tokenizer
from selfcontrast.schema import Benchmark
from selfcontrast.steps import benchmark

pytestmark = pytest.mark.usefixtures("one_thread")

QUESTION, ANSWER = "Where does Tom live, and which game does he play?", "Tom lives in Rome. He plays golf."
OWN = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


def build_tokenizer(*, bos: bool = True, adds: str = "", own: str = OWN, words: bool = False) -> Any:
    """Return a byte-level BPE tokenizer.

    Args:
        words: whether no token reaches over the end of a word, as in GPT-2; else tokens such as ``: g`` do.
        bos: whether it has a BOS token.
        adds: what its post-processor writes around a text: ``<s>``, ``</s>``, both, or nothing.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    core.decoder = ByteLevel()
    special = ["<pad>", *(["<s>"] if bos else []), "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([f"{QUESTION}\n{ANSWER}\nassistant\ngolf: golf>golf\n golf"] * 9, trainer)
    if adds:
        head, tail = ("<s> " if "<s>" in adds else ""), (" </s>" if "</s>" in adds else "")
        ids = [(t, core.token_to_id(t)) for t in ("<s>", "</s>") if t in adds]
        core.post_processor = processors.TemplateProcessing(single=f"{head}$A{tail}", special_tokens=ids)
    named = {"bos_token": "<s>"} if bos else {}
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>", **named)
    fast.chat_template = own
    return fast


def build_model(tokenizer: Any, *, context: int = 512, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).eval()


class Spied:
    """A policy of the harness, and the rows of ids that its model was run with, one after the other.

    Of an answer that is generated token by token, the row of its prompt alone.
    """

    def __init__(self, tokenizer: Any, template: str = "tokenizer", **model: Any) -> None:
        prepare_tokenizer(tokenizer, template)
        self.renderer = Renderer(tokenizer, template)
        self.model = build_model(tokenizer, **model)
        reset_generation(self.model, [self.renderer.end_id])
        self.rows: list[list[int]] = []
        watch(self.model, self.rows)
        self.lm = policy_lm(self.model, self.renderer, batch=1)

    def loglikelihood(self, context: str, continuation: str) -> list[int]:
        self.rows.clear()
        self.lm.loglikelihood([instance("loglikelihood", context, continuation)], disable_tqdm=True)
        return self.rows[0]

    def generate(self, context: str, **keys: Any) -> list[int]:
        self.rows.clear()
        asked = instance("generate_until", context, {"until": [], "max_gen_toks": 4, **keys})
        self.lm.generate_until([asked], disable_tqdm=True)
        return self.rows[0]


def watch(model: Any, rows: list[list[int]]) -> None:
    def note(_: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        if kwargs.get("past_key_values") is None or kwargs["past_key_values"].get_seq_length() == 0:
            rows.extend(ids.tolist())

    model.register_forward_pre_hook(note, with_kwargs=True)


def instance(kind: str, *args: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=args, idx=0, metadata=("t", 0, 1))


TOKENIZERS: dict[str, dict[str, Any]] = {
    "bos": {},
    "bos that the post-processor adds": {"adds": "<s>"},
    "bos and eos that the post-processor adds": {"adds": "<s></s>"},
    "no bos": {"bos": False},
    "eos that the post-processor adds": {"bos": False, "adds": "</s>"},
}
DIALOGUES = {
    "question": [("user", QUESTION)],
    "few-shot": [("user", QUESTION), ("assistant", ANSWER), ("user", "Which game?\n")],
    "control tokens": [("user", "What is </s> and <|im_end|> and <s>?")],
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", plugins.names("templates"))
def test_chat_prompts_have_the_ids_of_the_renderer(template: str, kind: str) -> None:
    spied = Spied(build_tokenizer(**TOKENIZERS[kind]), template)
    renderer, bos = spied.renderer, spied.renderer.tokenizer.bos_token_id
    for turns in DIALOGUES.values():
        context = spied.lm.apply_chat_template([{"role": role, "content": text} for role, text in turns])
        expected = renderer.prompt_ids([Message(*turn) for turn in turns])
        answer = renderer.response_ids("golf: golf")[:-1]
        assert context == renderer.prompt_text([Message(*turn) for turn in turns])
        assert spied.generate(context) == expected
        assert spied.loglikelihood(context, "golf: golf") == [*expected, *answer][:-1]
        assert expected.count(bos) == (bos is not None)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_plain_text_has_one_bos_and_nothing_else_around_it(kind: str) -> None:
    spied = Spied(build_tokenizer(**TOKENIZERS[kind], words=True))
    tokenizer = spied.renderer.tokenizer
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]

    def plain(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    assert spied.generate(QUESTION) == [*bos, *plain(QUESTION)]
    assert spied.loglikelihood(QUESTION, " Rome") == [*bos, *plain(QUESTION + " Rome")][:-1]
    assert spied.loglikelihood("A game: ", "golf") == [*bos, *plain("A game: golf")][:-1]
    if bos:
        assert spied.generate(f"<s>{QUESTION}") == [*bos, *plain(QUESTION)]
    # What follows nothing follows BOS, or what stands for it.
    prefix = bos or [tokenizer.eos_token_id]
    assert spied.loglikelihood("", "golf golf") == [*prefix, *plain("golf golf")][:-1]
    assert spied.loglikelihood(" ", "golf golf") == [*prefix, *plain(" golf golf")][:-1]
    assert spied.generate("") == prefix


def test_answer_in_one_token_with_the_end_of_the_prompt_is_tokenised_apart() -> None:
    spied = Spied(build_tokenizer())
    whole, before, behind = (
        spied.renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("golf: golf", "golf:", " golf")
    )
    assert len(whole) < len(before)
    assert spied.loglikelihood("golf: ", "golf") == [1, *before, *behind][:-1]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_rolling_likelihood_is_that_of_the_text_behind_one_bos(kind: str) -> None:
    spied = Spied(build_tokenizer(**TOKENIZERS[kind]))
    tokenizer = spied.renderer.tokenizer
    ids = [*tokenizer(ANSWER, add_special_tokens=False)["input_ids"]]
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    (found,) = spied.lm.loglikelihood_rolling([instance("loglikelihood_rolling", ANSWER)], disable_tqdm=True)
    assert spied.rows == [[first, *ids[:-1]]]
    with torch.no_grad():
        logps = spied.model(torch.tensor([[first, *ids]])).logits[0].log_softmax(-1)
    assert found == pytest.approx(sum(float(logps[i, token]) for i, token in enumerate(ids)), abs=1e-4)
    # Afterwards prompts have their BOS again.
    assert spied.generate("golf")[0] == first or tokenizer.bos_token_id is None


def test_prompt_that_is_too_long_keeps_its_bos_and_is_counted() -> None:
    spied = Spied(build_tokenizer(), context=24)
    bos, text = spied.renderer.tokenizer.bos_token_id, QUESTION * 9
    ids = [*spied.renderer.tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert len(ids) > 24
    assert spied.generate(text) == [bos, *ids[-19:]]  # 4 of 24 tokens are room for the answer
    answer = [*spied.renderer.tokenizer(text + "X", add_special_tokens=False)["input_ids"]][len(ids) :]
    assert len(answer) == 1
    assert spied.loglikelihood(text, "X") == [bos, *ids[-23:]]
    assert spied.lm.prompts.counts["truncated"] == 2


def test_long_prompt_keeps_a_bos_that_its_template_does_not_write_first() -> None:
    spied = Spied(build_tokenizer(own="\n" + OWN), context=24)
    context = spied.lm.apply_chat_template([{"role": "user", "content": QUESTION * 9}])
    ids = spied.renderer.prompt_ids([Message("user", QUESTION * 9)])
    head = ids[: ids.index(1) + 1]
    assert spied.generate(context) == [*head, *ids[len(ids) - 20 + len(head) :]]


@pytest.mark.parametrize("pad", [None, 400])
def test_padding_without_a_row_of_the_model_changes_nothing(pad: int | None) -> None:
    tokenizer = build_tokenizer()
    spied = Spied(tokenizer)
    if pad is None:
        tokenizer.pad_token = None
    else:  # a token that somebody added without resizing the model
        tokenizer.add_special_tokens({"pad_token": "<other>"})
        assert tokenizer.pad_token_id >= spied.model.get_input_embeddings().weight.shape[0]
    lm = policy_lm(spied.model, spied.renderer, batch=4)
    asked = [instance("generate_until", t, {"until": [], "max_gen_toks": 8}) for t in (QUESTION, "golf")]
    alone = [spied.lm.generate_until([one], disable_tqdm=True)[0] for one in asked]
    assert lm.generate_until(asked, disable_tqdm=True) == alone


def test_batches_are_padded_on_the_left_and_change_nothing() -> None:
    spied = Spied(build_tokenizer(adds="<s>"))
    texts = [QUESTION, "golf", "<s>golf", ANSWER]
    keys = {"until": [], "max_gen_toks": 8}
    alone = [spied.lm.generate_until([instance("generate_until", t, keys)], disable_tqdm=True)[0] for t in texts]
    together = policy_lm(spied.model, spied.renderer, batch=4)
    assert together.generate_until([instance("generate_until", t, keys) for t in texts], disable_tqdm=True) == alone
    assert alone[1] == alone[2] != alone[0]


CUT = [f"{QUESTION} {n} {'golf ' * n}" for n in (3, 60, 41, 80, 5, 52, 70)]
"""Prompts of which some are longer than a context of 48 tokens."""
DRAWN = {"until": [], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0}


def ask_everything(lm: Any) -> tuple[list[Any], dict[str, int]]:
    """Return log-likelihoods, answers and drawn answers to the same prompts, the answers four times each, and the counts."""
    torch.manual_seed(1)
    pairs = [instance("loglikelihood", text, f" {end}") for text in CUT for end in ("golf", "Rome", "golf golf")]
    found = lm.loglikelihood(pairs, disable_tqdm=True)
    for keys in ({"until": [], "max_gen_toks": 6}, DRAWN):
        asked = [instance("generate_until", text, keys) for text in CUT * 4]
        found += lm.generate_until(asked, disable_tqdm=True)
    return found, dict(lm.prompts.counts)


def test_kept_batches_give_the_harness_own_numbers_and_counts(tmp_path: Path) -> None:
    """With a kill after every fifth batch the cut prompts, the drawn answers and the counts are those of a run without chunks."""
    spied = Spied(build_tokenizer(adds="<s>"), context=48)

    def fresh() -> Any:
        return policy_lm(spied.model, spied.renderer, batch=2)

    expected = ask_everything(fresh())
    assert expected[1][policy.TRUNCATED] > len(CUT)
    drawn = expected[0][-4 * len(CUT) :]
    assert drawn[: len(CUT)] != drawn[len(CUT) : 2 * len(CUT)]
    chunks = Chunks(tmp_path, "key")
    runs, done = 0, 0
    while True:
        lm, most = fresh(), done + 5

        def limited(ask: Callable[..., Any], most: int = most) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal done
                if done == most:
                    raise KeyboardInterrupt
                done += 1
                return ask(*args, **kwargs)

            return call

        lm.run_answers, lm.run_likelihoods = limited(lm.run_answers), limited(lm.run_likelihoods)
        keep_batches(lm, chunks)
        try:
            found = ask_everything(lm)
        except KeyboardInterrupt:
            runs += 1
            continue
        assert found == expected
        break
    n_batches = len(list((tmp_path / "key").iterdir()))
    assert done == n_batches > 15  # each ran once
    assert runs == (n_batches - 1) // 5


def test_beginning_of_an_answer_follows_the_prompt_of_training() -> None:
    spied = Spied(build_tokenizer(words=True), "zephyr")
    history = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "The game is"}]
    context = spied.lm.apply_chat_template(history, add_generation_prompt=False)
    expected = spied.renderer.prompt_ids([Message("user", QUESTION)]) + spied.renderer.response_ids("The game is")[:-1]
    assert spied.generate(context) == expected
    # As the answer of a training target: no token ends where the task's part of it ends.
    whole = (
        spied.renderer.prompt_ids([Message("user", QUESTION)]) + spied.renderer.response_ids("The game is golf")[:-1]
    )
    assert spied.loglikelihood(context, " golf") == whole[:-1]


def test_system_turn_that_the_template_refuses_is_left_out_and_counted() -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + OWN
    spied = Spied(build_tokenizer(own=refusing))
    user = {"role": "user", "content": QUESTION}
    context = spied.lm.apply_chat_template([{"role": "system", "content": "Be brief."}, user])
    assert spied.generate(context) == spied.renderer.prompt_ids([Message("user", QUESTION)])
    assert spied.lm.prompts.counts["system_turns_dropped"] == 1


def test_turns_that_no_training_prompt_has_are_counted_and_have_one_bos() -> None:
    spied = Spied(build_tokenizer(adds="<s>"))
    context = spied.lm.apply_chat_template([{"role": "user", "content": text} for text in ("golf", QUESTION)])
    assert spied.generate(context).count(spied.renderer.tokenizer.bos_token_id) == 1
    assert spied.lm.prompts.counts["unusual_dialogues"] == 1


def test_names_of_control_tokens_are_read_as_such_in_plain_text_and_counted() -> None:
    spied = Spied(build_tokenizer())
    eos = spied.renderer.tokenizer.eos_token_id
    assert eos in spied.generate("What is </s>?")
    context = spied.lm.apply_chat_template([{"role": "user", "content": "What is </s>?"}])
    assert eos not in spied.generate(context)
    assert eos not in spied.loglikelihood(context, "It is </s>, golf")
    assert spied.lm.prompts.counts["control_tokens_read"] == 1


def test_answer_longer_than_the_context_ends_with_a_message() -> None:
    spied = Spied(build_tokenizer(), context=24)
    with pytest.raises(InputError, match=r"1 to 24 tokens[\s\S]*longer context"):
        spied.loglikelihood("golf", QUESTION * 9)


def test_answer_ends_at_the_first_stop_id_and_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    free = Spied(build_tokenizer())
    prompt = free.lm.tok_encode(QUESTION)
    ids = greedy(free.model, prompt)[len(prompt) :]
    place = next(i for i in range(1, 8) if ids[i] not in ids[:i])
    monkeypatch.setattr(policy, "stop_ids", lambda _, renderer: (renderer.end_id, ids[place]))
    cut = Spied(build_tokenizer())
    asked = instance("generate_until", QUESTION, {"until": [], "max_gen_toks": 8})
    decode = cut.renderer.tokenizer.decode
    assert free.lm.generate_until([asked], disable_tqdm=True) == [decode(ids)]
    assert cut.lm.generate_until([asked], disable_tqdm=True) == [decode(ids[:place])]


@pytest.mark.parametrize("architecture", ["rwkv", "bart", "git", "bloom", "llama"])
def test_an_answer_does_not_depend_on_the_prompts_beside_it(architecture: str) -> None:
    """The harness pads on the left, which RWKV and decoders that count positions themselves read as text."""
    tokenizer = build_tokenizer()
    renderer = Renderer(tokenizer, "tokenizer")
    config = small_config(architecture)
    config.get_text_config().vocab_size = len(tokenizer)
    model = small_model(config)
    reset_generation(model, [renderer.end_id])
    asked = [
        instance("generate_until", text, {"until": [], "max_gen_toks": 8}) for text in ("golf", "Tom lives in Rome")
    ]
    lm = policy_lm(model, renderer, batch=2)
    prompts = [lm.tok_encode(text) for text in ("golf", "Tom lives in Rome")]
    assert len(prompts[0]) < len(prompts[1]) < 10
    rows = [greedy(model, prompt)[len(prompt) :] for prompt in prompts]
    assert lm.generate_until(asked, disable_tqdm=True) == [lm.tok_decode(row) for row in rows]
    assert lm.batch_size == 2


# What a checkpoint wants


WISHES: dict[str, Any] = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(100, 320)),
    "begin_suppress_tokens": list(range(3, 320)),
    "bad_words_ids": [[i] for i in range(100, 320)],
    "forced_bos_token_id": 7,
    "forced_eos_token_id": 7,
    "eos_token_id": list(range(2, 320)),
    "min_new_tokens": 6,
    "max_new_tokens": 1,
    "max_time": 1e-9,
    "stop_strings": ["a", "e", "o"],
    "num_beams": 4,
    "do_sample": True,
    "guidance_scale": 9.0,
    "sequence_bias": [[[7], 99.0]],
    "exponential_decay_length_penalty": [0, 9.0],
    "watermarking_config": {"bias": 50.0},
    "encoder_repetition_penalty": 9.0,
}


def greedy(model: Any, ids: list[int]) -> list[int]:
    """Return eight tokens, each the likeliest after a plain forward pass."""
    ids = list(ids)
    for _ in range(8):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids


@pytest.mark.parametrize("wish", WISHES)
def test_generate_is_a_plain_greedy_search_after_the_reset(wish: str, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {wish: WISHES[wish]}))
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    ids = [1, 90, 91, 92]
    asked = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, 4, dtype=torch.long), "max_length": 12}
    reset = reset_generation(model, [tokenizer.eos_token_id])
    assert reset.keys() == {wish}
    assert json.loads(json.dumps(reset)) == reset
    assert model.generate(**asked)[0].tolist() == greedy(model, ids)


def test_every_field_is_reset_but_three() -> None:
    model = build_model(build_tokenizer())
    fields = {name for name in GenerationConfig().to_dict() if not name.startswith("_")} - {"transformers_version"}
    ids = {"bos_token_id", "eos_token_id", "pad_token_id"}
    for name in fields - ids:
        setattr(model.generation_config, name, "odd")
    model.generation_config.of_the_future = "odd"
    assert reset_generation(model).keys() == fields - ids | {"of_the_future"}
    left = {k: v for k, v in model.generation_config.to_dict().items() if v is not None}
    assert left.keys() - {"transformers_version"} == ids
    assert reset_generation(model) == {}


def test_what_says_nothing_is_not_called_reset(tmp_path: Path) -> None:
    """A saved checkpoint of transformers names some defaults."""
    model = build_model(build_tokenizer())
    model.generation_config.update(use_cache=True, output_attentions=False, max_length=20, do_sample=False, top_k=50)
    before = model.generation_config
    assert reset_generation(model) == {}
    assert model.generation_config is before


def test_generate_of_the_checkpoint_is_not_called() -> None:
    model = build_model(build_tokenizer())
    model.generate = lambda **_: pytest.fail("the checkpoint's own generate was called")  # as custom_generate/ does
    assert reset_generation(model) == {"custom_generate": True}
    assert model.generate(torch.tensor([[1, 90]]), max_new_tokens=1).shape == (1, 3)


# The step


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return a function that saves a policy with a generation config, runs the step, and returns its rows, report and ids."""
    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)
    (tmp_path / "tasks").mkdir()
    head = "dataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\nnum_fewshot: 1\n"
    head += "doc_to_text: '{{text}}'\nfewshot_config: {sampler: first_n, samples: [{text: golf?, answer: Rome}]}\n"
    answers = {
        "choose": "output_type: multiple_choice\ndoc_to_choice: ['golf: golf', 'Rome']\ndoc_to_target: 0\n"
        "metric_list: [{metric: acc}]\n",
        "write": "output_type: generate_until\ndoc_to_target: answer\ngeneration_kwargs: {max_gen_toks: 8, until: ['\\n\\n']}\n"
        "metric_list: [{metric: exact_match}]\n",
    }
    for name, text in answers.items():
        (tmp_path / f"tasks/{name}.yaml").write_text(f"task: {name}\n{head}{text}metadata: {{version: 1}}\n")
    rows = [{"text": text, "answer": "golf"} for text in (QUESTION, "golf", ANSWER)]
    (tmp_path / "tasks/rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def run(*, tasks: list[str], chat: bool, wishes: dict[str, Any] | None = None, **tokenizer: Any) -> dict[str, Any]:
        folder = tmp_path / "policy" / "model"
        build = build_tokenizer(**tokenizer)
        build_model(build).save_pretrained(folder)
        build.save_pretrained(folder)
        file = folder / "generation_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | (wishes or {})))
        outputs = {"model": artifacts.sha256(folder)}
        artifacts.write_json(folder.parent / "manifest.json", {"outputs": outputs, "report": {}})
        artifacts.write_json(tmp_path / "policy-spec.json", {"dtype": "float32", "trust_remote_code": False})
        spec = Benchmark(tasks=tuple(tasks), folder="x", chat_template=chat, batch=1)
        artifacts.write_json(tmp_path / "spec.json", spec.model_dump(exclude={"folder", "seeds", "world"}))
        seen: list[list[int]] = []
        load = checkpoints.load_model

        def watched(*args: Any, **kwargs: Any) -> Any:
            model = load(*args, **kwargs)
            watch(model, seen)
            return model

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints, "load_model", watched)
            paths = {"--spec": tmp_path / "spec.json", "--policy": folder.parent / "manifest.json"}
            paths |= {"--policy-spec": tmp_path / "policy-spec.json", "--out": tmp_path / "out/manifest.json"}
            flags = ["--template", "tokenizer", "--folder", str(tmp_path / "tasks")]
            assert benchmark.main([*(str(x) for pair in paths.items() for x in pair), *flags]) == 0
        report = artifacts.read_json(tmp_path / "out/manifest.json")["report"]
        return {"rows": (tmp_path / "out/samples.jsonl").read_text(), "report": report, "ids": seen}

    return run


def test_wishes_of_a_checkpoint_change_no_benchmark_and_are_in_the_manifest(run: Callable[..., dict[str, Any]]) -> None:
    plain = run(tasks=["choose", "write"], chat=True)
    assert plain["report"]["generation_config_reset"] == {}
    wishes = {
        **{"repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "suppress_tokens": [*range(90, 200)]},
        **{
            "bad_words_ids": [[200]],
            "forced_eos_token_id": 7,
            "eos_token_id": [2, *range(200, 320)],
            "max_new_tokens": 3,
        },
    }
    other = run(tasks=["choose", "write"], chat=True, wishes=wishes)
    assert other["rows"] == plain["rows"]
    assert other["report"] == plain["report"] | {"generation_config_reset": wishes}


@pytest.mark.parametrize("kind", ["bos", "bos and eos that the post-processor adds", "no bos"])
@pytest.mark.parametrize("chat", [False, True])
def test_step_runs_the_ids_of_the_renderer_few_shot_too(
    run: Callable[..., dict[str, Any]], chat: bool, kind: str
) -> None:
    found = run(tasks=["choose", "write"], chat=chat, **TOKENIZERS[kind], words=not chat)
    tokenizer = build_tokenizer(**TOKENIZERS[kind], words=not chat)
    renderer = Renderer(tokenizer, "tokenizer")
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    expected = set()
    for text in (QUESTION, "golf", ANSWER):
        for task, shown in (("choose", "golf: golf"), ("write", "Rome")):
            turns = [Message("user", "golf?"), Message("assistant", shown), Message("user", text)]
            prompt = renderer.prompt_ids(turns)
            if task == "write":
                plain = tokenizer(f"golf? {shown}\n\n{text}", add_special_tokens=False)["input_ids"]
                expected.add(tuple(prompt if chat else [*bos, *plain]))
                continue
            for choice in ("golf: golf", "Rome"):
                plain = tokenizer(f"golf? {shown}\n\n{text} {choice}", add_special_tokens=False)["input_ids"]
                row = [*prompt, *renderer.response_ids(choice)[:-1]] if chat else [*bos, *plain]
                expected.add(tuple(row[:-1]))
    assert {tuple(row) for row in found["ids"]} == expected
