"""The main table as Markdown and LaTeX: the best arm in bold, and what cannot be told apart from it marked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from selfcontrast.metric_names import shown_metrics
from selfcontrast.metrics._shown import Shown, units
from selfcontrast.schema import Study
from selfcontrast.tables import ALL_SEEDS

ALIKE = "≈"
"""Mark of a value that is not distinguishable from the best."""


def format_value(shown: Shown, value: float, low: float, high: float, *, n: int) -> str:
    """Return a value and its interval, as its metric is shown; a rate with the number of answers behind it.

    Raises:
        ValueError: ``n`` is not a positive number: a mean of nothing, or a rate without its n, is not printed.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"a rate is printed with the number of answers behind it, not with n = {n!r}")
    return shown.interval(value, low, high) + (f" n={n}" if shown.is_rate else "")


Cell = tuple[str, bool, bool]
"""A text, whether it is the best, and whether it cannot be told from the best."""


@dataclass(frozen=True)
class _Block:
    """One data set with one model: a title, a table of texts, and sentences below it.

    Attributes:
        rows: arm, then a cell for each metric.
        label: what its label in LaTeX has beyond data set and model.
    """

    dataset: str
    model: str
    title: str
    heads: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str]
    label: str = ""


def markdown(study: Study, tables: Mapping[str, pd.DataFrame]) -> str:
    """Return the main table as Markdown: one line for each arm, mean and interval of each metric.

    Args:
        tables: ``metrics``, ``best``, ``trend`` and ``power``; ``benchmarks`` if the study has some.
    """
    lines = []
    for block in _blocks(study, tables):
        rows = [[arm, *(_marked(*cell) for cell in cells)] for arm, cells in block.rows]
        widths = [max(len(r[i]) for r in [block.heads, *rows]) for i in range(len(block.heads))]
        lines += [f"{block.dataset}, {block.model}: {block.title}", "", _aligned(block.heads, widths)]
        lines.append("|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|")
        lines += [*(_aligned(row, widths) for row in rows), "", *(f"- {note}" for note in block.notes), ""]
    return "\n".join(lines)


def _marked(text: str, is_best: bool, is_alike: bool) -> str:
    return f"**{text}**" if is_best else f"{text} {ALIKE}" if is_alike else text


