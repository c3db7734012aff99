"""What a page is made of: sections of tables, charts, pictures and notes; values only, no HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

CELL = ("dataset", "model")
"""Columns that are left out of a page's tables where all rows agree in them."""

LONG = 12
"""Rows beyond which a table starts folded."""

DIGITS = 6
"""Significant digits of a number in the page, as in the .tsv files."""


@dataclass(frozen=True)
class Table:
    """Rows for the page's own table, which sorts and filters.

    Attributes:
        note: one sentence on what a row is.
        columns: titles.
        rows: texts, numbers, booleans or None; or ``Mark`` as a mapping, see ``mark``.
    """

    id: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[list[Any]]
    is_open: bool = True
    kind: str = "table"

    @property
    def payload(self) -> dict[str, Any]:
        """Return what the page's script reads."""
        return {"kind": "table", "title": self.title, "columns": self.columns, "rows": self.rows}


@dataclass(frozen=True)
class Chart:
    """A figure as plotly.js takes it: ``data`` and ``layout``; colours of text and grid are the page's."""

    id: str
    title: str
    note: str
    figure: dict[str, Any]
    is_wide: bool = False
    kind: str = "chart"

    @property
    def payload(self) -> dict[str, Any]:
        """Return what the page's script reads."""
        return {"kind": "chart", **self.figure}


@dataclass(frozen=True)
class Picture:
    """An SVG of the study that has no interactive twin; shown as an image, so that nothing in it runs."""

    id: str
    title: str
    note: str
    source: str
    kind: str = "picture"
    payload: None = None


@dataclass(frozen=True)
class Text:
    """A paragraph, or a text to copy; shown as it is."""

    id: str
    title: str
    note: str
    text: str = ""
    kind: str = "text"
    payload: None = None


@dataclass(frozen=True)
class Widget:
    """A part with a script of its own: ``browser`` or ``curves``."""

    id: str
    title: str
    note: str
    kind: str
    payload: Any


Block = Table | Chart | Picture | Text | Widget


@dataclass(frozen=True)
class Section:
    """A heading, one sentence on what is shown, and blocks."""

    id: str
    title: str
    lead: str
    blocks: tuple[Block, ...]


def number(value: Any) -> Any:
    """Return a value as JSON has it: numbers with six significant digits, None for what is missing or infinite."""
    if value is None or isinstance(value, bool | str):
        return value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.{DIGITS}g}")
    return value


def mark(
    value: float, text: str, *, interval: str = "", n: str = "", best: bool = False, alike: bool = False
) -> dict[str, Any]:
    """Return a cell with more to it than a value: how it is written, its interval, its n, and whether it is the best."""
    flag = "best" if best else "alike" if alike else ""
    return {k: v for k, v in {"v": number(value), "t": text, "i": interval, "n": n, "m": flag}.items() if v != ""}


def table_of(key: str, title: str, note: str, frame: pd.DataFrame, *, is_open: bool | None = None) -> Table:
    """Return a frame as a table; data set and model are left out where there is only one of each."""
    single = len(frame) and all(c in frame and frame[c].nunique(dropna=False) == 1 for c in CELL)
    shown = frame.drop(columns=list(CELL)) if single else frame
    columns = [[number(v) if not _is_missing(v) else None for v in shown[c].tolist()] for c in shown.columns]
    rows = [list(row) for row in zip(*columns, strict=True)]
    opened = len(rows) <= LONG if is_open is None else is_open
    return Table(key, title, note, tuple(str(c).replace("_", " ") for c in shown.columns), rows, opened)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def pairs_table(key: str, title: str, note: str, columns: Sequence[str], values: Mapping[str, Any]) -> Table:
    """Return a mapping as a table of two columns."""
    rows = [[k, "not installed here" if v is None else str(v)] for k, v in values.items()]
    return Table(key, title, note, tuple(columns), rows, len(rows) <= LONG)
