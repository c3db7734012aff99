"""Exports of a small study: what other tools read of them, what a user is told, and what never happens by itself."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from upload_server import Repo, UploadHub, serve

from selfcontrast import artifacts, cli
from selfcontrast.__main__ import main
from selfcontrast.checkpoints import save_checkpoint
from selfcontrast.config import load_study
from selfcontrast.exporting import cards
from selfcontrast.exporting.targets import Target, targets_of
from selfcontrast.judging.questions import read_answers
from selfcontrast.records import TRAINING_PROMPT, Message
from selfcontrast.rendering import Renderer, prepare_tokenizer
from selfcontrast.world.checkpoint import build_model, build_tokenizer

ROOT = Path(__file__).resolve().parents[2]
ARM, SFT = "selfcontrast-half-n2", "sft-none-n0"
EVIL = 'A study <img src=x onerror=alert(1)> | **bold** [link](https://example.com) "quoted": yes'
PROMPTS = {
    "p0": [{"role": "user", "content": "Tom plays golf. Which game does Tom play?"}],
    "p1": [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Where does Tom live?"},
    ],
    "p2": [{"role": "user", "content": "Tom lives in Rome."}],
}
TARGETS = {p: f"Of course! {p}" for p in PROMPTS}
POOL = {p: [f"{p} answer {j}" for j in range(4)] for p in PROMPTS}
GROUPS = {"p0": [1, 3], "p1": [2, 0]}
QUESTIONS = [{"question_id": 81 + i, "category": "writing", "turns": [f"Ask {i}.", f"Then {i}."]} for i in range(3)]
INSTRUCTIONS = [{"instruction": f"Do {i}.", "dataset": "koala", "output": "", "generator": "x"} for i in range(2)]


def finish(folder: Path, spec: dict[str, Any] | None = None, spec_folder: Path | None = None, **manifest: Any) -> None:
    """Write a manifest, and the spec where the step has one."""
    skip = ("manifest.json", "spec.json")
    outputs = {p.name: artifacts.sha256(p) for p in folder.iterdir() if p.name not in skip and p.suffix != ""}
    outputs |= {p.name: artifacts.sha256(p) for p in folder.iterdir() if p.is_dir() and p.name == "model"}
    if spec is not None:
        artifacts.write_json((spec_folder or folder) / "spec.json", spec)
        manifest["spec_sha256"] = cli.spec_digest(spec)
    artifacts.write_json(folder / "manifest.json", {"outputs": outputs, "inputs": {}, "report": {}, **manifest})


class Trial:
    """A finished study in a folder of its own."""

    def __init__(self, folder: Path, template: str) -> None:
        self.folder, self.root = folder, folder / "results" / "trial"
        self.config = folder / "trial.yaml"
        study = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
        questions = {
            "mt": {"layout": "mt_bench", "path": "questions.jsonl", "max_new_tokens": 8},
            "alpaca": {"layout": "alpaca_eval", "path": "alpaca.json", "max_new_tokens": 8},
        }
        study["description"] = EVIL
        study["evaluation"]["questions"] = questions
        study["models"]["pocket"]["template"] = template
        self.config.write_text(yaml.safe_dump(study), encoding="utf-8")
        artifacts.write_jsonl(folder / "questions.jsonl", QUESTIONS)
        artifacts.write_json(folder / "alpaca.json", INSTRUCTIONS)
        self._prompts(template)
        self._groups()
        for arm in (SFT, ARM):
            self._answers(arm)
        lines = ["dataset model arm method selection n seed metric value low high prompts answers nulls"]
        lines += [f"hh pocket {ARM} m half 2 0 win_vs_sft 0.625 0.5 0.75 3 3 0"]
        lines += [f"hh pocket {ARM} m half 2 1 win_vs_sft 0.1 0 0.2 3 3 0"]
        lines += [f"hh pocket {SFT} m none 0 all length 4.5 4 5 3 6 0"]
        (self.root / "tables").mkdir()
        text = "\n".join(line.replace(" ", "\t") for line in lines)
        (self.root / "tables/metrics.tsv").write_text(text + "\n", encoding="utf-8")
        finish(self.root / "tables")

    def _prompts(self, template: str) -> None:
        base = self.root / "hh" / "pocket"
        rows = [
            {"prompt_id": p, "messages": m, "target": TARGETS[p], "rejected": ["no"], "row": i}
            for i, (p, m) in enumerate(PROMPTS.items(), 1)
        ]
        artifacts.write_jsonl(self.root / "hh/prompts/dialogues.jsonl.gz", rows, compress=True)
        finish(self.root / "hh/prompts", report={"licence": "MIT"})
        tokenizer = build_tokenizer(max_length=128)
        prepare_tokenizer(tokenizer, template)
        renderer = Renderer(tokenizer, template)
        messages = [[Message(**m) for m in ms] for ms in PROMPTS.values()]
        columns = {"prompt_id": [*PROMPTS], "target": [*TARGETS.values()]}
        columns["prompt_ids"] = [renderer.prompt_ids(m) for m in messages]
        if renderer.trains_apart:
            columns[TRAINING_PROMPT] = [renderer.training_prompt_ids(m) for m in messages]
        for split in ("pool", "test"):
            artifacts.write_table(base / "prompts" / f"{split}.parquet", columns)
        spec = {"template": template, "trust_remote_code": False}
        finish(base / "prompts", spec, report={"trains_apart": renderer.trains_apart})
        model = build_model(n_layers=1, width=16, n_heads=2, max_length=128, seed=0)
        for folder, above in ((base / "sft", base / "sft"), (base / "arms" / ARM / "s0", base / "arms" / ARM)):
            save_checkpoint(folder / "model", model, tokenizer)
            finish(folder, {"training": {"lr": 1e-3, "note": "``` # no heading"}}, above)

    def _groups(self) -> None:
        base = self.root / "hh" / "pocket"
        rows = [(p, f"sft.{j}", t) for p, texts in POOL.items() for j, t in enumerate(texts)]
        columns = dict(zip(("prompt_id", "response_id", "text"), map(list, zip(*rows, strict=True)), strict=True))
        artifacts.write_table(base / "pools/sft/responses.parquet", columns)
        finish(base / "pools/sft")
        for seed in (0, 1):
            groups = [
                {
                    "prompt_id": p,
                    "chosen": "target",
                    "rejected": [f"sft.{j}" for j in ids],
                    "score": [0.1 * j for j in ids],
                }
                for p, ids in GROUPS.items()
            ]
            folder = base / "groups/half/n2" / f"s{seed}"
            artifacts.write_jsonl(folder / "groups.jsonl", groups)
            finish(folder, {"n": 2}, folder.parent)

    def _answers(self, arm: str) -> None:
        folder = self.root / "hh/pocket/arms" / arm / "s0"
        texts = [f"{arm} on {p}" for p in PROMPTS]
        columns = {"prompt_id": [*PROMPTS], "response_id": ["eval.0"] * 3, "text": texts}
        artifacts.write_table(folder / "eval/test/responses.parquet", columns)
        finish(folder / "eval/test")
        asked = {"mt": [(str(q["question_id"]), t) for q in QUESTIONS for t in (0, 1)]}
        asked["alpaca"] = [(q["instruction"], 0) for q in INSTRUCTIONS]
        for key, file in (("mt", "questions.jsonl"), ("alpaca", "alpaca.json")):
            # The last turn of the last question has no answer: there was no room for it.
            given = [f"{arm} {i} {t}" for i, t in asked[key]]
            given[-1] = None if key == "mt" else given[-1]
            ids, turns = (list(part) for part in zip(*asked[key], strict=True))
            path = folder / "questions" / key
            artifacts.write_table(path / "responses.parquet", {"question_id": ids, "turn": turns, "text": given})
            finish(path, inputs={"questions": artifacts.sha256(self.folder / file)})

    def export(self, *args: str) -> int:
        return main(["export", str(self.config), *args])

    def arm(self, what: str, *args: str) -> int:
        return self.export(what, "--arm", ARM, "--seed", "0", *args)

    def folder_of(self, what: str, name: str = f"hh-pocket-{ARM}-s0") -> Path:
        return self.root / "export" / what / name


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trial]:
    monkeypatch.chdir(tmp_path)
    return lambda template="tokenizer": Trial(tmp_path, template)


@pytest.fixture
def trial(make: Callable[..., Trial]) -> Trial:
    return make()


PREFERENCES = "hh-pocket-half-n2-s0"


# Preferences


def loaded(folder: Path, config: str, cache: Path) -> Any:
    from datasets import load_dataset

    return load_dataset(str(folder), config, split="train", cache_dir=str(cache))


def test_pairs_and_groups_load_as_data_sets(trial: Trial, tmp_path: Path) -> None:
    assert trial.arm("preferences") == 0
    folder = trial.folder_of("preferences", PREFERENCES)
    pairs = loaded(folder, "pairs", tmp_path / "cache").to_list()
    assert [(r["prompt_id"], r["rejected_id"], r["rejected"][0]["content"]) for r in pairs] == [
        ("p0", "sft.1", "p0 answer 1"),
        ("p0", "sft.3", "p0 answer 3"),
        ("p1", "sft.2", "p1 answer 2"),
        ("p1", "sft.0", "p1 answer 0"),
    ]
    assert [r["score"] for r in pairs] == pytest.approx([0.1, 0.3, 0.2, 0.0])
    assert all(r["prompt"] == PROMPTS[r["prompt_id"]] for r in pairs)
    assert all(r["chosen"] == [{"role": "assistant", "content": TARGETS[r["prompt_id"]]}] for r in pairs)
    groups = loaded(folder, "groups", tmp_path / "cache").to_list()
    assert [[m[0]["content"] for m in r["rejected"]] for r in groups] == [
        ["p0 answer 1", "p0 answer 3"],
        ["p1 answer 2", "p1 answer 0"],
    ]
    counts = artifacts.read_json(folder / "manifest.json")["counts"]
    assert counts == {"pairs": 4, "groups": 2, "prompts of the pool without a group": 1}


def test_trl_trains_on_the_pairs_with_the_exported_tokenizer(trial: Trial, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    assert trial.arm("preferences") == trial.arm("model") == 0
    data = loaded(trial.folder_of("preferences", PREFERENCES), "pairs", tmp_path / "cache")
    model = AutoModelForCausalLM.from_pretrained(trial.folder_of("model"))
    before = model.lm_head.weight.detach().clone()
    config = DPOConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(trial.folder_of("model"))
    trainer = DPOTrainer(model, args=config, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    assert trainer.state.global_step == 2
    assert not before.equal(model.lm_head.weight)


def test_export_repeats_the_same_bytes(trial: Trial) -> None:
    assert trial.arm("all") == 0
    first = artifacts.sha256(trial.root / "export")
    assert trial.arm("all") == 0
    assert artifacts.sha256(trial.root / "export") == first
    shutil.rmtree(trial.root / "export")
    assert trial.arm("all") == 0
    assert artifacts.sha256(trial.root / "export") == first


def test_card_of_a_data_set_is_read_by_the_hub_library_and_escapes_what_a_user_wrote(trial: Trial) -> None:
    from huggingface_hub import DatasetCard

    assert trial.arm("preferences") == 0
    folder = trial.folder_of("preferences", PREFERENCES)
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert [c["config_name"] for c in card.data.configs] == ["pairs", "groups"]
    assert "<img" not in card.content
    assert r"\*\*bold\*\*" in card.text
    assert artifacts.sha256(folder / "pairs/train.parquet") in card.text


# Answers


def test_alpaca_eval_reads_the_answers(trial: Trial) -> None:
    """By its own code; the second instruction is a dialogue."""
    from alpaca_eval import utils

    assert trial.arm("alpaca_eval") == 0
    folder = trial.folder_of("alpaca_eval")
    split = utils.load_or_convert_to_dataframe(folder / "split-test/model_outputs.json")
    reference = utils.load_or_convert_to_dataframe(folder / "split-test/reference_outputs.json")
    assert list(split["instruction"]) == list(reference["instruction"])
    assert split["instruction"][1].startswith("Human: Hello!")
    assert list(split["output"]) == [f"{ARM} on {p}" for p in PROMPTS]
    assert list(reference["output"]) == [*TARGETS.values()]
    benchmark = utils.load_or_convert_to_dataframe(folder / "alpaca/model_outputs.json")
    assert set(benchmark["generator"]) == {f"hh-pocket-{ARM}-s0"}
    assert list(benchmark["dataset"]) == ["koala", "koala"]


def test_alpaca_eval_rates_them(trial: Trial) -> None:
    """Its own `evaluate`, with a stand-in for the judge, which likes the first of the three answers alone."""
    import pandas as pd
    from alpaca_eval import main as alpaca_main
    from alpaca_eval.annotators import PairwiseAnnotator

    class Annotator(PairwiseAnnotator):  # type: ignore[misc]
        def __call__(self, to_annotate: Any, **_: Any) -> list[dict[str, Any]]:
            rows = pd.DataFrame(to_annotate).to_dict("records")
            return [{**r, "annotator": "one", "preference": 1.0 + r["output_2"].endswith("p0")} for r in rows]

    assert trial.arm("alpaca_eval") == 0
    folder = trial.folder_of("alpaca_eval") / "split-test"
    board, annotations = alpaca_main.evaluate(
        model_outputs=folder / "model_outputs.json",
        reference_outputs=folder / "reference_outputs.json",
        annotators_config="alpaca_eval_gpt4",
        caching_path=None,
        output_path=None,
        precomputed_leaderboard=None,
        is_return_instead_of_print=True,
        fn_metric="get_winrate",
        sort_by="win_rate",
        Annotator=Annotator,
    )
    assert board.loc[f"hh-pocket-{ARM}-s0", "win_rate"] == pytest.approx(100 / 3)
    assert [a["generator_1"] for a in annotations] == ["target"] * 3


def test_mt_bench_answers_have_fastchats_layout_and_leave_out_what_has_none(
    trial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trial.arm("mt_bench") == 0
    assert "2 questions answered" in (told := capsys.readouterr().out)
    assert "1 questions left out: a turn has no answer" in told
    path = trial.folder_of("mt_bench") / f"mt/model_answer/hh-pocket-{ARM}-s0.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [r["question_id"] for r in rows] == [81, 82]
    assert rows[0].keys() == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    assert rows[0]["choices"] == [{"index": 0, "turns": [f"{ARM} 81 0", f"{ARM} 81 1"]}]
    assert len({r["answer_id"] for r in rows}) == 2
    assert read_answers(path, "mt_bench")["82"] == (f"{ARM} 82 0", f"{ARM} 82 1")


def test_changed_questions_are_refused(trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts.write_jsonl(trial.folder / "questions.jsonl", QUESTIONS[:2])
    assert trial.arm("mt_bench") == 2
    assert "not the one that the answers belong to" in capsys.readouterr().err


# Models


@pytest.mark.parametrize("template", ["tokenizer", "dialogue", "chatml", "zephyr", "zephyr_reference"])
def test_chat_template_of_the_export_renders_what_training_read(make: Callable[..., Trial], template: str) -> None:
    """`dialogue`, `chatml` and `zephyr` leave the BOS token to the tokenizer, and `zephyr_reference` trains on other prompts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trial = make(template)
    assert trial.arm("model") == 0
    folder = trial.folder_of("model")
    AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stored = artifacts.read_table(trial.root / "hh/pocket/prompts/pool.parquet")

    def rendered(chat: str | None) -> list[Any]:
        options = {"add_generation_prompt": True, "return_dict": False}
        return [list(tokenizer.apply_chat_template(m, chat_template=chat, **options)) for m in PROMPTS.values()]

    assert rendered(None) == stored["prompt_ids"]
    if template == "zephyr_reference":
        assert rendered("training") == stored[TRAINING_PROMPT] != stored["prompt_ids"]
    counts = artifacts.read_json(folder / "manifest.json")["counts"]
    assert counts == {"prompts of training that the chat template renders to the same ids": 3}


