"""A base model gets what its template needs, every step works with one template, and steps refuse to mix two."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from selfcontrast import artifacts, cli
from selfcontrast.checkpoints import fit_to_tokenizer, load_model, load_tokenizer, save_checkpoint
from selfcontrast.errors import InputError
from selfcontrast.records import Message
from selfcontrast.rendering import Renderer, prepare_tokenizer
from selfcontrast.steps import answer, encode, gather_logps, gather_pool, generate_shard, ref_logps, respond, sft, train
from selfcontrast.training.adapters import add_adapters, merge_adapters
from selfcontrast.world.checkpoint import build_model, build_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

NEW = [150, 151]
"""Ids of the tokens of `chatml` behind the pocket world's vocabulary."""


def pocket(**config: Any) -> LlamaForCausalLM:
    model = build_model(n_layers=1, width=16, n_heads=2, max_length=64, seed=0)
    if config:
        torch.manual_seed(0)
        model = LlamaForCausalLM(type(model.config)(**{**model.config.to_dict(), **config}))
    return model


def prepared() -> tuple[Any, list[int]]:
    tokenizer = build_tokenizer(max_length=64)
    return tokenizer, prepare_tokenizer(tokenizer, "chatml")


# Embeddings


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_new_tokens_start_with_the_mean_of_the_others(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    model = pocket(tie_word_embeddings=tied).to(dtype)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tokenizer, new = prepared()
    fit_to_tokenizer(model, tokenizer, new)
    assert new == NEW
    assert model.config.vocab_size == 152
    assert model.config.tie_word_embeddings == tied
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        found = model.state_dict()[name]
        assert found.shape == (152, 16)
        assert found.dtype == dtype
        assert torch.equal(found[:150], before[name])
        mean = before[name].float().mean(0).to(dtype)
        assert torch.equal(found[150:], mean.expand(2, 16))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    save_checkpoint(tmp_path / "model", model, tokenizer)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_embeddings_with_rows_to_spare_keep_their_size() -> None:
    model = pocket(vocab_size=160)
    before = model.model.embed_tokens.weight.detach().clone()
    tokenizer, new = prepared()
    fit_to_tokenizer(model, tokenizer, new)
    after = model.model.embed_tokens.weight
    assert after.shape == (160, 16)
    assert model.config.vocab_size == 160
    assert torch.allclose(after[150:152], before[:150].mean(0).expand(2, 16))
    assert torch.equal(after[152:], before[152:])


def test_a_model_whose_tokenizer_has_all_tokens_is_left_alone() -> None:
    model = pocket(vocab_size=160)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tokenizer = build_tokenizer(max_length=64)
    fit_to_tokenizer(model, tokenizer, prepare_tokenizer(tokenizer, "zephyr"))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.config.vocab_size == 160


def test_other_software_stops_where_training_ended(tmp_path: Path) -> None:
    model = pocket(eos_token_id=[2, 0])
    model.generation_config.eos_token_id = [2, 0]
    tokenizer, new = prepared()
    fit_to_tokenizer(model, tokenizer, new)
    save_checkpoint(tmp_path / "model", model, tokenizer)
    end = Renderer(load_tokenizer(tmp_path / "model"), "chatml").response_ids("Of course!")[-1]
    assert end == 150
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "model" / file).read_text())["eos_token_id"] == [end, 2, 0]
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token_id == end


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_adapters_train_the_embeddings_of_new_tokens_and_no_others(tied: bool) -> None:
    model = pocket(tie_word_embeddings=tied)
    tokenizer, new = prepared()
    fit_to_tokenizer(model, tokenizer, new)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    lora = {"r": 2, "alpha": 4.0, "targets": "all-linear", "quantise": "none"}
    adapted = add_adapters(model, lora, new_tokens=new)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    ids = torch.tensor([[151, 7, 8, 150]])
    model(ids, labels=ids).loss.backward()
    optimiser.step()
    trained = model(ids).logits
    merged = merge_adapters(adapted)
    assert torch.allclose(merged(ids).logits, trained, atol=1e-6)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        moved = (merged.state_dict()[name] - before[name]).abs().amax(1) > 0
        assert moved.nonzero()[:, 0].tolist() in ([150, 151], [151])  # the last id of the text is no input
    assert merged.state_dict()["lm_head.weight"][150].ne(before["lm_head.weight"][150]).any()


