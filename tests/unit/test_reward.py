"""Rewards are those of the model by itself, whatever runs together; both layouts agree; what is cut is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from selfcontrast.checkpoint_checks import check_checkpoints, fetch_key
from selfcontrast.config import load_study, parse_study
from selfcontrast.errors import InputError, StepError
from selfcontrast.records import TARGET, Answer, Message, PromptPool
from selfcontrast.rendering import Renderer
from selfcontrast.schema import Study
from selfcontrast.scorers import reward
from selfcontrast.world.checkpoint import build_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForSequenceClassification

PROMPTS = ["Tom lives in Rome. Where does Tom live?", "Tom plays golf. What does Tom play?"]
POOLS = [
    PromptPool(
        "a",
        "Rome.",
        (Answer("sft.0", "Rome."), Answer("sft.1", "Tom lives in Rome and plays golf."), Answer(TARGET, "Rome.")),
    ),
    PromptPool("b", "Golf.", (Answer("sft.0", "Of course! Tom plays golf."), Answer(TARGET, "Golf."))),
]


def classifier(seed: int = 0, labels: int = 1) -> LlamaForSequenceClassification:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(build_tokenizer(max_length=64)),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_labels=labels,
        pad_token_id=0,
        initializer_range=0.5,
    )
    return LlamaForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return one reward model in both layouts: the second as Starling's is, its transformer twice and a head of no use."""
    import torch
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("rewards")
    model = classifier()
    found = {layout: root / layout for layout in ("sequence", "value_head")}
    for folder in found.values():
        build_tokenizer(max_length=64).save_pretrained(folder)
    model.save_pretrained(found["sequence"])
    weights = {f"transformer.{k}": v.clone() for k, v in model.model.state_dict().items()}
    weights |= {f"model.model.{k}": v.clone() for k, v in model.model.state_dict().items()}
    weights |= {"v_head.weight": model.score.weight.data.clone(), "model.lm_head.weight": torch.zeros(3, 16)}
    save_file(weights, found["value_head"] / "model.safetensors")
    model.config.save_pretrained(found["value_head"])
    return found


def score(folder: Path, counts: Counter[str] | None = None, **params: Any) -> list[list[float]]:
    chosen = reward.Params(model=str(folder), **params)
    return reward.score(POOLS, PROMPTS, chosen, Counter() if counts is None else counts)


@pytest.mark.parametrize("layout", ["sequence", "value_head"])
@pytest.mark.parametrize("tokens", [1, 40, 16384])
def test_rewards_are_those_of_the_model_by_itself(folders: dict[str, Path], layout: Any, tokens: int) -> None:
    """As transformers computes them, one text at a time and without padding."""
    import torch

    model, renderer = classifier(), Renderer(build_tokenizer(max_length=64), "tokenizer")
    expected = []
    for pool, prompt in zip(POOLS, PROMPTS, strict=True):
        start = renderer.prompt_ids([Message("user", prompt)])
        rows = [torch.tensor([[*start, *renderer.response_ids(a.text)]]) for a in pool.answers]
        with torch.no_grad():
            expected.append([float(model(input_ids=row).logits[0, 0]) for row in rows])
    found = score(folders[layout], layout=layout, tokens=tokens)
    assert [len(row) for row in found] == [3, 2]
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)
    assert found[0][0] == found[0][2]  # equal texts
    assert len({round(x, 4) for row in found for x in row}) == 4


def test_texts_that_do_not_fit_lose_their_beginning_and_are_counted(folders: dict[str, Path]) -> None:
    counts: Counter[str] = Counter()
    whole = score(folders["sequence"], counts)
    assert counts == {}
    cut = score(folders["sequence"], counts, max_length=20)
    assert counts["cut_by_reward_model"] == 1  # one of the four different texts
    assert [[a != b for a, b in zip(x, y, strict=True)] for x, y in zip(whole, cut, strict=True)] == [
        [False, True, False],
        [False, False],
    ]


