"""Which arms, seeds, data sets and models of a study an export is of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcontrast.artifacts import Artifact, read_json
from selfcontrast.cli import spec_digest
from selfcontrast.errors import ConfigError, InputError
from selfcontrast.layout import Layout
from selfcontrast.schema import Study
from selfcontrast.sweep import Arm, arms_of, models_of


@dataclass(frozen=True)
class Target:
    """One arm with one seed, on one data set with one model.

    Attributes:
        root: results/<study>.
    """

    study: Study
    root: Path
    dataset: str
    model: str
    arm: Arm
    seed: int

    @property
    def layout(self) -> Layout:
        """Return where its files lie."""
        return Layout(self.root, self.dataset, self.model)

    @property
    def name(self) -> str:
        """Return its name among all of the study."""
        return f"{self.dataset}-{self.model}-{self.arm.id}-s{self.seed}"

    @property
    def groups_name(self) -> str:
        """Return the name of the groups that it was trained on, which several methods may share."""
        return f"{self.dataset}-{self.model}-{self.arm.selection}-n{self.arm.n}-s{self.seed}"

    @property
    def policy_name(self) -> str:
        """Return the name of its policy: the SFT model is one for all seeds."""
        return self.name if self.arm.is_trained else self.name.removesuffix(f"-s{self.seed}")

    @property
    def about(self) -> dict[str, Any]:
        """Return what it is, for manifests."""
        ids = {"study": self.study.name, "dataset": self.dataset, "model": self.model}
        return {**ids, "arm": self.arm.id, "seed": self.seed}

    @property
    def policy(self) -> Path:
        """Return the manifest of its policy."""
        return self.layout.policy(self.arm.id, self.seed, is_trained=self.arm.is_trained)

    @property
    def policy_spec(self) -> Path:
        """Return the spec of its policy."""
        return self.layout.base / (f"arms/{self.arm.id}" if self.arm.is_trained else "sft") / "spec.json"

    def open(self, manifest: Path) -> Artifact:
        """Open a finished step of the study.

        Raises:
            InputError: the study has not come so far.
        """
        if not manifest.is_file():
            raise InputError(
                f"the study `{self.study.name}` has not come so far: a step is missing",
                where=manifest.as_posix(),
                remedy=f"finish it: snakemake --cores all --config study={self.study.name}",
            )
        return Artifact.open(manifest)

    def spec_of(self, artifact: Artifact, spec: Path) -> dict[str, Any]:
        """Return the spec under which a step ran.

        Raises:
            InputError: the spec was changed after the step had run.
        """
        settings: dict[str, Any] = read_json(spec)
        if spec_digest(settings) != artifact.manifest["spec_sha256"]:
            raise InputError(
                "the study was edited after this step had run: its settings are not those of its outputs",
                where=spec.as_posix(),
                remedy=f"run snakemake --cores all --config study={self.study.name} again",
            )
        return settings


def targets_of(
    study: Study, root: Path, *, arm: str | None, seed: int | None, dataset: str | None, model: str | None
) -> list[Target]:
    """Return every arm and seed of a study that has the ids which are given; None stands for all.

    Raises:
        ConfigError: the study has no such arm, seed, data set or model.
    """
    arms = dict.fromkeys(i for d in study.datasets for i in arms_of(study, d))
    _check("--dataset", dataset, study.datasets)
    _check("--model", model, study.models)
    _check("--arm", arm, list(arms))
    _check("--seed", seed, study.seeds)
    found = [
        Target(study, root, d, m, a, s)
        for d in study.datasets
        if dataset in (None, d)
        for m in models_of(study, d)
        if model in (None, m)
        for a in arms_of(study, d).values()
        if arm in (None, a.id)
        for s in study.seeds
        if seed in (None, s)
    ]
    if not found:
        raise ConfigError("the study runs no such combination of data set, model and arm", where=study.name)
    return found


def _check(flag: str, value: str | int | None, known: Collection[str] | Collection[int]) -> None:
    if value is not None and value not in known:
        raise ConfigError(f"{flag}: the study has no `{value}`", expected=f"one of: {', '.join(map(str, known))}")
