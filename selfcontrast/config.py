"""The study file: the only definition of its keys, their types, units, defaults and cross-checks.

A study is one YAML file. Everything that changes a number is a key here; what belongs to the machine (cores, GPUs,
partitions) is in profiles, and secrets are environment variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from selfcontrast import plugins
from selfcontrast.errors import ConfigError

STUDY_FOLDER = Path(__file__).resolve().parent.parent / "config"

WORLD_LAYOUTS = ("hh_rlhf", "ultrachat", "nectar")
"""Adaptors whose record layout the pocket world can write."""

_ID = re.compile(r"[a-z][a-z0-9]*")


def _check_id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise ValueError(
            f"`{value}` is not an id: lower-case letters and digits, a letter first (ids become folder names)"
        )
    return value


Id = Annotated[str, AfterValidator(_check_id)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A model that refuses unknown keys and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Plugin(Strict):
    """A choice of a plug-in with its parameters: ``{kind: least, keep: 0.5}``.

    The keys beside ``kind`` are those of the plug-in's own ``Params``.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = Field(description="name of the plug-in: a module of the folder selfcontrast/<kind of plug-in>/")

    @property
    def params(self) -> dict[str, Any]:
        """Return the parameters of the plug-in, defaults filled in."""
        return dict(self.model_extra or {})

    def checked(self, folder: str, where: str) -> Plugin:
        """Return this choice with the plug-in's defaults filled in, or raise ConfigError."""
        try:
            module = plugins.load(folder, self.kind)
            params = module.Params(**self.params)
        except ConfigError as error:
            raise ConfigError(str(error), where=where) from None
        except ValidationError as error:
            raise ConfigError(_first_problem(error, where)) from None
        return Plugin(kind=self.kind, **params.model_dump())


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


class Dataset(Strict):
    """A data set: an adaptor and where its records come from."""

    adaptor: str = Field(description="plug-in of selfcontrast/datasets that reads the record layout")
    path: str | None = Field(None, description="file of records, relative to where snakemake is started")
    world: World | None = Field(None, description="draw the records from the pocket world instead of reading a file")
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

    @model_validator(mode="after")
    def _one_source(self) -> Dataset:
        if (self.path is None) == (self.world is None):
            raise ValueError("give either `path` or `world`")
        return self


class Optimisation(Strict):
    """How one training runs. Batches are counted in prompts."""

    lr: float = Field(gt=0, description="peak learning rate of AdamW")
    batch: Count = Field(description="prompts for each optimiser step, whatever the number of devices")
    epochs: float = Field(gt=0, description="passes over the prompts (may be a fraction)")
    shape: Literal["constant", "linear", "cosine"] = Field("cosine", description="learning rate after the warm-up")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")


class Scratch(Strict):
    """A small Llama that is trained from scratch on the pocket world, as the base model of the embedded study."""

    n_layers: Count = 3
    width: Count = 128
    n_heads: Count = 4
    max_length: Count = Field(128, description="context, in tokens")
    prompts: Count = Field(description="prompts it is trained on")
    answers: Count = Field(4, description="answers to each of them")
    share_good: Fraction = Field(
        0.25, description="share of the answers that are good; the others have one to three defects"
    )
    training: Optimisation


class Model(Strict):
    """A base model: a folder or hub id in the Hugging Face layout, or one trained from scratch."""

    path: str | None = Field(None, description="folder or hub id of the checkpoint")
    scratch: Scratch | None = Field(None, description="train the base model from scratch on the pocket world")
    template: str = Field(
        "tokenizer", description="chat template: `tokenizer` (its own) or `dialogue` (Human/Assistant turns)"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="type of the weights while computing"
    )
    max_length: Count = Field(description="longest prompt plus response, in tokens")
    trust_remote_code: bool = Field(False, description="allow the checkpoint to bring code of its own")
    gpus: Annotated[int, Field(ge=0)] = Field(
        1, description="GPUs that each job with this model asks for; 0 for models that a CPU core can run"
    )
    sft: Optimisation = Field(description="supervised fine-tuning on the targets of the split `sft`")

    @model_validator(mode="after")
    def _one_source(self) -> Model:
        if (self.path is None) == (self.scratch is None):
            raise ValueError("give either `path` or `scratch`")
        if self.template not in ("tokenizer", "dialogue"):
            raise ValueError(f"unknown template `{self.template}`; available: tokenizer, dialogue")
        return self


