"""The registry of plug-ins: a folder of ``selfcontrast`` is a kind, a module in it is a plug-in.

Every plug-in module has a docstring and, but for data sets and templates, a pydantic model ``Params`` that defines its keys
in the study file. It imports only light libraries at the top (heavy ones inside functions), so that a study is checked
without loading them.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from selfcontrast.errors import ConfigError

KINDS = ("templates", "datasets", "pools", "scorers", "filters", "selections", "objectives", "metrics", "judges")


def names(kind: str) -> tuple[str, ...]:
    """Return the names of the plug-ins of one kind, sorted, without importing them."""
    package = importlib.import_module(f"selfcontrast.{kind}")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")))


def load(kind: str, name: str) -> ModuleType:
    """Return the module of a plug-in.

    Raises:
        ConfigError: there is no plug-in of that name; the message names the nearest one and all others.
    """
    available = names(kind)
    if name not in available:
        near = difflib.get_close_matches(name, available, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise ConfigError(
            f"unknown plug-in `{name}` of kind `{kind}`",
            remedy=f"{hint}available: {', '.join(available)}; docs/adding.md tells how to add one",
        )
    return importlib.import_module(f"selfcontrast.{kind}.{name}")
