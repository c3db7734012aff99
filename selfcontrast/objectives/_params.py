"""Parameters that several objectives share, with one meaning."""

from __future__ import annotations

from pydantic import Field

from selfcontrast.schema import Strict


class WithBeta(Strict):
    """``beta``, for objectives that scale log-ratios of policy and reference by it."""

    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference; usual range 0.01 to 0.5")


class WithLabelSmoothing(WithBeta):
    """``beta``, and the share of labels that are taken to be wrong."""

    label_smoothing: float = Field(
        0.1, ge=0, lt=0.5, description="assumed share of pairs whose negative is the better response"
    )
