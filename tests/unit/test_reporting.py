"""The report: what is escaped, which answers are in it and what it says of the others, and its sections on known tables."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import string
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcontrast.config import load_study
from selfcontrast.errors import InputError
from selfcontrast.metrics import score
from selfcontrast.reporting import answers, charts, citation, curves, page, sections
from selfcontrast.reporting.blocks import Chart, Picture, Section, Table, Text, Widget, number, table_of
from selfcontrast.reporting.material import Material
from selfcontrast.reporting.reading import read_tsv

ROOT = Path(__file__).resolve().parents[2]
EVIL = "</script><script>window.hacked = 1</script><!-- & \u2028\u2029 <img src=x onerror=alert(1)>"
TIMID = "a plain answer"


def browser(*, n_prompts: int = 4, text: str = TIMID, budget: int = answers.BUDGET, **changes: Any) -> dict[str, Any]:
    """Return the browser of two arms with two seeds and two samples, whose second arm is better by 0.5 everywhere."""
    scores = np.zeros((2, n_prompts, 2))
    given: dict[str, Any] = {
        "key": ("hh", "pocket"),
        "arms": {"sft-none-n0": {"n": 0}, "dpo-half-n1": {"n": 1}},
        "seeds": (3, 5),
        "seed": 0,
        "prompts": {f"p{i}": f"prompt {i}" for i in range(n_prompts)},
        "targets": {f"p{i}": f"target {i}" for i in range(n_prompts)},
        "scores": {"sft-none-n0": scores, "dpo-half-n1": scores + 0.5},
        "target_scores": np.ones(n_prompts),
        "texts_of": lambda arm, seed: [[f"{text}|{arm}|{seed}|{k}" for k in range(2)] for _ in range(n_prompts)],
        "budget": budget,
    }
    return answers.browser_of(**given | changes)


def published(**changes: Any) -> Material:
    """Return the material of the published run of `tiny`, with made-up answers and curves."""
    folder = ROOT / "results" / "published" / "tiny" / "tables"
    found = {p.stem: read_tsv(p) for p in sorted(folder.glob("*.tsv"))}
    costs = {name: found.pop(name) for name in ("cost", "ledger")}
    given: dict[str, Any] = {
        "study": load_study("tiny"),
        "tables": found,
        "costs": costs,
        "provenance": json.loads((folder / "provenance.json").read_text(encoding="utf-8")),
        "browsers": [browser()],
        "curves": curves.curves_of(
            [("hh, pocket", "dpo-half-n1", 0, [{"step": 0, "loss": 0.7}, {"step": 1, "loss": 0.5}])]
        ),
        "citation": citation.read_citation((ROOT / "CITATION.cff").read_text(encoding="utf-8"), where="CITATION.cff"),
    }
    return Material(**given | changes)


def html_of(material: Material) -> str:
    return page.render("tiny", "a study", {"arms": "2"}, sections.sections_of(material))


def test_a_share_over_all_seeds_is_not_said_to_be_of_the_first() -> None:
    """The histograms are of the first seed, the share of false negatives in their caption is of all n and seeds."""
    found = next(s for s in sections.sections_of(published()) if s.id == "negatives-section")
    (note,) = (b.note for b in found.blocks if isinstance(b, Chart) and b.title == "least50")
    assert "n = 23622 over all n and seeds; curves: first seed" in note


def unpacked(packed: str) -> str:
    return gzip.decompress(base64.b64decode(packed)).decode("utf-8")


def blocks_of(section: Section, kind: type) -> list[Any]:
    return [b for b in section.blocks if isinstance(b, kind)]


# Escaping


@given(st.text())
def test_data_in_the_page_means_what_it_meant_and_has_no_character_of_html(text: str) -> None:
    found = page.pack(page.to_json({text: [text]}))
    assert set(found) <= set(string.ascii_letters + string.digits + "+/=")
    assert json.loads(unpacked(found)) == {text: [text]}


def test_answer_that_ends_a_script_cannot_end_the_pages() -> None:
    text = html_of(published(browsers=[browser(text=EVIL)]))
    assert "window.hacked" not in text
    assert text.count("</script>") == text.count("<script") == 3
    data = json.loads(unpacked(re.search(r'<script type="text/plain" id="data">(.*?)</script>', text, re.S).group(1)))  # type: ignore[union-attr]
    assert data["answers"][0]["answers"]["sft-none-n0"][0][0][0].startswith(EVIL)


def test_text_outside_the_data_is_escaped_too() -> None:
    text = page.render(EVIL, EVIL, {EVIL: EVIL}, [Section("a", EVIL, EVIL, (Text("b", EVIL, EVIL, EVIL),))])
    assert text.count("</script>") == 3
    assert "<img" not in text


def test_page_names_no_address_to_load_from_and_forbids_it() -> None:
    text = html_of(published())
    assert "default-src 'none'" in html.unescape(text)
    shell = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*""", shell)
    assert "@import" not in shell and "url(" not in shell


def test_two_parts_of_a_page_may_not_share_an_id() -> None:
    with pytest.raises(ValueError, match="share an id"):
        page.render("t", "", {}, [Section("a", "", "", (Text("a", "", ""),))])


