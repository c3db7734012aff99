"""Sections as one HTML file: texts escaped, data packed so that it is never parsed as HTML, scripts named by their hash."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from selfcontrast.reporting.blocks import Section


def pack(text: str) -> str:
    """Return a text compressed, in letters that mean nothing to HTML: a page a third of the size, and nothing to escape."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)).decode("ascii")


def to_json(value: Any) -> str:
    """Return JSON without blanks; NaN is an error."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def render(title: str, subtitle: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """Return the page.

    A content security policy forbids the network, and every script but the two of the page, by their hashes: what a model
    wrote is shown by ``textContent``, and would not run if it were not.

    Args:
        facts: short lines for the head of the page, by their label.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    payload = {block.id: block.payload for s in sections for block in s.blocks if block.payload is not None}
    ids = [i for s in sections for i in (s.id, *(b.id for b in s.blocks))]
    if len(set(ids)) != len(ids):
        raise ValueError(f"two parts of the page share an id: {sorted(i for i in ids if ids.count(i) > 1)}")
    script, plotly = _inline(_scripts()), _plotly()
    return environment.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        facts=facts,
        sections=sections,
        policy=_policy((script, plotly)),
        style=_markup(_asset("style.css")),
        data=pack(to_json(payload)),
        plotly=_packed_plotly(),
        script=_markup(script),
    )


def _policy(scripts: Sequence[str]) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    allowed = f"script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _inline(source: str) -> str:
    """Return a script of ours for use inside HTML; one that could end its element is an error, not something to escape."""
    if "</script" in source.lower() or "<!--" in source:
        raise ValueError("a script of the page holds text that would end it")
    return f"\n{source.strip()}\n"


def _markup(text: str) -> Any:
    """Mark a file of ours as HTML that needs no escaping."""
    import markupsafe

    return markupsafe.Markup(text)


@cache
def _asset(name: str) -> str:
    return resources.files("selfcontrast.reporting").joinpath(name).read_text(encoding="utf-8")


def _scripts() -> str:
    """Return the page's own scripts as one, in an order in which each finds what it uses; all wait for the data."""
    uses = [_asset(name) for name in ("dom.js", "tables.js", "charts.js", "curves.js", "browser.js", "page.js")]
    return "\n".join([_asset("unpack.js"), "(async () => {", *uses, "})();"])


@cache
def _plotly() -> str:
    from plotly import offline

    return str(offline.get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")


@cache
def _packed_plotly() -> str:
    return pack(_plotly())
