"""Real dialogues and a real checkpoint through the whole workflow, at a size for tests; skipped where they are missing."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys

import pytest
from conftest import ROOT, Project

DATA = ROOT.parent / "shared" / "data"
RECORDS = DATA / "hh-rlhf" / "harmless-base-test.jsonl.gz"
CHECKPOINT = DATA / "stories260K"

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.slow,
    pytest.mark.skipif(
        not RECORDS.is_file() or not CHECKPOINT.is_dir(),
        reason=f"real data not found at {DATA.name}/ beside the project",
    ),
]


@pytest.fixture
def real(project: Project) -> Project:
    """Return a project with the study `hh`, its two inputs in data/, cut to a size for tests."""
    data = project.folder / "data"
    (data / "hh-rlhf").mkdir(parents=True)
    (data / "hh-rlhf" / RECORDS.name).symlink_to(RECORDS)
    convert = [sys.executable, str(ROOT / "tests/real/stories260k.py"), str(CHECKPOINT), str(data / "stories260K")]
    subprocess.run(convert, check=True, capture_output=True)
    project.edit(
        "config/hh.yaml",
        "{sft: 512, pool: 128, validation: 64, test: 128}",
        "{sft: 64, pool: 16, validation: 8, test: 16}",
    )
    project.edit("config/hh.yaml", "seeds: [0, 1, 2]", "seeds: [0]")
    project.edit("config/hh.yaml", "max_new_tokens: 64", "max_new_tokens: 24")
    project.edit("config/hh.yaml", "n: [1, 2, 4, 8]", "n: [1, 4]")
    project.edit("config/hh.yaml", "selfcontrast-least50-n8]", "selfcontrast-least50-n4]")
    return project


def test_real_dialogues_and_checkpoint_end_in_tables_and_figures(real):
    """All 2,312 records pass the adaptor; each is kept or counted under a reason."""
    done = real.snakemake("--config", "study=hh")
    assert done.returncode == 0, done.stdout[-5000:]
    root = real.folder / "results/hh"
    with (root / "tables/data.tsv").open() as stream:
        counts = {(r["stage"], r["what"]): int(r["count"]) for r in csv.DictReader(stream, delimiter="\t")}
    adaptor = {what: n for (stage, what), n in counts.items() if stage == "adaptor"}
    assert adaptor["records read"] == 2312
    assert adaptor["kept"] + sum(n for what, n in adaptor.items() if what.startswith("dropped")) == 2312
    assert adaptor["dropped: the prompts of chosen and rejected differ"] == 5
    assert counts["split", "test"] == 16
    assert (root / "figures/scaling/scaling.pdf").stat().st_size > 1000
    provenance = json.loads((root / "tables/provenance.json").read_text())
    assert provenance["records"] == {"harmless": {"sha256": hashlib.sha256(RECORDS.read_bytes()).hexdigest()}}
    table = (root / "tables/main.md").read_text()
    assert "selfcontrast-least50-n4" in table
    assert "wins vs target" not in table  # the judge is likeness to the target: such a rate would mean nothing
