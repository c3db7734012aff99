"""Everything that a report is made from, read and checked; no paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from selfcontrast.metric_names import shown_metrics
from selfcontrast.metrics._shown import Shown
from selfcontrast.schema import Study
from selfcontrast.tables import ALL_SEEDS


@dataclass(frozen=True)
class Material:
    """What the steps of a study wrote.

    Attributes:
        tables: by name, as ``tables/<name>.tsv`` has them.
        costs: the same of ``cost/``.
        judges: ``summary.tsv`` of each judge, by its id.
        provenance: ``provenance.json``.
        browsers: prompts and answers, see ``answers.browser_of``.
        curves: see ``curves.curves_of``.
        pictures: SVG of each figure, by name.
        citation: the file CITATION.cff.
    """

    study: Study
    tables: Mapping[str, pd.DataFrame]
    costs: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    judges: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    browsers: Sequence[Mapping[str, Any]] = ()
    curves: Sequence[Mapping[str, Any]] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    citation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> pd.DataFrame:
        """Return the metrics over all seeds."""
        frame = self.tables["metrics"]
        return frame[frame["seed"] == ALL_SEEDS]

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Return the data sets and models, in their order."""
        frame = self.tables["metrics"]
        return list(dict.fromkeys(zip(frame["dataset"], frame["model"], strict=True)))

    def prefix(self, cell: tuple[str, str]) -> str:
        """Return what titles begin with where there are several data sets or models."""
        return f"{cell[0]}, {cell[1]}: " if len(self.cells) > 1 else ""

    def part(self, name: str, cell: tuple[str, str]) -> pd.DataFrame:
        """Return the rows of a table that belong to a data set and model; none of a table that is not there."""
        frame = self.tables.get(name)
        if frame is None or frame.empty:
            return pd.DataFrame()
        return frame[(frame["dataset"] == cell[0]) & (frame["model"] == cell[1])]

    @cached_property
    def shown(self) -> dict[str, Shown]:
        """Return how each metric of the tables is shown, in the order of columns."""
        found = set(self.metrics["metric"])
        return {m: shown for m, shown in shown_metrics(self.study).items() if m in found}
