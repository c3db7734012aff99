"""Seeds for independent random streams, derived from names instead of from the order of calls."""

from __future__ import annotations

import hashlib


def derive_seed(root: int, *keys: str | int) -> int:
    """Return a 63-bit seed for the stream named by ``keys``; the same on every machine and in every process."""
    name = "\x1f".join([str(root), *map(str, keys)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