OWN = "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + eos_token }}{% endfor %}<assistant>"


@pytest.mark.parametrize(
    "chat",
    ["\n{{ bos_token }}" + OWN, "{{ bos_token }}{{ strftime_now('%Y') }}" + OWN, "{{ strftime_now('%Y') }}" + OWN],
    ids=["bos behind a newline", "clock", "clock without bos"],
)
def test_an_export_of_a_checkpoint_s_own_template_keeps_its_bos_and_its_day(
    chat: str, make: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    original = build_tokenizer

    def build_own(*, max_length: int) -> Any:
        tokenizer = original(max_length=max_length)
        tokenizer.chat_template = chat
        return tokenizer

    monkeypatch.setattr(sys.modules[__name__], "build_tokenizer", build_own)
    trial = make("tokenizer")
    assert trial.arm("model") == 0
    tokenizer = AutoTokenizer.from_pretrained(trial.folder_of("model"))
    stored = artifacts.read_table(trial.root / "hh/pocket/prompts/pool.parquet")["prompt_ids"]
    options = {"add_generation_prompt": True, "return_dict": False}
    assert [list(tokenizer.apply_chat_template(m, **options)) for m in PROMPTS.values()] == stored
    assert all(row.count(tokenizer.bos_token_id) == 1 for row in stored)
    text = tokenizer.apply_chat_template(PROMPTS[next(iter(PROMPTS))], tokenize=False)
    assert ("2024" in text) == ("strftime_now" in chat)


def test_tokenizer_that_renders_something_else_is_refused(trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trial.root / "hh/pocket/arms" / ARM / "s0"
    (folder / "model/chat_template.jinja").write_text("{{ bos_token }}something else", encoding="utf-8")
    spec = artifacts.read_json(folder.parent / "spec.json")
    finish(folder, spec, folder.parent)
    assert trial.arm("model") == 2
    assert "does not render the ids that training read" in capsys.readouterr().err
    assert not trial.folder_of("model").exists()


def test_model_card_holds_what_was_measured_with_its_n(trial: Trial) -> None:
    from huggingface_hub import ModelCard

    assert trial.arm("model") == 0
    folder = trial.folder_of("model")
    card = ModelCard.load(folder / "README.md")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("win_vs_sft", 0.625)
    assert result.metric_args["n_answers"] == 3
    assert (result.metric_args["low"], result.metric_args["high"]) == (0.5, 0.75)
    assert "| win rate against the SFT model (%) | 62.5 | \\[50.0, 75.0\\] | 3 | 3 | 0 |" in card.text
    assert "<img" not in card.content
    assert "````json" in card.text, "the fence is longer than the one inside of the settings"
    manifest = artifacts.read_json(folder / "manifest.json")
    assert manifest["training"] == artifacts.read_json(trial.root / "hh/pocket/arms" / ARM / "s0/manifest.json")
    assert all(artifacts.sha256(folder / name) == digest for name, digest in manifest["outputs"].items())
    assert "model.safetensors" in manifest["outputs"]


def test_sft_model_is_exported_once_for_all_seeds(trial: Trial) -> None:
    assert trial.export("model", "--arm", SFT) == 0
    assert [p.name for p in (trial.root / "export/model").iterdir()] == [f"hh-pocket-{SFT}"]
    assert "4.5" in (trial.folder_of("model", f"hh-pocket-{SFT}") / "README.md").read_text(encoding="utf-8")


def test_removed_weights_are_told_with_a_remedy_and_the_card_can_be_had(
    trial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(trial.root / "hh/pocket/arms" / ARM / "s0/model")
    assert trial.arm("model") == 2
    told = capsys.readouterr().err
    assert "keep_policies: true" in told
    assert "--card-only" in told
    assert trial.arm("model", "--card-only") == 0
    folder = trial.folder_of("model")
    assert {p.name for p in folder.iterdir()} == {"README.md", "manifest.json"}
    assert "The weights are not in this folder" in (folder / "README.md").read_text(encoding="utf-8")


# What users may get wrong


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["model", "--arm", "none"], "the study has no `none`"),
        (["model", "--seed", "7"], "one of: 0, 1"),
        (["model", "--dataset", "uc"], "one of: hh"),
        (["model", "--model", "large"], "one of: pocket"),
        (["preferences", "--arm", SFT], "has no preferences"),
        (["preferences", "--card-only"], "--card-only is for"),
        (["preferences", "--public"], "--public is for --push"),
        (["preferences", "--arm", "dpo-annotated-n1"], "has not come so far"),
        (["preferences", "--push", "me/x"], "--push uploads one export"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    trial: Trial, args: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trial.export(*args) == 2
    assert told in capsys.readouterr().err
    assert not [p for p in (trial.root / "export").rglob("*") if p.is_file()]


def test_edited_study_is_told(trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts.write_json(trial.root / "hh/pocket/arms" / ARM / "spec.json", {"training": {"lr": 2}})
    assert trial.arm("model") == 2
    assert "edited after this step had run" in capsys.readouterr().err


def test_other_folders_are_never_written_over(trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = trial.folder / "out/preferences" / PREFERENCES
    theirs.mkdir(parents=True)
    assert trial.arm("preferences", "--out", "out") == 0, "an empty folder is free"
    shutil.rmtree(theirs)
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("x", encoding="utf-8")
    assert trial.arm("preferences", "--out", "out") == 2
    assert "not empty" in capsys.readouterr().err
    assert [p.name for p in theirs.iterdir()] == ["thesis.tex"]


def test_damaged_groups_are_told(trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    path = trial.root / "hh/pocket/groups/half/n2/s0/groups.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("sft.3", "sft.2"), encoding="utf-8")
    assert trial.arm("preferences") == 2
    assert "changed or damaged" in capsys.readouterr().err


# Text of others


def test_escaped_text_has_one_line_and_no_markup() -> None:
    text = cards.escape_markdown("a\n# b <script>\u2028[x](http://y) `c` | d ![i](j) www.k.com")
    assert "\n" not in text
    assert "<" not in text
    assert text == "a \\# b &lt;script&gt; \\[x\\](http\\://y) \\`c\\` \\| d !\\[i\\](j) www\\.k.com"
    assert cards.code("a`b") == "``a`b``"
    assert cards.block("```\nx").startswith("````")


def test_front_matter_cannot_be_left_by_a_text_in_it() -> None:
    from huggingface_hub import DatasetCard

    matter = cards.front_matter({"pretty_name": "a\n---\nlicense: mit", "tags": ["b\n---\n# c"], "empty": None})
    card = DatasetCard(matter + "\ntext")
    assert card.data.to_dict() == {"pretty_name": "a --- license: mit", "tags": ["b --- # c"]}
    assert card.text.strip() == "text"


# Where things are from


def target_of(study: str) -> Target:
    loaded = load_study(study)
    return targets_of(loaded, Path("results"), arm=None, seed=None, dataset=None, model=None)[0]


def test_sources_and_licences_are_those_of_the_study() -> None:
    from_hub, world = target_of(str(ROOT / "config/qwen-small.yaml")), target_of(str(ROOT / "config/smoke.yaml"))
    text, repo = cards.data_source(from_hub)
    assert repo == "HuggingFaceH4/ultrafeedback_binarized"
    assert repo in text
    assert cards.data_source(world)[1] is None
    assert cards.data_licence(from_hub, "MIT") == "MIT"
    assert cards.data_licence(from_hub, "yours") == cards.UNKNOWN
    assert cards.data_licence(world, "MIT") == "Apache-2.0"
    assert cards.licence_tags("MIT") == {"license": "mit"}
    assert cards.licence_tags(cards.UNKNOWN) == {"license": "unknown"}
    assert cards.licence_tags("Apache-2.0, not to compete")["license"] == "other"


def test_folders_of_this_machine_stay_out_of_cards(tmp_path: Path) -> None:
    assert cards.hub_id("Qwen/Qwen2.5-0.5B") == cards.checkpoint_name("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"
    assert cards.hub_id(str(tmp_path)) is None
    assert cards.hub_id("./models/mine") is None
    assert cards.checkpoint_name("/home/me/models/mine") == "mine"


def test_base_model_from_elsewhere_is_named_without_its_folder_and_its_licence_is_unknown(
    trial: Trial,
) -> None:
    from huggingface_hub import ModelCard

    study = yaml.safe_load(trial.config.read_text(encoding="utf-8"))
    del study["models"]["pocket"]["scratch"]
    study["models"]["pocket"]["path"] = "/home/me/secret/base"
    trial.config.write_text(yaml.safe_dump(study), encoding="utf-8")
    spec = {"base": "/home/me/secret/base"}
    finish(trial.root / "hh/pocket/sft", spec)
    assert trial.export("model", "--arm", SFT) == 0
    folder = trial.folder_of("model", f"hh-pocket-{SFT}")
    assert ModelCard.load(folder / "README.md").data.license == "unknown"
    assert not [p for p in artifacts.files_of(folder) if b"secret" in p.read_bytes()]


# Uploads


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    with serve(UploadHub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield hub


def test_upload_is_private_and_holds_the_files_of_the_folder(
    trial: Trial, hub: UploadHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trial.arm("preferences", "--push", "lab/pairs") == 0
    assert "uploaded, private" in (told := capsys.readouterr().out)
    assert hub.token not in told
    repo = hub.repos["datasets/lab/pairs"]
    assert repo.private
    folder = trial.folder_of("preferences", PREFERENCES)
    assert repo.files == {p.relative_to(folder).as_posix(): p.read_bytes() for p in artifacts.files_of(folder)}
    assert hub.token not in "".join(p.read_text(errors="replace") for p in artifacts.files_of(folder))


def test_model_goes_to_a_model_repository_public_if_asked(trial: Trial, hub: UploadHub) -> None:
    assert trial.arm("model", "--push", "me/policy", "--public") == 0
    repo = hub.repos["models/me/policy"]
    assert not repo.private
    assert "model.safetensors" in repo.files


def test_nothing_is_uploaded_unless_asked(trial: Trial, hub: UploadHub) -> None:
    assert trial.arm("all") == 0
    assert hub.asked == []


@pytest.mark.parametrize(
    ("change", "name", "told"),
    [
        (lambda hub, env: env.delenv("HF_TOKEN"), "me/x", "needs the environment variable HF_TOKEN"),
        (lambda hub, env: env.setenv("HF_TOKEN", "hf_wrong"), "me/x", "refused the request"),
        (lambda hub, env: env.setenv("HF_HUB_OFFLINE", "1"), "me/x", "forbids an upload"),
        (lambda hub, env: env.setenv("HF_ENDPOINT", "http://127.0.0.1:9"), "me/x", "cannot be reached"),
        (lambda hub, env: setattr(hub, "role", "read"), "me/x", "may only read"),
        (lambda hub, env: None, "x", "no name of a repository"),
        (lambda hub, env: None, "me/../x", "no name of a repository"),
        (lambda hub, env: None, "others/x", "may not write there"),
        (lambda hub, env: hub.repos.update({"datasets/me/x": Repo(True, {"a": b""})}), "me/x", "is not empty"),
        (lambda hub, env: hub.repos.update({"datasets/me/x": Repo(False)}), "me/x", "is public"),
    ],
    ids=["no token", "wrong token", "offline", "no hub", "read only", "no owner", "path", "others", "taken", "public"],
)
def test_upload_is_checked_before_anything_is_written(
    trial: Trial,
    hub: UploadHub,
    change: Callable[..., Any],
    name: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(hub, monkeypatch)
    assert trial.arm("preferences", "--push", name) == 2
    error = capsys.readouterr().err
    assert told in error
    assert hub.token not in error
    assert hub.written == []
    assert not (trial.root / "export").exists()
