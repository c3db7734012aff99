"""Groups whose tokens lie in few arrays and become lists when a batch asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from selfcontrast.ragged import Ragged
from selfcontrast.training.groups import Elsewhere, TokenGroup

if TYPE_CHECKING:
    from numpy import ndarray


@dataclass(frozen=True)
class StoredGroups(Sequence[TokenGroup]):
    """The groups of a training; a group has lists of tokens only for as long as somebody holds it.

    A response is known by its place among those that the groups name.

    Attributes:
        prompt_ids: name of each group's prompt.
        prompts: tokens of each group's prompt.
        members: each group's responses, chosen first.
        records: what else each group's record holds: ``margin``, ``score``, ``weight``, where it has them.
        tokens: of each response.
        logp: of each response under the reference, ``(responses,)``.
        token_logps: of each response's tokens; None where no objective needs them.
        elsewhere: for each group the tokens of an answer to another prompt, and their log-probability ``(groups,)``; None
            where no objective needs them.
    """

    prompt_ids: Sequence[str]
    prompts: Ragged
    members: Sequence[ndarray]
    records: Sequence[dict[str, Any]]
    tokens: Ragged
    logp: ndarray
    token_logps: Ragged | None
    elsewhere: tuple[Ragged, ndarray] | None

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.members)

    @overload
    def __getitem__(self, place: int) -> TokenGroup: ...

    @overload
    def __getitem__(self, place: slice) -> list[TokenGroup]: ...

    def __getitem__(self, place: int | slice) -> TokenGroup | list[TokenGroup]:
        """Return a group with its tokens as lists."""
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        mine, record = self.members[place], self.records[place]
        elsewhere = None
        if self.elsewhere is not None:
            ids, logp = self.elsewhere
            elsewhere = Elsewhere(ids[place].tolist(), float(logp[place]))
        return TokenGroup(
            self.prompts[place].tolist(),
            [self.tokens[r].tolist() for r in mine],
            self.logp[mine].tolist(),
            None if self.token_logps is None else [self.token_logps[r].tolist() for r in mine],
            **record,
            elsewhere=elsewhere,
            prompt_id=self.prompt_ids[place],
        )

    @property
    def longest_row(self) -> int:
        """Return the tokens of the longest prompt with a response to it."""
        lengths = zip(self.prompts.lengths, self.members, strict=True)
        return max(int(prompt + self.tokens.lengths[mine].max()) for prompt, mine in lengths)

    @property
    def n_tokens(self) -> int:
        """Return the tokens of all prompts, each once, and of all responses of all groups."""
        return int(self.prompts.lengths.sum()) + sum(int(self.tokens.lengths[mine].sum()) for mine in self.members)