def test_files_of_the_page_are_installed_with_the_package() -> None:
    folder = ROOT / "selfcontrast" / "reporting"
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    installed = {p for pattern in declared["selfcontrast.reporting"] for p in folder.glob(pattern)}
    assert {p for p in folder.iterdir() if p.is_file() and p.suffix != ".py"} == installed


# Which answers


def test_all_answers_are_there_when_they_fit() -> None:
    found = browser()
    assert [p["at"] for p in found["shown"]] == [0, 1, 2, 3]
    assert found["answers"]["dpo-half-n1"][2] == [[f"{TIMID}|dpo-half-n1|{s}|{k}", 0.5] for s in (3, 5) for k in (0, 1)]
    assert found["means"] == {"sft-none-n0": [0] * 4, "dpo-half-n1": [0.5] * 4}
    assert "texts of all of them, every seed and sample" in answers.sentence(found)


def test_scores_of_every_prompt_stay_when_texts_do_not_fit() -> None:
    found = browser(n_prompts=50, budget=3000)
    assert 0 < len(found["shown"]) < 50
    assert len(found["means"]["sft-none-n0"]) == 50
    assert (found["seeds"], found["samples"]) == ([3], 1)
    assert f"texts of {len(found['shown'])} of them, picked at random, with 1 of 2 seeds" in answers.sentence(found)


@given(st.integers(0, 40_000))
def test_texts_never_exceed_the_budget(budget: int) -> None:
    found = browser(n_prompts=30, budget=budget)
    assert len(page.to_json([found["shown"], found["answers"]]).encode()) <= budget + 200


def test_second_samples_go_before_prompts_do_and_seeds_after_samples() -> None:
    n = answers.ENOUGH + 20
    bases, sizes = np.zeros(n), np.ones((n, 2, 3))
    order = list(range(n))
    assert answers.choose(bases, sizes, order, 6 * n) == answers.Choice(order, 2, 3)
    assert answers.choose(bases, sizes, order, 6 * answers.ENOUGH) == answers.Choice(order[:100], 2, 3)
    assert answers.choose(bases, sizes, order, 2 * answers.ENOUGH + 2) == answers.Choice(order[:101], 2, 1)
    assert answers.choose(bases, sizes, order, 50) == answers.Choice(order[:50], 1, 1)


def test_choice_of_prompts_follows_from_their_ids_alone() -> None:
    ids = [f"p{i}" for i in range(30)]
    first = [ids[i] for i in answers.shuffled(ids, 0)]
    assert first == [ids[::-1][i] for i in answers.shuffled(ids[::-1], 0)]
    assert first != [ids[i] for i in answers.shuffled(ids, 1)]


def test_long_answer_is_cut_and_counted() -> None:
    found = browser(text="x" * (answers.LONGEST + 7))
    (text, lost), _ = found["answers"]["sft-none-n0"][0][0]
    assert len(text) == answers.LONGEST and lost == 7 + len("|sft-none-n0|3|0")
    assert found["cut"] == 4 * 2 * 4
    assert f"{found['cut']} of {found['texts']} texts are longer than {answers.LONGEST} characters" in answers.sentence(
        found
    )


def test_answer_without_a_score_has_none_and_is_no_part_of_the_mean() -> None:
    scores = np.array([[[1.0, np.nan]], [[np.nan, np.nan]]])
    found = browser(n_prompts=1, scores={"sft-none-n0": scores, "dpo-half-n1": np.full((2, 1, 2), np.nan)})
    assert [score for _, score in found["answers"]["sft-none-n0"][0]] == [1, None, None, None]
    assert found["means"] == {"sft-none-n0": [1], "dpo-half-n1": [None]}


# Curves


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300))
def test_thinned_curve_is_short_and_stays_between_its_values(values: list[float]) -> None:
    found = curves.thin(values)
    assert len(found) == min(len(values), curves.POINTS)
    assert min(values) - 1e-6 <= min(found) and max(found) <= max(values) + 1e-6


def test_curve_is_the_mean_over_seeds_with_the_lowest_and_the_highest() -> None:
    rows = [("d", "a", s, [{"step": i, "loss": float(i + s)} for i in range(3)]) for s in (0, 2)]
    (found,) = curves.curves_of([*rows, ("d", "empty", 0, [])])
    assert found["figures"]["loss"] == [[1, 2, 3], [0, 1, 2], [2, 3, 4]]
    assert (found["seeds"], found["n_steps"], found["steps"]) == (2, 3, [0, 1, 2])


# Sections


def test_sections_of_a_finished_study_come_in_order() -> None:
    found = [s.id for s in sections.sections_of(published())]
    assert found[:3] == ["headline", "scaling", "filters"]
    assert found[3:] == [
        "evidence",
        "more",
        "prompts",
        "negatives-section",
        "training",
        "data-section",
        "cost-section",
        "versions-section",
        "cite",
    ]


