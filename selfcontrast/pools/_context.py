"""What a pool is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from selfcontrast.chunks import Chunks
    from selfcontrast.rendering import Renderer
    from selfcontrast.sampling import Sampler


@dataclass(frozen=True)
class PoolPrompt:
    """One prompt that needs responses: its ids as the policy reads them, and the data set's own worse answers."""

    prompt_id: str
    prompt_ids: list[int]
    rejected: tuple[str, ...]


@dataclass(frozen=True)
class PoolResponse:
    """One response: its text, its ids (with the one that ended it, if it ended by itself), and why it ended."""

    text: str
    ids: list[int]
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class PoolContext:
    """What is there to make responses with.

    Attributes:
        renderer: text to ids and back.
        sampler: returns the policy that answers, loaded at the first call; pools that need none do not call it.
        stop_ids: ids that end a response; empty: the end of turn alone.
        seed_of: the random stream of a prompt's j-th response.
        max_length: longest prompt and response together, for pools whose responses have no length of their own.
        chunks: where finished batches outlive an interruption; None keeps none.
    """

    renderer: Renderer
    sampler: Callable[[], Sampler]
    seed_of: Callable[[str, int], int]
    max_length: int = 0
    chunks: Chunks | None = None
    stop_ids: frozenset[int] = frozenset()