def test_weights_of_4_bits_and_new_tokens_are_refused() -> None:
    lora = {"r": 2, "alpha": 4.0, "targets": "all-linear", "quantise": "nf4"}
    with pytest.raises(InputError, match="`quantise` cannot train their embeddings"):
        add_adapters(pocket(), lora, new_tokens=NEW)


# One template in all steps


def test_a_step_takes_the_template_of_what_it_opens(tmp_path: Path) -> None:
    step = cli.Step({}, tmp_path / "manifest.json")
    for name, digest in (("plain", None), ("first", "a" * 64), ("second", "a" * 64)):
        step.open(write_manifest(tmp_path / name, digest))
    assert step.template == "a" * 64


def test_two_templates_do_not_join(tmp_path: Path) -> None:
    step = cli.Step({}, tmp_path / "manifest.json")
    step.open(write_manifest(tmp_path / "first", "a" * 64))
    with pytest.raises(InputError, match="rendered with different chat templates") as error:
        step.open(write_manifest(tmp_path / "second", "b" * 64))
    parts = ("a" * 64, "b" * 64, "first/manifest.json", "second/manifest.json", "what to do: delete")
    assert all(part in str(error.value) for part in parts)


def write_manifest(folder: Path, digest: str | None) -> Path:
    content: dict[str, Any] = {"outputs": {}, "report": {}}
    artifacts.write_json(folder / "manifest.json", content | ({"template_sha256": digest} if digest else {}))
    return folder / "manifest.json"


OPTIMISATION: dict[str, Any] = {
    "lr": 1e-3,
    "batch": 4,
    "epochs": 1,
    "shape": "constant",
    "warmup": 0.0,
    "clip": 1.0,
    "ema": None,
    "precision": "weights",
    "lora": None,
    "trainer": "groups",
}
LOADING = {"dtype": "float32", "trust_remote_code": False}
REFERENCE = {**LOADING, "training": {"precision": "weights", "lora": None}}