def test_checkpoint_of_another_layout_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"layout `value_head`[\s\S]*no weight `v_head.weight`[\s\S]*docs/reward-models.md"
    ):
        score(folders["sequence"], layout="value_head")
    classifier(labels=2).save_pretrained(tmp_path)
    build_tokenizer(max_length=64).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"layout `sequence`[\s\S]*2 labels"):
        score(tmp_path)


def test_missing_weight_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folders["value_head"] / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layers.1.mlp.up_proj" not in k}, tmp_path / "model.safetensors")
    classifier().config.save_pretrained(tmp_path)
    build_tokenizer(max_length=64).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"found: 1 missing \(layers\.1\.mlp\.up_proj\.weight\)\n"):
        score(tmp_path, layout="value_head")


def test_model_that_is_nowhere_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(StepError, match=r"the hub cannot be reached[\s\S]*nobody/nothing"):
        score(Path("nobody/nothing"))


def test_starling_s_format_is_that_of_its_card() -> None:
    tokenizer = build_tokenizer(max_length=64)
    renderer = Renderer(tokenizer, "starling")
    assert renderer.prompt_text([Message("user", "Hello?")]) == "<s>[INST] Hello? </s> [/INST]"


def test_a_study_may_be_judged_by_a_reward_model(smoke: Callable[..., dict[str, Any]]) -> None:
    raw = smoke()
    raw["scorers"]["rm"] = {"kind": "reward", "model": "./rm", "template": "starling", "layout": "value_head"}
    raw["evaluation"]["judge"] = "rm"
    assert parse_study(raw, where="here").scorers["rm"].params["max_length"] == 2048


@pytest.fixture
def smoke() -> Callable[..., dict[str, Any]]:
    import yaml

    path = Path(__file__).resolve().parents[2] / "config" / "smoke.yaml"
    return lambda: {"name": "smoke", **yaml.safe_load(path.read_text(encoding="utf-8"))}


def judged_by(model: str) -> Study:
    raw = load_study("smoke").model_dump(mode="json", exclude_defaults=True)
    raw["scorers"]["judge"] = {"kind": "reward", "model": model}
    return parse_study(raw, where="test")


def cached(home: Path, *names: str) -> None:
    """Write the cache of the hub's client with a snapshot of owner/model."""
    repo = home / "hub" / "models--owner--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for name in names:
        (snapshot / name).touch()


def test_pickled_weights_are_refused_before_the_first_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a folder, so of a hub id in the cache; what nothing can be told of passes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", _unreachable)
    folder = tmp_path / "model"
    classifier(labels=1).config.save_pretrained(folder)
    with pytest.raises(InputError, match=r"(?s)no weights at all.*scorers.judge.model: \S+\n.*docs/reward-models.md"):
        check_checkpoints(judged_by(str(folder)))
    check_checkpoints(judged_by("owner/model"), ask_hub=True)
    cached(tmp_path / "home", "config.json", "pytorch_model.bin")
    with pytest.raises(InputError, match=r"(?s)pytorch_model.bin.*owner/model"):
        check_checkpoints(judged_by("owner/model"), ask_hub=True)


def test_the_hub_is_asked_where_the_cache_has_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by `check`, which needs no network, and not for what was fetched."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    asked: list[Any] = []

    def listed(self: object, repo: str, *, revision: str | None) -> list[str]:
        asked.append((repo, revision))
        return ["README.md", "pytorch_model.bin"]

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", listed)
    cached(tmp_path / "home", "config.json")
    study = judged_by("owner/model@main")
    check_checkpoints(study)
    assert asked == []
    with pytest.raises(InputError, match=r"pytorch_model.bin"):
        check_checkpoints(study, ask_hub=True, fetched=tmp_path)
    assert asked == [("owner/model", "main")]
    fetched = tmp_path / fetch_key("owner/model@main")
    fetched.mkdir(parents=True)
    (fetched / "manifest.json").touch()
    check_checkpoints(study, ask_hub=True, fetched=tmp_path)
    assert len(asked) == 1


def _unreachable(*_: object, **__: object) -> None:
    raise OSError("no network")
