"""The report in Chromium: two widths, light and dark, sorting, answers of models as text, no network, under two seconds."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfcontrast.reporting import page, sections
from tests.unit.test_reporting import EVIL, browser, published

pytestmark = pytest.mark.browser

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
MOST_SECONDS = 2.0


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine (make test-browser installs it as root on Debian)")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published tables of `tiny`, and answers of which every one tries to run."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    found = sections.sections_of(published(browsers=[browser(n_prompts=30, text=EVIL)]))
    path.write_text(page.render("tiny", EVIL, {"arms": "14"}, found), encoding="utf-8")
    return path


class Opened:
    """A page with what it complained of and asked for."""

    def __init__(self, chromium: Any, report: Path, *, width: int = 1440, scheme: str = "light") -> None:
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        started = time.monotonic()
        self.page.goto(report.as_uri())
        self.seconds = time.monotonic() - started

    def scroll_through(self) -> None:
        """Go from figure to figure, each until it is drawn: a figure is drawn when it comes near the window."""
        for plot in self.page.locator(".plot").all():
            plot.scroll_into_view_if_needed()
            plot.locator("svg").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 400])
def test_page_fits_its_window_complains_of_nothing_and_asks_for_nothing(
    chromium: Any, report: Path, width: int, scheme: str
) -> None:
    opened = Opened(chromium, report, width=width, scheme=scheme)
    opened.scroll_through()
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    assert opened.complaints == []
    assert [u for u in opened.requests if not u.startswith(("data:", "blob:"))] == [report.as_uri()]
    red, green, blue = opened.page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (red + green + blue < 200) == (scheme == "dark")
    opened.context.close()


def test_page_opens_in_two_seconds(chromium: Any, report: Path) -> None:
    """The best of three: load, and the first figure drawn."""
    seconds = []
    for _ in range(3):
        opened = Opened(chromium, report)
        started = time.monotonic()
        opened.page.wait_for_selector("[data-chart] svg")
        seconds.append((opened.seconds, opened.seconds + time.monotonic() - started))
        opened.context.close()
    load, drawn = min(seconds)
    print(f"load {load:.2f} s, first figure {drawn:.2f} s")
    assert load < MOST_SECONDS
    assert drawn < 2 * MOST_SECONDS


def test_click_on_a_column_sorts_and_words_filter(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report)
    table = opened.page.locator("[data-table=main]")
    arms = table.locator("tbody tr td:first-child")
    head = table.get_by_role("button", name="mean grade")
    head.click()
    assert arms.first.inner_text() == "selfcontrast-least50-n16"
    assert table.locator("th[aria-sort=descending]").count() == 1
    head.click()
    assert arms.first.inner_text() == "sft-none-n0"
    table.get_by_role("searchbox").fill("n4 least")
    assert sorted(arms.all_inner_texts()) == [f"selfcontrast-least{k}-n4" for k in (25, 50, 75)]
    opened.context.close()


def test_what_a_model_wrote_is_text_and_does_not_run(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report)
    opened.page.locator("#prompts").scroll_into_view_if_needed()
    opened.page.locator(".entry").nth(3).click()
    opened.page.locator(".others summary").click()
    shown = opened.page.locator(".side .said")
    shown.nth(2 * 4 * 2 - 1).wait_for()  # the browser tells of an opened summary when it has time
    said = shown.all_inner_texts()
    assert len(said) == 2 * 4 * 2
    assert all("</script><script>window.hacked = 1</script>" in text for text in said)
    assert opened.page.locator(".entry.current").count() == 1
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator("img[src=x]").count() == 0
    assert opened.complaints == []
    opened.context.close()


def test_policy_stops_a_script_that_got_in_by_any_other_way(chromium: Any, report: Path) -> None:
    """The negative control: a script element of the test's own, which the page's policy must refuse."""
    opened = Opened(chromium, report)
    opened.page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s)"
    )
    assert opened.page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in c for c in opened.complaints)
    opened.context.close()


def test_wins_and_losses_are_counted_between_any_two_arms(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report)
    opened.page.locator("#prompts").scroll_into_view_if_needed()
    assert "30 wins, 0 ties, 0 losses of 30 prompts" in opened.page.locator(".tally").inner_text()
    opened.page.get_by_label("show").select_option("loss")
    assert opened.page.locator(".entry").count() == 0
    opened.context.close()


def test_button_turns_light_into_dark(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report)
    before = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    opened.page.locator("#theme").click()
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert opened.page.locator("#theme").inner_text() == "Light"
    assert opened.complaints == []
    opened.context.close()


# On paper

INK = 60
"""Pixels in a colour that a figure has at 50 dots an inch, at least; a page without figures has none in their place."""


def lines_of(pdf: Path) -> list[tuple[float, int, float, str]]:
    """Return height, page, lower edge and words of each line of a PDF, in points."""
    text = subprocess.run(["pdftotext", "-bbox-layout", pdf, "-"], text=True, capture_output=True, check=True).stdout
    found: list[tuple[float, int, float, str]] = []
    for number, sheet in enumerate(text.split("<page ")[1:]):
        for line in re.findall(r'<line [^>]*yMin="([\d.]+)"[^>]*yMax="([\d.]+)">(.*?)</line>', sheet, re.S):
            top, bottom, words = float(line[0]), float(line[1]), re.findall(r"<word [^>]*>(.*?)</word>", line[2])
            found.append((bottom - top, number, bottom, html.unescape(" ".join(words))))
    return found


def colours_of(pdf: Path, sheet: int, top: float) -> int:
    """Return how many pixels of the 150 points below a place of a page are neither white, black nor grey."""
    import numpy as np

    area = ["-f", str(sheet + 1), "-l", str(sheet + 1), "-r", "50", "-y", str(int(top * 50 / 72)), "-H", "104"]
    done = subprocess.run(["pdftoppm", *area, "-x", "0", "-W", "425", pdf], capture_output=True, check=True)
    head, _, pixels = done.stdout.partition(b"\n255\n")
    width, height = map(int, head.split()[1:3])
    rgb = np.frombuffer(pixels, np.uint8).reshape(height, width, 3).astype(int)
    return int(((rgb.max(2) - rgb.min(2)) > 40).sum())


def print_by_command(chromium: Any, report: Path, pdf: Path) -> None:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--print-to-pdf={pdf}"]
    subprocess.run([str(CHROMIUM), *flags, report.as_uri()], capture_output=True, check=True, timeout=240)


def print_from_the_dark(chromium: Any, report: Path, pdf: Path) -> None:
    opened = Opened(chromium, report, width=400, scheme="dark")
    opened.page.locator("#theme").click()
    opened.page.locator("#theme").click()
    opened.page.pdf(path=pdf)
    opened.page.wait_for_selector(':root[data-theme="dark"] [data-chart] svg')
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 400
    assert opened.complaints == []
    opened.context.close()


@pytest.mark.parametrize("printed", [print_by_command, print_from_the_dark])
def test_paper_has_ink_in_every_figure_and_all_rows(chromium: Any, report: Path, tmp_path: Path, printed: Any) -> None:
    """As soon as the page is loaded, and without a window that could be scrolled; in light colours even from a dark page."""
    if shutil.which("pdftoppm") is None:
        pytest.skip("there is no pdftoppm on this machine (make test-browser installs poppler-utils as root on Debian)")
    printed(chromium, report, tmp_path / "report.pdf")
    lines = lines_of(tmp_path / "report.pdf")
    blocks = [b for s in sections.sections_of(published(browsers=[])) for b in s.blocks]
    titles = [b.title for b in blocks if b.kind == "chart"]
    assert len(titles) > 20
    place = {text: (sheet, bottom) for _, sheet, bottom, text in sorted(lines)}  # a title is larger than a cell
    empty = [t for t in titles if colours_of(tmp_path / "report.pdf", *place[t]) < INK]
    assert empty == []
    (longest,) = [b for b in blocks if b.title == "All metrics, seed by seed"]
    words = " ".join(text for *_, text in lines)
    last = longest.rows[-1][longest.columns.index("metric")]  # its rows are behind the first 200, which a window shows
    assert words.count(last) >= sum(last in row for row in longest.rows) > 40
    assert "Show all" not in words
