"""Reads what a report shows: answers and their scores, training curves, judges' tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selfcontrast.artifacts import Artifact, read_json, read_jsonl, read_lines
from selfcontrast.cells import Cell
from selfcontrast.judging.contests import conversation
from selfcontrast.reporting import answers
from selfcontrast.reporting.curves import History
from selfcontrast.schema import Study

_ID = re.compile(rb'"prompt_id": "([^"\\]+)"')


def read_tables(artifact: Artifact) -> dict[str, pd.DataFrame]:
    """Return every .tsv file of a step, by its name without the suffix."""
    return {
        n.removesuffix(".tsv"): read_tsv(artifact.path(n)) for n in artifact.manifest["outputs"] if n.endswith(".tsv")
    }


def read_tsv(path: Path) -> pd.DataFrame:
    """Return a table as the project writes them: empty fields alone are missing values."""
    try:
        return pd.read_csv(path, sep="\t", keep_default_na=False, na_values=[""], dtype={"seed": str})
    except pd.errors.EmptyDataError:
        return pd.DataFrame()


def read_histories(study: Study, cells: Sequence[Cell]) -> Iterator[tuple[str, str, int, History]]:
    """Yield data set and model, arm, seed and the records of its training: the SFT model's, then every arm's."""
    for cell in cells:
        group = ", ".join(cell.key)
        sft = cell.layout.base / "sft" / "manifest.json"
        for arm, seed, manifest in [
            ("sft", 0, sft),
            *(
                (a.id, s, cell.layout.policy(a.id, s, is_trained=True))
                for a in cell.arms.values()
                if a.is_trained
                for s in study.seeds
            ),
        ]:
            artifact = Artifact.open(manifest)
            if "history.jsonl" in artifact.manifest["outputs"]:
                yield group, arm, seed, [record for _, record in read_jsonl(artifact.path("history.jsonl"))]


def read_judges(study: Study, root: Path) -> dict[str, pd.DataFrame]:
    """Return the summary of each judge of the study, by its id."""
    folders = {judge: root / "judges" / judge / "manifest.json" for judge in study.evaluation.judges}
    return {judge: read_tsv(Artifact.open(manifest).path("summary.tsv")) for judge, manifest in folders.items()}


def read_provenance(tables: Artifact) -> Any:
    """Return provenance.json."""
    return read_json(tables.path("provenance.json"))


def read_browser(cell: Cell, *, budget: int) -> dict[str, Any]:
    """Return prompts, answers and scores of one data set and model; see ``answers.browser_of``."""
    study, split = cell.study, cell.study.evaluation.split
    table = Artifact.open(cell.layout.prompts).table(f"{split}.parquet", ["prompt_id", "prompt", "target"])
    ids = cell.prompt_ids
    last_turns = dict(zip(table["prompt_id"], table["prompt"], strict=True))
    dialogues = Artifact.open(cell.layout.root / cell.layout.dataset / "prompts" / "manifest.json")
    prompts = {i: last_turns[i] for i in ids} | dict(_conversations(dialogues, set(ids)))
    return answers.browser_of(
        key=(cell.layout.dataset, cell.layout.model),
        arms={a.id: {"method": a.method, "selection": a.selection, "n": a.n} for a in cell.arms.values()},
        seeds=study.seeds,
        seed=study.seed,
        prompts=prompts,
        targets=dict(zip(table["prompt_id"], table["target"], strict=True)),
        scores={arm: np.stack([cell.scores[arm, s] for s in study.seeds]) for arm in cell.arms},
        target_scores=cell.target_score,
        texts_of=lambda arm, seed: _texts(cell, arm, seed),
        budget=budget,
    )


def _conversations(dialogues: Artifact, wanted: set[str]) -> Iterator[tuple[str, str]]:
    """Yield prompts with all their turns. Other lines are not parsed: an id inside a text has its quotes escaped."""
    import json

    if "dialogues.jsonl.gz" not in dialogues.manifest["outputs"]:
        return
    for _, line in read_lines(dialogues.path("dialogues.jsonl.gz")):
        found = _ID.search(line)
        if found and found.group(1).decode() in wanted:
            record: Mapping[str, Any] = json.loads(line)
            yield record["prompt_id"], conversation(record["messages"])


def _texts(cell: Cell, arm: str, seed: int) -> list[list[str]]:
    """Return the answers of an arm and seed: for each prompt those of its samples, in their order."""
    artifact = Artifact.open(cell.layout.answers(arm, seed, cell.study.evaluation.split))
    table = artifact.table("responses.parquet", ["prompt_id", "response_id", "text"])
    found: dict[str, dict[int, str]] = {i: {} for i in cell.prompt_ids}
    for prompt, response, text in zip(*(table[c] for c in ("prompt_id", "response_id", "text")), strict=True):
        found[prompt][int(response.rsplit(".", 1)[1])] = text
    return [[by_sample[k] for k in range(cell.study.evaluation.samples)] for by_sample in found.values()]
