"""Open single files of a checkpoint as far as that is cheap: first bytes, JSON, headers of weights. No weight is read.

A download that failed leaves files with the right name and other contents: a pointer of Git LFS, a page of a website, half
of a file. The libraries that load checkpoints end on them with a traceback that does not name the file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcontrast.errors import InputError

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Endings of files of pickled weights, which are never opened."""

AGAIN = "fetch the file again"

_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of a number, by the name of its type in the header of a safetensors file."""

_LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the library safetensors."""

_STARTS = (
    (b"PK\x03\x04", "a zip archive, as torch.save writes it"),
    (b"\x80", "a pickle"),
    (b"GGUF", "a GGUF file"),
)


@dataclass(frozen=True)
class Tensor:
    """One entry of the header of a safetensors file: type of its numbers, size in bytes, name of the file."""

    dtype: str
    n_bytes: int
    file: str


def is_there(path: Path) -> bool:
    """Return whether there is something under a name, be it a link to nothing."""
    return path.exists() or path.is_symlink()


def check_content(path: Path) -> None:
    """Raise InputError unless there is a file that holds what its name says, as far as its first bytes tell."""
    if path.is_symlink() and not path.exists():
        raise InputError(
            "a file of a checkpoint is a link to nothing",
            found=f"a link to {path.readlink()}",
            where=str(path),
            remedy="copy the checkpoint with its contents (`cp -rL`), or fetch it again",
        )
    if not path.is_file():
        raise InputError("a file of a checkpoint is missing", where=str(path), remedy=AGAIN)
    try:
        with path.open("rb") as stream:
            start = stream.read(1024)
    except OSError as error:
        raise InputError(
            "a file of a checkpoint cannot be read",
            found=error.strerror or str(error),
            where=str(path),
            remedy="give yourself the right to read it (`chmod u+r`), or fetch it again",
        ) from None
    if not start:
        raise InputError("a file of a checkpoint is empty", where=str(path), remedy=AGAIN)
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        size = re.search(rb"^size (\d+)", start, re.M)
        raise InputError(
            "a file of a checkpoint looks like an LFS pointer, and not like the file itself",
            found="a pointer" + (f" to {int(size[1]):,} bytes" if size else ""),
            where=str(path),
            remedy="in the folder of the checkpoint run `git lfs install` and `git lfs pull`; or fetch it with `hf download`",
        )
    if b"/annex/objects/" in start[:200]:
        raise InputError(
            "a file of a checkpoint looks like a pointer of git-annex, and not like the file itself",
            where=str(path),
            remedy="in the folder of the checkpoint run `git annex get .`",
        )
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml)", start, re.I):
        raise InputError(
            "a file of a checkpoint looks like a web page: an error or a login page was saved under its name",
            found=_shown(start),
            where=str(path),
            remedy=f"{AGAIN}, with `hf download` and, if it is gated, with HF_TOKEN",
        )


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a checkpoint.

    Raises:
        InputError: the file is damaged, is no JSON, or holds something else than an object.
    """
    check_content(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            "a file of a checkpoint is not valid JSON (cut off?)", found=str(error), where=str(path), remedy=AGAIN
        ) from None
    if not isinstance(value, dict):
        raise InputError(
            "a file of a checkpoint has another layout",
            expected="a JSON object",
            found=type(value).__name__,
            where=str(path),
            remedy=AGAIN,
        )
    return value


def read_header(path: Path) -> dict[str, Tensor]:
    """Return the tensors that a safetensors file says it holds, by name, after comparing them with its size.

    Raises:
        InputError: the file is damaged, cut off, or no safetensors file.
    """
    check_content(path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(64)
        length = int.from_bytes(start[:8], "little")
        if start[8:9] != b"{" or length > _LONGEST_HEADER:
            raise _no_safetensors(path, start)
        stream.seek(8)
        header = stream.read(length)
    if len(header) < length:
        raise _cut(path, f"a header of {length:,} bytes", f"{len(header):,} bytes of it")
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = {name: _tensor(name, entry, path) for name, entry in entries.items()}
        spans = sorted(tuple(entry["data_offsets"]) for entry in entries.values())
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        raise _no_safetensors(path, start) from None
    end = 0
    for begin, stop in spans:
        if begin != end:
            raise InputError(
                "the header of a safetensors file is damaged: its tensors overlap or leave a gap",
                found=f"a tensor begins at byte {begin:,}, where {end:,} was expected",
                where=str(path),
                remedy=AGAIN,
            )
        end = stop
    if not tensors:
        raise InputError("a safetensors file holds no tensor", where=str(path), remedy=AGAIN)
    if size != 8 + length + end:
        raise _cut(path, f"{8 + length + end:,} bytes by its header", f"{size:,} bytes")
    return tensors


def _tensor(name: str, entry: dict[str, Any], path: Path) -> Tensor:
    numbers = 1
    for extent in entry["shape"]:
        numbers *= extent
    begin, stop = entry["data_offsets"]
    if stop - begin != numbers * _BITS[entry["dtype"]] // 8:
        raise InputError(
            "the header of a safetensors file is damaged: a tensor has another size than its shape says",
            expected=f"{numbers * _BITS[entry['dtype']] // 8:,} bytes for {name}",
            found=f"{stop - begin:,}",
            where=str(path),
            remedy=AGAIN,
        )
    return Tensor(entry["dtype"], stop - begin, path.name)


def _no_safetensors(path: Path, start: bytes) -> InputError:
    known = next((what for magic, what in _STARTS if start.startswith(magic)), "")
    remedy = AGAIN
    if known:
        remedy = "name a checkpoint whose weights are safetensors, or convert them: another name does not do that"
    return InputError(
        "a file of weights is no safetensors file, or its header is damaged",
        found=known or _shown(start),
        where=str(path),
        remedy=remedy,
    )


def _cut(path: Path, expected: str, found: str) -> InputError:
    return InputError(
        "a safetensors file has another size than its header says (cut off?)",
        expected=expected,
        found=found,
        where=str(path),
        remedy=AGAIN,
    )


def check_tokenizer_json(path: Path) -> None:
    """Raise InputError unless the library tokenizers can open the file."""
    if not isinstance(read_json(path).get("model"), dict):
        raise InputError(
            "a tokenizer.json has no tokenizer in it", expected="the key `model`", where=str(path), remedy=AGAIN
        )
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise InputError("a tokenizer.json cannot be opened", found=str(error), where=str(path), remedy=AGAIN) from None


def check_sentencepiece(path: Path) -> None:
    """Raise InputError if a SentencePiece model is cut off; a file of another kind under such a name passes.

    The model is a protocol buffer: fields one behind the other, each with its length.
    """
    check_content(path)
    content = path.read_bytes()
    if content[0] != 0x0A:  # not the first field of a SentencePiece model: tiktoken's ranks, for example
        return
    place = 0
    try:
        while place < len(content):
            tag, place = _varint(content, place)
            if tag & 7 == 2:
                length, place = _varint(content, place)
                place += length
            else:
                place = {0: lambda p: _varint(content, p)[1], 1: lambda p: p + 8, 5: lambda p: p + 4}[tag & 7](place)
    except (IndexError, KeyError):
        place = -1
    if place != len(content):
        raise InputError("a SentencePiece model is damaged (cut off?)", where=str(path), remedy=AGAIN)


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _shown(start: bytes) -> str:
    return ascii(start[:60].decode("utf-8", errors="replace").strip())