def _aligned(row: list[str], widths: list[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
    return f"| {' | '.join(cells)} |"


def latex(study: Study, tables: Mapping[str, pd.DataFrame]) -> str:
    """Return the main table as LaTeX for the package booktabs; arguments as in ``markdown``."""
    lines = ["% needs \\usepackage{booktabs}"]
    for block in _blocks(study, tables):
        caption = " ".join([f"{block.dataset}, {block.model}: {block.title}.", *block.notes])
        lines += ["\\begin{table}", "  \\centering", f"  \\begin{{tabular}}{{l{'r' * (len(block.heads) - 1)}}}"]
        lines += ["    \\toprule", f"    {' & '.join(map(escape_latex, block.heads))} \\\\", "    \\midrule"]
        for arm, cells in block.rows:
            texts = [escape_latex(arm), *(_marked_latex(*cell) for cell in cells)]
            lines.append(f"    {' & '.join(texts)} \\\\")
        lines += ["    \\bottomrule", "  \\end{tabular}", f"  \\caption{{{escape_latex(caption)}}}"]
        lines += [f"  \\label{{tab:{block.dataset}-{block.model}{block.label}}}", "\\end{table}", ""]
    return "\n".join(lines)


def _marked_latex(text: str, is_best: bool, is_alike: bool) -> str:
    text = escape_latex(text)
    # Behind a row's end a bracket would be read as the optional argument of \\\\; inside braces it is not.
    return f"\\textbf{{{text}}}" if is_best else f"{{{text}}} {escape_latex(ALIKE)}" if is_alike else f"{{{text}}}"


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    ALIKE: r"$\approx$",
}


def escape_latex(text: str) -> str:
    """Return text in which no character has a meaning to LaTeX."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found.group()], text)


# What both show


def _blocks(study: Study, tables: Mapping[str, pd.DataFrame]) -> Iterator[_Block]:
    over_all = tables["metrics"][tables["metrics"]["seed"] == ALL_SEEDS]
    known = set(over_all["metric"])
    shown = {m: s for m, s in shown_metrics(study).items() if m in known}
    proxies = list(dict.fromkeys(s.proxy for s in shown.values()))
    for dataset, model in over_all[["dataset", "model"]].drop_duplicates().itertuples(index=False):
        here = {name: _of(frame, dataset, model) for name, frame in tables.items()}
        n_prompts = study.datasets[str(dataset)].splits.model_dump()[study.evaluation.split]
        title = (
            f"{n_prompts} {study.evaluation.split} prompts, {len(study.seeds)} seeds, "
            f"{study.evaluation.samples} answer(s) each; 95 % intervals over {units('prompts', len(study.seeds))}"
        )
        for proxy in proxies:
            metrics = {m: s for m, s in shown.items() if s.proxy == proxy}
            heads = ["arm", *(s.head for s in metrics.values())]
            of_whom = f"by the scorer {proxy}, which is not the judge; {title}" if proxy else title
            rows, notes = _rows(here, metrics), list(_notes(study, here, metrics))
            yield _Block(str(dataset), str(model), of_whom, heads, rows, notes, f"-{proxy}" if proxy else "")
        yield from _benchmark_blocks(str(dataset), str(model), here)


def _rows(tables: Mapping[str, pd.DataFrame], metrics: Mapping[str, Shown]) -> list[tuple[str, list[Cell]]]:
    """Return the arms of one data set and model, each with a cell for each metric."""
    compared = tables["best"]
    best = dict(zip(zip(compared["metric"], compared["arm"], strict=True), compared["best"], strict=True))
    same = compared[~compared["distinguishable"].astype(bool)]
    alike = set(zip(same["metric"], same["arm"], strict=True))
    rows = []
    over_all = tables["metrics"][tables["metrics"]["seed"] == ALL_SEEDS]
    for arm, found in over_all.groupby("arm", sort=False):
        by_metric = found.set_index("metric")
        cells = []
        for metric, shown in metrics.items():
            is_best = best.get((metric, arm), "") == arm
            cells.append((_cell(by_metric, metric, shown), is_best, (metric, arm) in alike and not is_best))
        rows.append((str(arm), cells))
    return rows


def _benchmark_blocks(dataset: str, model: str, here: Mapping[str, pd.DataFrame]) -> Iterator[_Block]:
    """Yield one block for each benchmark, with one metric of each task: `acc_norm` where there is one, else the first."""
    if "benchmarks" not in here:
        return
    over_all = here["benchmarks"][here["benchmarks"]["seed"] == ALL_SEEDS]
    for benchmark, part in over_all.groupby("benchmark", sort=False):
        first = part.sort_values("metric", key=lambda m: m != "acc_norm", kind="stable").drop_duplicates(
            ["arm", "task"]
        )
        shown = first.set_index(["arm", "task"])
        tasks, arms = list(dict.fromkeys(part["task"])), list(dict.fromkeys(part["arm"]))
        rows = [(str(arm), [(_of_task(shown.loc[(arm, task)]), False, False) for task in tasks]) for arm in arms]
        heads = ["arm", *(f"{task} {shown.loc[(arms[0], task), 'metric']}" for task in tasks)]
        over = units("questions", int(part["seeds"].max()))
        title = f"benchmark {benchmark} by lm-evaluation-harness; 95 % intervals over {over}"
        yield _Block(dataset, model, title, heads, rows, [], f"-{benchmark}")


def _of_task(row: pd.Series) -> str:
    interval = "" if pd.isna(row["low"]) else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['value']:.3f}{interval} n={row['questions']}"


def _of(frame: pd.DataFrame, dataset: object, model: object) -> pd.DataFrame:
    return frame[(frame["dataset"] == dataset) & (frame["model"] == model)]


def _cell(rows: pd.DataFrame, metric: str, shown: Shown) -> str:
    if metric not in rows.index:
        return "-"
    value, low, high = (float(rows.loc[metric, c]) for c in ("value", "low", "high"))  # type: ignore[arg-type]
    n = int(rows.loc[metric, "answers"])  # type: ignore[arg-type]
    return format_value(shown, value, low, high, n=n) if n else "no value"


def _notes(study: Study, tables: Mapping[str, pd.DataFrame], metrics: Mapping[str, Shown]) -> Iterator[str]:
    """Yield sentences on marks, trend, power and nulls."""
    if any(shown.proxy for shown in metrics.values()):
        yield "No best arm is sought here: what was trained on this scorer's word is ahead by it (figure overoptimisation)."
    else:
        yield f"Bold: the best arm. {ALIKE}: not distinguishable from it (paired by prompt, 5 % level, Holm's correction)."
    trend = tables["trend"]
    rows = trend[(trend["method"] + "-" + trend["selection"]) == study.figures.scaling]
    rows = rows[rows["metric"].isin([m for m, shown in metrics.items() if shown.is_merit]) & rows["low"].notna()]
    if len(rows):
        parts = [_rise(metrics[r["metric"]], r) for _, r in rows.iterrows()]
        ns = rows["n"].iloc[0].replace(" ", ", ")
        yield f"Trend of {study.figures.scaling} for each doubling of n (n = {ns}): {'; '.join(parts)}."
    medians = tables["power"].dropna(subset="smallest").groupby("metric", sort=False)["smallest"].median()
    parts = [f"{shown.head} {_scaled(shown, medians[m])}" for m, shown in metrics.items() if m in medians.index]
    if parts:
        yield f"Smallest difference that would be found with 80 % power (median of the comparisons): {'; '.join(parts)}."
    over_all = tables["metrics"][tables["metrics"]["seed"] == ALL_SEEDS]
    yield from filter(None, [variance_note(over_all[over_all["metric"].isin(metrics)])])
    nulls = over_all.groupby("metric", sort=False)["nulls"].sum()
    parts = [f"{shown.head} {nulls[m]}" for m, shown in metrics.items() if nulls.get(m, 0)]
    if parts:
        yield f"Answers without a value, left out, over all arms: {'; '.join(parts)}."


def variance_note(over_all: pd.DataFrame) -> str:
    """Return whose variance of seeds the rows of ``metrics`` over all seeds are by; nothing for tables that do not say it."""
    used = set(over_all["variance"]) if "variance" in over_all else set()
    if "moderated" in used:
        return (
            "Variance of seeds: moderated, with strength borrowed from the other arms; the interval of the SFT model is by "
            "its own. The tables have the unpooled values too."
        )
    if "own" in used:
        return "Variance of seeds: each arm's and each comparison's own, since there are too few arms to borrow from."
    return "One seed: intervals and comparisons are about these trainings, not about the methods." if used else ""


def _rise(shown: Shown, row: pd.Series) -> str:
    change, low, high = (("" if row[c] < 0 else "+") + _scaled(shown, row[c]) for c in ("per_doubling", "low", "high"))
    return f"{shown.head} {change} [{low}, {high}], {_p(row['p'])}"


def _scaled(shown: Shown, value: float) -> str:
    return f"{shown.factor * value:.{shown.decimals}f}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"