class Sweep(Strict):
    """Selections times numbers of negatives of one method."""

    selections: Annotated[tuple[Id, ...], Field(min_length=1)] = Field(description="ids under `selections`")
    n: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(description="numbers of negatives")
    training: Optimisation | None = Field(None, description="instead of the method's `training`")


class Method(Strict):
    """A method is a point in the space pool x selection x n x objective: configuration, not code."""

    train: bool = Field(True, description="false: the SFT model itself, as the baseline")
    sweeps: tuple[Sweep, ...] = Field((), description="which selections, with how many negatives")
    objective: Plugin = Field(Plugin(kind="dpo"), description="loss of a group: plug-in of selfcontrast/objectives")
    training: Optimisation | None = Field(None, description="instead of the study's `training`")

    @model_validator(mode="after")
    def _sweeps_if_trained(self) -> Method:
        if self.train != bool(self.sweeps):
            raise ValueError("a method that trains needs `sweeps`; one with `train: false` has none")
        return self


class Comparison(Strict):
    """The hidden variables of the scaling claim, made explicit."""

    prompt_set: Literal["common", "per_n"] = Field(
        description="common: every n trains on the prompts that have enough candidates for `common_n`; "
        "per_n: on all that have enough for n, so that the set shrinks as n grows (the reference code)"
    )
    common_n: Count = Field(1, description="n that a prompt must be able to serve under `common`; larger n need more")
    negatives: Literal["nested", "independent"] = Field(
        description="nested: the negatives for n are the first n of one random order; independent: drawn anew for each n"
    )
    budget: Literal["equal_steps", "equal_pairs", "equal_flops"] = Field(
        description="what is kept equal over n: optimiser steps of the same number of prompts (so that pairs grow with n), "
        "chosen-rejected pairs, or the floating-point operations of a training step (n + 1 responses a prompt)"
    )
    budget_n: Count = Field(1, description="n whose pairs or FLOPs every other n is given")


class Evaluation(Strict):
    """How policies are evaluated: sampled answers to held-out prompts, scored by `judge`."""

    split: Literal["validation", "test"] = Field("test", description="held-out split that is reported")
    samples: Count = Field(1, description="answers of each policy to each prompt, for each seed")
    judge: Id = Field(description="id under `scorers` that decides what is better")
    target_wins: bool = Field(
        True, description="report the win rate against the SFT target; false where the judge scores likeness to it"
    )
    temperature: float = Field(1.0, ge=0)
    top_p: Fraction = 1.0
    max_new_tokens: Count = Field(description="longest answer, in tokens")
    batch_responses: Count = Field(256, description="responses that are sampled together")
    bootstrap: Annotated[int, Field(ge=100)] = Field(5000, description="resamples behind each interval")
    compare_to: tuple[str, ...] = Field((), description="arms with which every other arm is compared, prompt by prompt")


class SimilarityFigure(Strict):
    """Which scores of which pool are plotted against the judge's."""

    pool: Id = Field(description="id under `pools`")
    scorer: Id = Field(description="id under `scorers`")


class Figures(Strict):
    """What the figures show."""

    scaling: str = Field(description="`method-selection` whose arms form the curve over n")
    lines: tuple[str, ...] = Field((), description="arms shown as horizontal lines beside the curve")
    ablation_n: Count = Field(description="n at which the selections are compared")
    similarity: SimilarityFigure | None = Field(None, description="plot a scorer against the judge over a pool")