class Chain:
    """The steps of one small study in a folder, run in this process."""

    def __init__(self, folder: Path, template: str) -> None:
        self.folder = folder
        self.template = template
        self.arm = "arm"
        self.base = str(folder / "base")
        save_checkpoint(
            folder / "base", build_model(n_layers=1, width=16, n_heads=2, max_length=512, seed=0), TOKENIZER
        )
        rows = [
            {
                "prompt_id": f"p{i}",
                "file": "chat.jsonl",
                "row": i + 1,
                "messages": [{"role": r, "content": c} for r, c in turns_of(i)],
                "target": "Of course! Mira lives in Oslo.",
                "rejected": ["No.</s>"],
            }
            for i in range(8)
        ]
        artifacts.write_jsonl(folder / "dialogues" / "dialogues.jsonl.gz", rows, compress=True)
        outputs = {"dialogues.jsonl.gz": artifacts.sha256(folder / "dialogues" / "dialogues.jsonl.gz")}
        artifacts.write_json(folder / "dialogues" / "manifest.json", {"outputs": outputs, "report": {}})

    def run(self, name: str, module: Any, spec: dict[str, Any], *flags: str) -> dict[str, Any]:
        """Run one step; flags that name another step get its manifest. Return the manifest."""
        out = self.folder / name / "manifest.json"
        artifacts.write_json(self.folder / name / "spec.json", spec)
        paths = [str(self.folder / f[1:] / "manifest.json") if f.startswith("@") else f for f in flags]
        code = module.main(["--spec", str(out.with_name("spec.json")), "--out", str(out), *paths])
        if code:
            raise StopIteration(code)
        return artifacts.read_json(out)

    def encode(self, **change: Any) -> dict[str, Any]:
        splits = {"sft": 5, "pool": 3, "validation": 1, "test": 2}
        spec = {"template": self.template, "max_length": 400, "splits": splits, "trust_remote_code": False, "seed": 1}
        spec |= {"long_prompts": "error", "bad_records": "error", **change}
        return self.run("prompts", encode, spec, "--dialogues", "@dialogues", "--base", self.base, "--room", "4")

    def sft(self, n_steps: int = 2, **training: Any) -> dict[str, Any]:
        spec = {
            **LOADING,
            "template": self.template,
            "n_steps": n_steps,
            "seed": 3,
            "training": OPTIMISATION | training,
        }
        return self.run("sft", sft, spec, "--prompts", "@prompts", "--base", self.base)

    def adopt(self) -> dict[str, Any]:
        spec = {**LOADING, "template": self.template, "n_steps": 0, "seed": 3, "training": None}
        return self.run("sft", sft, spec, "--prompts", "@prompts", "--base", self.base)

    def pool(self, **params: Any) -> dict[str, Any]:
        spec = {**LOADING, "template": self.template, "pool": "own", "kind": "policy", "seed": 2}
        spec["params"] = {"n_responses": 2, "max_new_tokens": 4, **params}
        self.run("shard", generate_shard, spec, "--prompts", "@prompts", "--policy", "@sft", "--shard", "1-of-1")
        return self.run("pool", gather_pool, {}, "--prompts", "@prompts", "--shards", "@shard")

    def logps(self) -> dict[str, Any]:
        flags = ["--prompts", "@prompts", "--pool", "@pool", "--reference", "@sft"]
        self.run("logp_shard", ref_logps, REFERENCE, *flags, "--shard", "1-of-1")
        return self.run("logps", gather_logps, REFERENCE, *flags, "--shards", "@logp_shard")

    def train(self) -> dict[str, Any]:
        prompts = self.table("prompts", "pool.parquet")["prompt_id"]
        groups = [{"prompt_id": p, "chosen": "target", "rejected": ["own.0", "own.1"]} for p in prompts]
        artifacts.write_jsonl(self.folder / "groups" / "groups.jsonl", groups)
        outputs = {"groups.jsonl": artifacts.sha256(self.folder / "groups" / "groups.jsonl")}
        artifacts.write_json(self.folder / "groups" / "manifest.json", {"outputs": outputs})
        spec = {**LOADING, "objective": {"kind": "dpo", "params": {"beta": 0.1}}, "sft_weight": 0.0, "n_steps": 1}
        flags = ["--prompts", "@prompts", "--pool", "@pool", "--groups", "@groups", "--ref-logps", "@logps"]
        return self.run("arm", train, spec | {"training": OPTIMISATION}, *flags, "--policy", "@sft", "--seed", "0")

    def respond(self, **change: Any) -> dict[str, Any]:
        spec = {"max_new_tokens": 4, "temperature": 1.0, "top_p": 1.0, "samples": 1, "batch_responses": 8, "seed": 4}
        spec |= change
        loading = self.folder / "sft" / "spec.json"
        flags = ["--policy-spec", str(loading), "--template", self.template, "--seed", "0", "--stream", "trained"]
        return self.run(
            "eval", respond, spec, "--prompts", "@prompts", "--split", "test", "--policy", f"@{self.arm}", *flags
        )

    def answer(self) -> list[tuple[str, str]]:
        """Return the texts of a greedy answer to a question of two turns, and why they ended."""
        spec = {
            "layout": "mt_bench",
            "max_new_tokens": 12,
            "temperature": 0.0,
            "top_p": 1.0,
            "batch_responses": 4,
            "seed": 5,
        }
        asked = {"question_id": 1, "category": "writing", "turns": ["Hello!", "Where does Mira live?"]}
        artifacts.write_jsonl(self.folder / "questions.jsonl", [asked])
        flags = ["--questions", str(self.folder / "questions.jsonl"), "--policy", f"@{self.arm}", "--max-length", "400"]
        flags += ["--policy-spec", str(self.folder / "sft" / "spec.json"), "--template", self.template, "--seed", "0"]
        self.run("answers", answer, spec, *flags, "--stream", "trained")
        found = self.table("answers", "responses.parquet")
        return list(zip(found["text"], found["finish"], strict=True))

    def table(self, name: str, file: str) -> dict[str, list[Any]]:
        return artifacts.read_table(self.folder / name / file)


def turns_of(i: int) -> list[tuple[str, str]]:
    question = f"Where does Mira live? {'</s> ' * (i == 0)}{i}"
    return [("user", "Hello!"), ("assistant", "Hello, how can I help?"), ("user", question)][2 * (i % 2) :]


TOKENIZER = build_tokenizer(max_length=512)


def test_a_checkpoint_that_has_had_its_sft_passes_with_the_tokens_of_the_template(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "chatml")
    encoded, adopted = chain.encode(), chain.adopt()
    assert adopted["template_sha256"] == encoded["template_sha256"]
    assert adopted["report"] == {"examples": 0, "steps": 0, "new_tokens": 2}
    before, after = (
        load_model(folder, dtype="float32").state_dict() for folder in (chain.base, tmp_path / "sft/model")
    )
    assert all(torch.equal(after[name][: len(value)], value) for name, value in before.items())
    assert chain.pool()["template_sha256"] == encoded["template_sha256"]


