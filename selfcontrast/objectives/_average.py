"""Log-probabilities per token, for the objectives that divide by the length of a response."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch, GroupLogps


def mean_logps(batch: GroupBatch, logps: GroupLogps) -> tuple[Tensor, Tensor]:
    """Return the mean over tokens of the chosen responses, ``(batch,)``, and of the negatives, ``(batch, k)``.

    In nats per token, EOS included; 0 in the slots that are not valid.
    """
    # A length of 1 where there is no response: 0 / 0 would be NaN.
    rejected = batch.masked(logps.rejected) / batch.masked(batch.rejected_length, fill=1)
    return logps.chosen / batch.chosen_length, rejected
