"""The JSON schema for editors is that of the code."""

from __future__ import annotations

from pathlib import Path

from selfcontrast.__main__ import schema

ROOT = Path(__file__).resolve().parents[2]


def test_schema_file_is_in_step_with_the_code():
    written = (ROOT / "config" / "schema.json").read_text(encoding="utf-8")
    assert written == schema() + "\n", "run: python -m selfcontrast schema > config/schema.json"