class Study(Strict):
    """A whole study."""

    name: Id = Field(description="name of the folder under results/; the file's name without .yaml")
    description: str = Field(description="one sentence for the report")
    seed: int = Field(description="root of every random stream")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = Field(
        description="training seeds: each repeats selection, training, evaluation"
    )
    keep_policies: bool = Field(False, description="keep the weights of the arms after their evaluation")
    datasets: Annotated[dict[Id, Dataset], Field(min_length=1)]
    models: Annotated[dict[Id, Model], Field(min_length=1)]
    pools: dict[Id, Plugin] = Field(description="which responses there are to choose from")
    scorers: dict[Id, Plugin] = Field({}, description="one number for each response of a pool")
    selections: dict[Id, Plugin] = Field(description="which responses become chosen and rejected")
    methods: Annotated[dict[Id, Method], Field(min_length=1)]
    training: Optimisation = Field(description="preference training of every method, unless it has its own")
    comparison: Comparison
    evaluation: Evaluation
    figures: Figures

    @model_validator(mode="after")
    def _seeds_differ(self) -> Study:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("`seeds` has a seed twice")
        return self


def find_study(study: str) -> Path:
    """Return the file of a study: a path to a YAML file, or the name of one under config/."""
    path = Path(study) if study.endswith((".yaml", ".yml")) else STUDY_FOLDER / f"{study}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in STUDY_FOLDER.glob("*.yaml")))
        raise ConfigError(
            f"there is no study `{study}`", where=str(path), remedy=f"name a YAML file, or one of: {known}"
        )
    return path


def load_study(study: str) -> Study:
    """Read and check a study: every key, every plug-in, every id that one part names of another.

    Raises:
        ConfigError: names the file, the key, what was expected and found.
    """
    path = find_study(study)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the study file is not valid YAML", found=" ".join(str(error).split()), where=str(path)
        ) from None
    if not isinstance(raw, dict):
        raise ConfigError("a study file is a mapping of keys", found=type(raw).__name__, where=str(path))
    return parse_study({"name": path.stem, **raw}, where=str(path))


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error: plain YAML silently takes the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for i, key in enumerate(keys):
            if any(key.value == earlier.value for earlier in keys[:i]):
                raise yaml.composer.ComposerError(None, None, f"key `{key.value}` is given twice", key.start_mark)
        return node


def check_files(study: Study) -> None:
    """Raise ConfigError if a data file or a model folder that the study names is not there."""
    for key, dataset in study.datasets.items():
        if dataset.path is not None and not Path(dataset.path).is_file():
            raise ConfigError(
                f"the file of the data set `{key}` is missing",
                where=dataset.path,
                remedy=f"get the file, or correct datasets.{key}.path; paths are relative to where snakemake is started",
            )
    for key, model in study.models.items():
        is_local = model.path is not None and model.path.startswith((".", "/"))
        if is_local and not Path(str(model.path), "config.json").is_file():
            raise ConfigError(
                f"the folder of the model `{key}` has no config.json",
                where=str(model.path),
                remedy=f"put a checkpoint in the Hugging Face layout there, or correct models.{key}.path",
            )


def parse_study(raw: dict[str, Any], *, where: str) -> Study:
    """Check a study that is already in memory; ``where`` is its file, for messages."""
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_first_problem(error, ""), where=where) from None
    try:
        study = _fill_plugins(study)
        for problem in _dangling(study):
            raise ConfigError(problem)
    except ConfigError as error:
        raise ConfigError(str(error), where=where) from None
    return study


def _fill_plugins(study: Study) -> Study:
    """Return the study with every plug-in's parameters checked and its defaults filled in."""
    for name, dataset in study.datasets.items():
        try:
            plugins.load("datasets", dataset.adaptor)
        except ConfigError as error:
            raise ConfigError(str(error), where=f"datasets.{name}.adaptor") from None
    filled: dict[str, Any] = {
        folder: {key: plugin.checked(folder, f"{folder}.{key}") for key, plugin in getattr(study, folder).items()}
        for folder in ("pools", "scorers", "selections")
    }
    filled["methods"] = {
        key: method.model_copy(update={"objective": method.objective.checked("objectives", f"methods.{key}.objective")})
        for key, method in study.methods.items()
    }
    return study.model_copy(update=filled)


