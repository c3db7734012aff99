"""What a file is that should hold JSON lines and does not: told by its first bytes, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = 512
"""Bytes that are looked at."""


@dataclass(frozen=True)
class Kind:
    """What a file is, as the end of a sentence, and what its owner can do."""

    name: str
    remedy: str


_UNPACK = "unpack it: of compressed files those of gzip alone are read"
_EXPORT = "export its records as parquet or JSON lines"
_UTF_8 = "convert it to UTF-8, for example `iconv -f UTF-16 -t UTF-8 OLD > NEW`"

_BY_FIRST_BYTES = (
    (b"PAR1", Kind("a parquet file", "unpack it if it was compressed as a whole; question files must be JSON lines")),
    (b"version https://git-lfs", Kind("a pointer of Git LFS, and not the file itself", "fetch it with `git lfs pull`")),
    (b"\x1f\x8b", Kind("compressed twice with gzip", "unpack it once")),
    (b"BZh", Kind("compressed with bzip2", _UNPACK)),
    (b"\xfd7zXZ\x00", Kind("compressed with xz", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Kind("compressed with zstd", _UNPACK)),
    (b"\x04\x22\x4d\x18", Kind("compressed with lz4", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Kind("an archive of 7-Zip", _UNPACK)),
    (b"PK\x03\x04", Kind("a zip archive (a spreadsheet is one too)", "unpack it, or export its records as JSON lines")),
    (b"ARROW1", Kind("an Arrow file", _EXPORT)),
    (b"\xff\xff\xff\xff", Kind("an Arrow stream", _EXPORT)),
    (b"\x93NUMPY", Kind("an array of NumPy", _EXPORT)),
    (b"\x89HDF", Kind("an HDF5 file", _EXPORT)),
    (b"Obj\x01", Kind("an Avro file", _EXPORT)),
    (b"ORC", Kind("an ORC file", _EXPORT)),
    (b"FEA1", Kind("a Feather file", _EXPORT)),
    (b"%PDF-", Kind("a PDF file", _EXPORT)),
    (b"SQLite format 3\x00", Kind("an SQLite database", _EXPORT)),
    (b"\xff\xfe\x00\x00", Kind("text in UTF-32, and not in UTF-8", _UTF_8.replace("UTF-16", "UTF-32"))),
    (b"\xff\xfe", Kind("text in UTF-16, and not in UTF-8", _UTF_8)),
    (b"\xfe\xff", Kind("text in UTF-16, and not in UTF-8", _UTF_8)),
)


def other_kind(head: bytes) -> Kind | None:
    """Return what a file is that is no UTF-8 text; None for text.

    Args:
        head: its first ``HEAD`` bytes, unpacked if it is gzipped.
    """
    for first, kind in _BY_FIRST_BYTES:
        if head.startswith(first):
            return kind
    if head[257:262] == b"ustar":
        return Kind("a tar archive", _UNPACK)
    if b"\0" in head:
        for name in ("UTF-16LE", "UTF-16BE"):  # without the mark that names its byte order
            if _is_text(head, name):
                return Kind("text in UTF-16, and not in UTF-8", _UTF_8.replace("UTF-16", name))
        return Kind("binary: it has NUL bytes", _EXPORT)
    return None


def _is_text(head: bytes, encoding: str) -> bool:
    """Return whether bytes are JSON in an encoding of two bytes a character: most of its characters are of ASCII."""
    text = head[: len(head) // 2 * 2].decode(encoding, "replace")
    return sum(c.isascii() and (c.isprintable() or c.isspace()) for c in text) > len(text) / 2


ARRAY = Kind("one JSON array, and not JSON lines", "write one record a line, for example `jq -c '.[]' OLD > NEW`")


def other_layout(first_line: bytes) -> Kind | None:
    """Return what a text is whose first line is not JSON; None where nothing can be said."""
    text = first_line.lstrip()
    if text[:1] == b"[":
        return ARRAY
    if text[:15].lower().startswith((b"<!doctype html", b"<html")):
        return Kind("a web page", "download the file itself, and not the page that shows it")
    if text.strip() == b"{":
        return Kind(
            "JSON with records over several lines, and not JSON lines",
            "write one record a line, for example `jq -c . OLD > NEW`",
        )
    if text[:5].lower() == b"<?xml":
        return Kind("XML, and not JSON", _EXPORT)
    # Names of columns have no braces, and a sentence is no row of them: what is neither is only known to be no JSON.
    if b"{" in text or text[:2] == b"- " or b". " in text or text.rstrip().endswith((b".", b"!", b"?")):
        return None
    for mark, name in ((b"\t", "tab"), (b",", "comma"), (b";", "semicolon")):
        if mark in text:
            return Kind(f"no JSON; it looks like a table of {name}-separated values", _EXPORT)
    return None
