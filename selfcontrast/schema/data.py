"""The keys of a study file about data sets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from selfcontrast.schema.keys import Count, Id, Strict

WORLD_LAYOUTS = ("hh_rlhf", "ultrachat", "nectar")
"""Adaptors whose record layout the pocket world can write."""


class World(Strict):
    """How many dialogues of the pocket world a data set is drawn from; nothing is downloaded."""

    dialogues: Count = Field(description="dialogues to write, in the record layout of the adaptor")


class Splits(Strict):
    """How many prompts each split takes. A prompt is in one split only; `pool` is a part of `sft`."""

    sft: Count = Field(description="prompts whose targets the SFT model is trained on")
    pool: Count = Field(description="prompts that are answered for preference training: the first ones of `sft`")
    validation: Annotated[int, Field(ge=0)] = Field(description="held-out prompts on which settings may be chosen")
    test: Count = Field(description="held-out prompts that are reported")

    @model_validator(mode="after")
    def _pool_is_part_of_sft(self) -> Splits:
        if self.pool > self.sft:
            raise ValueError(f"`pool` ({self.pool}) is a part of `sft` ({self.sft}) and cannot be larger")
        return self


class ExpectedLengths(Strict):
    """Mean tokens of a data set as one expects them: for the plan alone, until they are measured."""

    prompt: float = Field(gt=0, description="tokens of a prompt")
    response: float = Field(gt=0, description="tokens of a response")


class Hub(Strict):
    """Files of a data set on the Hugging Face hub. A token for it is the environment variable HF_TOKEN, never a key."""

    repo: str | None = Field(None, description="owner/name; None: the repository whose layout the adaptor reads")
    revision: str = Field(
        min_length=1, description="commit of 40 hexadecimal digits; or a branch or tag, which may come to mean another"
    )
    subsets: tuple[str, ...] = Field((), description="parts of the data set by the adaptor's names; none: its default")
    files: tuple[str, ...] = Field((), description="instead of `subsets`: paths or patterns in the repository")

    @model_validator(mode="after")
    def _files_or_subsets(self) -> Hub:
        if self.files and self.subsets:
            raise ValueError("give `subsets` or `files`, not both")
        return self


class Dataset(Strict):
    """A data set: an adaptor and where its records come from."""

    adaptor: str = Field(description="plug-in of selfcontrast/datasets that reads the record layout")
    path: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="file of records, list of files, or folder; relative to where snakemake is started"
    )
    hub: Hub | None = Field(None, description="fetch the records from the Hugging Face hub")
    world: World | None = Field(None, description="draw the records from the pocket world instead of reading a file")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="hash that the contents of the files must have; for `path` and `hub`"
    )
    splits: Splits
    bad_records: Literal["error", "drop"] = Field(
        "error",
        description="what to do with a record that cannot be used (empty answer, prompts that differ, ...): stop with a "
        "message that names it, or leave it out and count it under its reason",
    )
    long_prompts: Literal["error", "drop"] = Field(
        "error",
        description="the same for a prompt that, with one of its answers, does not fit into the model's context",
    )
    lint: Literal["stop", "report"] = Field(
        "stop",
        description="what an error among the findings of the rule `lint` does: stop the run before training, or stand in the "
        "table alone",
    )
    has_rejected: bool | None = Field(
        None,
        description="whether the records have rejected answers; false leaves out, for this data set, the arms that train on "
        "them. None: as the adaptor says",
    )
    models: tuple[Id, ...] | None = Field(
        None, description="ids under `models` that it is run with; all of them where it says nothing"
    )
    lengths: ExpectedLengths | None = Field(
        None, description="expected mean lengths, with which the plan reckons until the data set has been encoded"
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the files and folders of `path`; none where the records come from elsewhere."""
        if self.path is None:
            return ()
        return (self.path,) if isinstance(self.path, str) else self.path

    @model_validator(mode="after")
    def _one_source(self) -> Dataset:
        if sum(source is not None for source in (self.path, self.hub, self.world)) != 1:
            raise ValueError("give one of `path`, `hub` and `world`")
        if self.world is not None and self.sha256 is not None:
            raise ValueError("`sha256` is for `path` and `hub`; the pocket world is written anew")
        return self