_RESERVED = {
    "datasets": ("models", "scorers", "evaluation", "summary", "tables", "figures", "cost", "logs", "benchmarks"),
    "models": ("world", "prompts"),
    "selections": ("none",),
}
"""Ids that would share a folder under results/<study>/ with something else."""


def _dangling(study: Study) -> Iterator[str]:
    """Yield every id that one part of the study names of another and that is not there, and every impossible n."""
    for folder, reserved in _RESERVED.items():
        for key in getattr(study, folder):
            if key in reserved:
                yield f"`{key}` cannot be an id under `{folder}`: a folder of that name has another purpose"
    for key, dataset in study.datasets.items():
        if dataset.world is not None and dataset.adaptor not in WORLD_LAYOUTS:
            yield f"datasets.{key}: the pocket world writes no `{dataset.adaptor}`; layouts: {', '.join(WORLD_LAYOUTS)}"
    for key, selection in study.selections.items():
        pool, scorer = selection.params.get("pool"), selection.params.get("scorer")
        if pool not in study.pools:
            yield f"selections.{key}.pool names `{pool}`, which is not under `pools`: {', '.join(study.pools)}"
        if scorer is not None and scorer not in study.scorers:
            yield f"selections.{key}.scorer names `{scorer}`, which is not under `scorers`: {', '.join(study.scorers)}"
    yield from _impossible_n(study)
    if study.evaluation.judge not in study.scorers:
        yield f"evaluation.judge names `{study.evaluation.judge}`, which is not under `scorers`: {', '.join(study.scorers)}"
    shown = study.figures.similarity
    if shown is not None and (shown.pool not in study.pools or shown.scorer not in study.scorers):
        yield f"figures.similarity names a pool or scorer that is not there: {shown.pool}, {shown.scorer}"
    for name, dataset in study.datasets.items():
        if dataset.splits.validation == 0 and study.evaluation.split == "validation":
            yield f"evaluation.split is `validation`, but datasets.{name}.splits.validation is 0"
    if not any(study.figures.ablation_n in sweep.n for method in study.methods.values() for sweep in method.sweeps):
        yield f"figures.ablation_n is {study.figures.ablation_n}, which no method sweeps"


def _impossible_n(study: Study) -> Iterator[str]:
    """Yield every selection that a sweep names and that is not there or cannot give so many negatives."""
    limits = []
    for key, method in study.methods.items():
        for i, sweep in enumerate(method.sweeps):
            where = f"methods.{key}.sweeps[{i}]"
            for name in sweep.selections:
                if name not in study.selections:
                    yield f"{where} names `{name}`, which is not under `selections`: {', '.join(study.selections)}"
                    return
                selection = study.selections[name]
                pool_id = selection.params["pool"]
                size = study.pools[pool_id].params.get("n_responses", 1)
                limit = plugins.load("selections", selection.kind).largest_n(size, selection.params)
                limits.append(limit)
                for n in sweep.n:
                    if n > limit:
                        yield (
                            f"{where} asks for n={n} negatives, but selection `{name}` can give at most {limit} of the "
                            f"{size} responses of pool `{pool_id}`; raise pools.{pool_id}.n_responses or drop n={n}"
                        )
    common_n = study.comparison.common_n
    if study.comparison.prompt_set == "common" and limits and common_n > max(limits):
        yield f"comparison.common_n is {common_n}, but no selection can give more than {max(limits)} negatives"


def _first_problem(error: ValidationError, prefix: str) -> str:
    """Return the first problem that pydantic found, in one sentence, and how many more there are."""
    # An unknown key goes before a missing one: a misspelled key is both.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    key = ".".join([prefix, *(str(x) for x in first["loc"])]).strip(".") or "the study"
    more = f" ({len(problems) - 1} more problems behind this one)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key `{key}`; config/README.md lists the keys{more}"
    if first["type"] == "missing":
        return f"key `{key}` is missing{more}"
    found = "" if first["type"] == "value_error" else f"; found {first['input']!r}"
    return f"key `{key}`: {first['msg'].removeprefix('Value error, ')}{found}{more}"
