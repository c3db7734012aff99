"""The raw replies of a judge on disk: appended as they come, safe against kills, and found again by the key of the request.

One JSON object a line. A reply has ``key``, ``request``, ``reply`` and ``usd``. Where money is counted there are two more
kinds of line: an attempt that was begun (``sent``, and ``usd`` at most), and how it ended if no reply came: ``lost`` (it may
have been paid) or ``refused``.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from selfcontrast import strict_json
from selfcontrast.errors import InputError, StepError
from selfcontrast.judging.exchange import Request


class Replies:
    """An append-only file of replies with an index in memory; one process at a time.

    Attributes:
        spent_usd: what all attempts in the file have cost, those without an ending counted in full.
        unsure_usd: the part of it that was perhaps not paid: replies that never arrived.
        cut_bytes: bytes of a last line that a kill had left unfinished; they were removed.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file, remove an unfinished last line, and read the index."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.spent_usd = self.unsure_usd = 0.0
        self.cut_bytes = 0
        self._places: dict[str, tuple[int, int]] = {}
        self._pending: list[tuple[bytes, asyncio.Future[tuple[int, int]]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._n_sent = 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
        except BlockingIOError:
            os.close(self._file)
            raise StepError(
                "another process is writing the replies of this judge",
                where=str(path),
                remedy="wait for it, or stop it first",
            ) from None
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Close the file and drop its lock."""
        os.close(self._file)

    def __contains__(self, key: str) -> bool:
        """Return whether there is a reply to the request with this key."""
        return key in self._places

    def raw(self, key: str) -> Any:
        """Return the body that the endpoint sent."""
        offset, length = self._places[key]
        return json.loads(os.pread(self._file, length, offset))["reply"]

    def begin(self, request: Request, most_usd: float) -> int:
        """Note, before it is sent, that an attempt may cost ``most_usd``; return its number.

        The line reaches the operating system, not the disk: it is for kills of this process.
        """
        self._n_sent += 1
        self._write(_line({"sent": self._n_sent, "key": request.key, "usd": most_usd}))
        return self._n_sent

    def end(self, sent: int, *, lost: str = "", refused: str = "", usd: float = 0.0) -> None:
        """Note that an attempt brought no reply: ``lost`` if it may have been paid, ``refused`` if not."""
        if lost:
            self.spent_usd += usd
            self.unsure_usd += usd
        self._write(_line({"sent": sent, "usd": usd, **({"lost": lost} if lost else {"refused": refused})}))

    async def add(self, request: Request, raw: Any, *, usd: float, sent: int | None) -> None:
        """Store a reply; return when it is on the disk. Replies that come together share one sync."""
        self.spent_usd += usd
        record = {
            "key": request.key,
            "model": request.model,
            "revision": request.revision,
            "template": request.template,
            "repeat": request.repeat,
            "request": request.body,
            "reply": raw,
            "usd": usd,
        }
        done: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._pending.append((_line(record if sent is None else {**record, "sent": sent}), done))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        self._places[request.key] = await done

    async def _commit(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                places = [self._write(line) for line, _ in batch]
                await asyncio.to_thread(os.fsync, self._file)
            except BaseException as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                raise
            for (_, done), place in zip(batch, places, strict=True):
                if not done.done():
                    done.set_result(place)

    def _write(self, line: bytes) -> tuple[int, int]:
        """Append one line; return its place."""
        offset, rest = os.lseek(self._file, 0, os.SEEK_END), line
        while rest:
            rest = rest[os.write(self._file, rest) :]
        return offset, len(line)

    def _read(self) -> None:
        begun: dict[int, float] = {}
        offset = 0
        with self.path.open("rb") as stream:
            for row, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    self.cut_bytes = len(line)
                    os.ftruncate(self._file, offset)
                    break
                self._take(_parse(line, where=f"{self.path}, row {row}"), (offset, len(line)), begun)
                offset += len(line)
        self._n_sent = max([0, *begun, self._n_sent])
        for usd in begun.values():  # killed before they ended
            self.spent_usd += usd
            self.unsure_usd += usd

    def _take(self, record: dict[str, Any], place: tuple[int, int], begun: dict[int, float]) -> None:
        self._n_sent = max(self._n_sent, record.get("sent", 0))
        if "reply" in record:
            self._places[record["key"]] = place
        elif "lost" not in record and "refused" not in record:
            begun[record["sent"]] = record["usd"]
            return
        begun.pop(record.get("sent", 0), None)
        self.spent_usd += record["usd"]
        self.unsure_usd += record["usd"] if "lost" in record else 0.0


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _parse(line: bytes, *, where: str) -> dict[str, Any]:
    try:
        record = strict_json.loads(line)
        if (
            isinstance(record, dict)
            and isinstance(record["usd"], float | int)
            and ("key" in record or "sent" in record)
        ):
            return record
        problem = "a record has other keys"
    except (ValueError, KeyError) as error:
        problem = str(error)
    raise InputError(
        "a stored reply of a judge is damaged", found=problem, where=where, remedy="remove the row; it is asked again"
    )