def test_main_table_marks_the_best_and_what_cannot_be_told_from_it() -> None:
    first = sections.sections_of(published())[0]
    table = next(t for t in blocks_of(first, Table) if t.id == "main")
    cells = {row[0]: dict(zip(table.columns, row, strict=True))["mean grade"] for row in table.rows}
    assert len(cells) == 15
    assert cells["selfcontrast-least50-n16"] | {"i": ""} == {
        "v": 0.801145,
        "t": "0.801",
        "i": "",
        "n": "n=4608",
        "m": "best",
    } | {"v": cells["selfcontrast-least50-n16"]["v"]}
    assert cells["selfcontrast-least50-n8"]["m"] == "alike"
    assert "m" not in cells["sft-none-n0"]
    assert all(c["n"] == "n=4608" and c["i"].startswith("[") for c in cells.values())


def test_rates_are_in_percent_and_the_scaling_curve_has_every_n() -> None:
    scaling = next(s for s in sections.sections_of(published()) if s.id == "scaling")
    chart = next(c for c in blocks_of(scaling, Chart) if c.id.endswith("win_vs_target"))
    curve = next(t for t in chart.figure["data"] if t.get("name") == "selfcontrast-least50")
    assert curve["x"] == [1, 2, 4, 8, 16]
    assert curve["y"][-1] == pytest.approx(34.7, abs=0.05)
    assert "n = 4608 answers to 384 prompts" in curve["text"][0]


def test_table_and_figure_that_nobody_knew_of_are_shown() -> None:
    material = published(pictures={"scaling": "<svg/>", "proxy": "<svg>&amp;</svg>"})
    material = Material(
        **vars(material) | {"tables": {**material.tables, "exports": pd.DataFrame({"what": ["x"], "n": [3]})}}
    )
    more = next(s for s in sections.sections_of(material) if s.id == "more")
    assert {"Exports", "Benchmarks"} <= {t.title for t in blocks_of(more, Table)}
    assert [p.id for p in blocks_of(more, Picture)] == ["picture-proxy"]
    assert html_of(material).count("data:image/svg+xml;base64,") == 1


def test_study_with_judges_has_their_tables_and_one_without_has_none() -> None:
    frame = pd.DataFrame(
        {"dataset": ["hh"], "model": ["pocket"], "arm": ["a"], "figure": ["score"], "value": [0.5], "n": [9]}
    )
    found = {s.id: s for s in sections.sections_of(published(judges={"gpt": frame}))}
    assert [t.id for t in blocks_of(found["judges"], Table)] == ["judge-gpt"]
    assert "judges" not in {s.id for s in sections.sections_of(published())}


def test_smallest_material_makes_a_page() -> None:
    """No comparisons, answers, curves, cost or provenance: what is missing has no section."""
    metrics = published().tables["metrics"]
    found = sections.sections_of(Material(load_study("tiny"), {"metrics": metrics[metrics["arm"] == "sft-none-n0"]}))
    assert [s.id for s in found] == ["headline", "scaling", "filters"]
    page.render("tiny", "", {}, found)


def test_browser_and_curves_are_widgets_with_their_data() -> None:
    found = {b.kind: b.payload for s in sections.sections_of(published()) for b in blocks_of(s, Widget)}
    assert found.keys() == {"browser", "curves"}
    assert found["browser"][0]["ids"] == ["p0", "p1", "p2", "p3"]


def test_same_material_gives_the_same_page() -> None:
    assert html_of(published()) == html_of(published())


# Values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.1234567), 0.123457),
        (np.int64(3), 3),
        (2.0, 2),
        (float("nan"), None),
        (float("inf"), None),
        ("x", "x"),
    ],
)
def test_numbers_of_the_page(value: Any, expected: Any) -> None:
    assert number(value) == expected


def test_data_set_and_model_are_left_out_only_where_there_is_one() -> None:
    one = pd.DataFrame({"dataset": ["a", "a"], "model": ["m", "m"], "n_x": [1, 2]})
    assert table_of("t", "", "", one).columns == ("n x",)
    two = one.assign(dataset=["a", "b"])
    assert table_of("t", "", "", two).columns == ("dataset", "model", "n x")


def test_slider_shows_the_arms_of_one_n() -> None:
    rows = published().metrics.query("metric == 'score'")
    figure = charts.dots(rows, score.SHOWN, labels=rows["arm"].tolist(), baseline=0.69, slider=True)
    steps = {s["label"]: s["args"][0]["visible"] for s in figure["layout"]["sliders"][0]["steps"]}
    assert [*steps] == ["all", "0", "1", "2", "4", "8", "16"]
    assert sum(len(t["y"]) for t, seen in zip(figure["data"], steps["4"], strict=True) if seen) == 6


# Citation


def test_citation_is_bibtex_of_the_software_and_the_paper() -> None:
    found = citation.bibtex(published().citation)
    assert found.count("@") == 2
    assert "author = {Liu, Xiao and Song, Xixuan and Dong, Yuxiao and Tang, Jie}" in found
    assert "note = {arXiv:2404.00604}" in found


@pytest.mark.parametrize("text", ["a: [", "- 1", "x: y"])
def test_damaged_citation_is_told(text: str) -> None:
    with pytest.raises(InputError, match="citation file"):
        citation.read_citation(text, where="CITATION.cff")
