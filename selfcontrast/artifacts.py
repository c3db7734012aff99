"""Files that steps exchange: parquet, JSON lines and manifests; written atomically, read with their hash checked."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast import parquet, strict_json
from selfcontrast.errors import InputError
from selfcontrast.lines import read_jsonl as read_jsonl
from selfcontrast.lines import read_lines as read_lines

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"


def files_of(path: Path) -> list[Path]:
    """Return the files of a folder, sorted; of a file, itself. Snakemake's mark in folders is not among them."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != ".snakemake_timestamp")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files and their names in sorted order."""
    digest = hashlib.sha256()
    for file in files_of(path):
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; the file or folder that the block leaves there is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    for left in path.parent.glob(f".{path.name}.*.partial"):  # by killed processes: a study has one writer of each path
        _remove(left)
    try:
        yield partial
    finally:
        _remove(partial)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name only if the block ends without an error.

    Whoever reads ``path`` sees the old file or the whole new one, also after a kill. The block may make a file or a folder;
    an old folder is removed before the new one takes its name. Its permissions are those that the umask
    gives to any new file.
    """
    with scratch(path) as partial:
        yield partial
        _set_usual_modes(partial)
        if partial.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)


def _set_usual_modes(path: Path) -> None:
    """Give a file, or a folder and all that it holds, the permissions of a new file and a new folder.

    Libraries that write to a temporary file first, as safetensors does, leave it readable by its owner alone, whatever the
    umask. What is usual is looked up by making one of each: the umask alone does not say it where a folder has a default ACL.
    """
    probe = path.with_name(f"{path.name}.probe.partial")
    usual = {}
    for is_folder, make in ((False, probe.touch), (True, probe.mkdir)):
        make()
        usual[is_folder] = stat.S_IMODE(probe.stat().st_mode)
        _remove(probe)
    for place in (path, *path.rglob("*")):
        found, is_folder = place.lstat(), place.is_dir()
        # A file with a second name was not written here: it lies in the hub's cache too, and may belong to somebody else.
        is_ours = not place.is_symlink() and (is_folder or found.st_nlink == 1)
        if is_ours and stat.S_IMODE(found.st_mode) != usual[is_folder]:
            place.chmod(usual[is_folder])


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with sorted keys."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file."""
    try:
        return strict_json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            "a file is missing", where=str(path), remedy="run snakemake again; it makes what is missing"
        ) from None
    except ValueError as error:  # also a text that is not UTF-8, and a key that is given twice
        raise InputError(
            "a file is not valid JSON", found=str(error), where=str(path), remedy="delete it and run snakemake again"
        ) from None


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]], *, compress: bool = False) -> int:
    """Write one JSON object a line, gzipped if asked; return how many."""
    n = 0
    with atomic(path) as partial, partial.open("wb") as raw:
        # No name and no time in the gzip header: the same records give the same bytes.
        opened = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if compress else nullcontext(raw)
        with opened as stream:
            for n, record in enumerate(records, 1):  # noqa: B007
                stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    return n


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of equal length as parquet; see ``parquet.write`` for their types."""
    with atomic(path) as partial:
        parquet.write(partial, columns)


@contextmanager
def table_writer(path: Path, columns: Sequence[str]) -> Iterator[parquet.Writer]:
    """Yield what writes a parquet file piece by piece; the file appears when the block ends without an error."""
    with atomic(path) as partial, closing(parquet.Writer(partial, columns)) as writer:
        yield writer


def read_table(path: Path, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Return the columns of a parquet file as lists."""
    return parquet.read(path, columns)


@dataclass(frozen=True)
class Artifact:
    """A finished step: its manifest, and the files beside it."""

    manifest_path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, manifest_path: Path) -> Artifact:
        """Read a manifest."""
        manifest = read_json(manifest_path)
        if not isinstance(manifest, dict) or "outputs" not in manifest:
            raise InputError("this is not the manifest of a step", where=str(manifest_path))
        return cls(manifest_path, manifest)

    @property
    def digest(self) -> str:
        """Return the hash of the manifest: it stands for the outputs, since it lists their hashes."""
        return sha256(self.manifest_path)

    def path(self, name: str) -> Path:
        """Return the path of one output after checking that its bytes are those the step wrote."""
        path = self.manifest_path.parent / name
        expected = self.manifest["outputs"].get(name)
        if expected is None:
            raise InputError(
                f"the step did not write `{name}`",
                found=", ".join(self.manifest["outputs"]),
                where=str(self.manifest_path),
            )
        if not path.exists():
            raise InputError(
                "a file is missing", where=str(path), remedy="delete the manifest beside it and run snakemake again"
            )
        if sha256(path) != expected:
            raise InputError(
                "a file was changed or damaged after it was written",
                expected=f"SHA-256 {expected}",
                where=str(path),
                remedy=f"delete it together with {self.manifest_path} and run snakemake again",
            )
        return path

    def table(self, name: str, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
        """Return one parquet output as columns."""
        return read_table(self.path(name), columns)

    def arrow(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Return columns of one parquet output as Arrow, in a tenth of the memory of ``table``."""
        return parquet.read_arrow(self.path(name), columns)

    def batches(self, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Return columns of one parquet output a few rows at a time."""
        return parquet.read_batches(self.path(name), columns)

    def lengths(self, name: str, column: str) -> list[int]:
        """Return the lengths of a column of lists; the lists themselves, of a large pool, would not fit into memory."""
        return [n for batch in self.batches(name, [column]) for n in batch[column].value_lengths().to_pylist()]