@pytest.mark.parametrize("has_had_sft", [True, False])
def test_how_the_base_model_asks_to_be_decoded_is_not_passed_on(has_had_sft: bool, tmp_path: Path) -> None:
    """Neither to the policies nor to exports. A temperature without do_sample could not even be saved."""
    chain = Chain(tmp_path, "tokenizer")
    file = Path(chain.base) / "generation_config.json"
    wishes = {"repetition_penalty": 1.3, "temperature": 0.6, "suppress_tokens": [5]}
    file.write_text(json.dumps(json.loads(file.read_text()) | wishes))
    chain.encode()
    made = chain.adopt() if has_had_sft else chain.sft()
    assert made["report"]["generation_config_reset"] == wishes
    saved = json.loads((tmp_path / "sft/model/generation_config.json").read_text())
    assert not wishes.keys() & saved.keys()
    assert saved["eos_token_id"] == 2


def test_of_several_processes_one_writes_such_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(tmp_path, "tokenizer")
    chain.encode()
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(InputError, match="a file is missing"):  # no manifest: the first process writes it
        chain.adopt()
    assert [f.name for f in (tmp_path / "sft").iterdir()] == ["spec.json"]


@pytest.mark.parametrize("template", ["tokenizer", "chatml", "zephyr_reference"])
def test_all_steps_work_with_one_template_and_say_its_hash(template: str, tmp_path: Path) -> None:
    chain = Chain(tmp_path, template)
    encoded = chain.encode()
    manifests = [encoded, chain.sft(), chain.pool(), chain.logps(), chain.train(), chain.respond()]
    assert {m["template_sha256"] for m in manifests} == {encoded["template_sha256"]}
    # At the first step the policy is the reference: log 2. Anything else is another prompt, or another tokenizer.
    assert manifests[4]["report"]["first_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert encoded["report"]["control_tokens"]["tokens_from_texts"] == 0
    assert encoded["report"]["control_tokens"]["texts_escaped"] >= 8  # the rejected answers, and one prompt
    tokenizer = load_tokenizer(tmp_path / "arm" / "model")
    model = load_model(tmp_path / "arm" / "model", dtype="float32")
    assert model.config.vocab_size == len(tokenizer) == (152 if template == "chatml" else 150)
    end = chain.table("prompts", "sft.parquet")["target_ids"][0][-1]
    assert tokenizer.eos_token_id == end
    # The base model's own EOS, 2, still ends a generation where the template brings another end.
    assert model.generation_config.eos_token_id == ([end, 2] if template == "chatml" else 2)


def test_the_reference_s_accident_is_two_columns_and_each_step_reads_its_own(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "zephyr_reference")
    assert chain.encode()["report"]["trains_apart"] is True
    pool = chain.table("prompts", "pool.parquet")
    renderer = Renderer(TOKENIZER, "zephyr_reference")
    prompts = {f"p{i}": [Message(*turn) for turn in turns_of(i)] for i in range(8)}
    for i, sampled, trained in zip(pool["prompt_id"], pool["prompt_ids"], pool["training_prompt_ids"], strict=True):
        assert sampled == renderer.prompt_ids(prompts[i]) != trained == renderer.training_prompt_ids(prompts[i])
    chain.sft()
    chain.pool()
    chain.logps()
    # The reference's log-probabilities are those behind the training prompt.
    from selfcontrast.logprobs import token_logps

    model = load_model(tmp_path / "sft" / "model", dtype="float32")
    found = chain.table("logps", "logps.parquet")
    stored = dict(zip(zip(found["prompt_id"], found["response_id"], strict=True), found["logp"], strict=True))
    for i, trained, sampled, target in zip(
        *(pool[key] for key in ("prompt_id", "training_prompt_ids", "prompt_ids", "target_ids")), strict=True
    ):
        with torch.no_grad():
            right, wrong = (float(token_logps(model, [p], [[target]]).sums()) for p in (trained, sampled))
        assert stored[i, "target"] == pytest.approx(right, abs=1e-4)
        assert abs(right - wrong) > 1e-3


def test_other_templates_store_one_column(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "zephyr")
    assert chain.encode()["report"]["trains_apart"] is False
    assert "training_prompt_ids" not in chain.table("prompts", "sft.parquet")


@pytest.mark.parametrize("later", ["sft", "pool", "respond"])
def test_a_step_refuses_prompts_of_another_template(
    later: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The prompts were made anew with another template; a step that still has the old one ends with a message."""
    chain = Chain(tmp_path, "tokenizer")
    chain.encode()
    if later != "sft":
        chain.sft()
    if later == "respond":
        for step in (chain.pool, chain.logps, chain.train):
            step()
    chain.template = "zephyr"
    chain.encode()
    chain.template = "tokenizer"
    with pytest.raises(StopIteration, match="2"):
        getattr(chain, later)()
    assert "rendered with different chat templates" in capsys.readouterr().err


def test_adapters_and_new_tokens_go_through_the_step(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "chatml")
    chain.encode()
    chain.sft(lora={"r": 2, "alpha": 4.0, "targets": "all-linear", "quantise": "none"})
    weight = load_model(tmp_path / "sft" / "model", dtype="float32").get_output_embeddings().weight
    base = load_model(chain.base, dtype="float32").get_output_embeddings().weight
    assert torch.equal(weight[:150], base)
    assert not torch.allclose(weight[150], base.mean(0))


def test_prompts_that_a_template_cannot_render_stop_the_run_or_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = Chain(tmp_path, "mistral")
    path = tmp_path / "dialogues" / "dialogues.jsonl.gz"
    rows = [row for _, row in artifacts.read_jsonl(path)]
    rows[3]["messages"].insert(0, {"role": "assistant", "content": "Hello!"})
    extra = {**rows[0], "prompt_id": "q", "row": 9}
    artifacts.write_jsonl(path, [*rows, extra], compress=True)
    outputs = {"dialogues.jsonl.gz": artifacts.sha256(path)}
    artifacts.write_json(path.with_name("manifest.json"), {"outputs": outputs, "report": {}})
    with pytest.raises(StopIteration):
        chain.encode()
    assert "where: row 4 of chat.jsonl" in capsys.readouterr().err
    assert chain.encode(bad_records="drop")["report"]["dropped"] == {"the chat template cannot render the prompt": 1}


# A checkpoint whose tokenizer names another EOS than its template writes


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that has learned one answer in ChatML, with the tokenizer that belongs to it."""
    chain = Chain(tmp_path_factory.mktemp("chatty"), "chatml")
    chain.encode()
    chain.sft(n_steps=60, lr=2e-2)
    return chain.folder / "sft" / "model"


@pytest.mark.parametrize("which", ["its own tokenizer", "a tokenizer with another EOS"])
def test_answers_end_with_the_turn_whatever_eos_the_tokenizer_names(which: str, chatty: Path, tmp_path: Path) -> None:
    """All answers are the target, and none is cut, as with the tokenizer that names ChatML's end of turn."""
    chain = Chain(tmp_path, "tokenizer")
    shutil.rmtree(chain.base)
    shutil.copytree(chatty, chain.base)
    if which != "its own tokenizer":
        for file, change in (
            ("tokenizer_config.json", {"eos_token": "</s>"}),
            ("generation_config.json", {"eos_token_id": [2, 150]}),
        ):
            path = Path(chain.base, file)
            artifacts.write_json(path, artifacts.read_json(path) | change)
        assert AutoTokenizer.from_pretrained(chain.base).eos_token == "</s>"
    encoded, adopted = chain.encode(), chain.adopt()
    assert encoded["report"]["new_tokens"] == adopted["report"]["new_tokens"] == 0
    target = chain.table("prompts", "test.parquet")["target"][0]
    assert chain.table("prompts", "test.parquet")["target_ids"][0][-1] == 150
    chain.arm = "sft"
    assert chain.respond(max_new_tokens=12, temperature=0.0)["report"] == {"responses": 2, "cut_by_length": 0}
    answers = chain.table("eval", "responses.parquet")
    assert answers["text"] == [target] * 2
    assert chain.pool(max_new_tokens=12, temperature=0.0)["report"]["cut_by_length"] == 0
    assert chain.table("pool", "responses.parquet")["response_ids"][0][-1] == 150
    assert chain.answer() == [(target, "stop")] * 2
    saved = artifacts.read_json(tmp_path / "sft" / "model" / "generation_config.json")
    assert saved["eos_token_id"] == [150, 2]
    assert AutoTokenizer.from_pretrained(tmp_path / "sft" / "model").eos_token_id == 150
