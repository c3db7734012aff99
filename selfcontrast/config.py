"""Read a study file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from selfcontrast import plugins, sources
from selfcontrast.errors import ConfigError, InputError, first_problem
from selfcontrast.inspection.folders import check_layout
from selfcontrast.pins import is_folder
from selfcontrast.schema import Dataset, Hub, Study
from selfcontrast.study_checks import problems

STUDY_FOLDER = Path(__file__).resolve().parent.parent / "config"


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
    except UnicodeDecodeError as error:
        raise ConfigError(
            "the study file is not text in UTF-8",
            found=str(error),
            where=str(path),
            remedy="convert it, for example `iconv -f UTF-16 -t UTF-8 OLD > NEW`, or with -f LATIN1 where it was saved so",
        ) from None
    except yaml.YAMLError as error:
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
    """Raise ConfigError if a data file or a model folder that the study names is not there, or has a name that cannot be."""
    for key, dataset in study.datasets.items():
        for path in dataset.paths:
            if not Path(path).exists():
                raise ConfigError(
                    f"the file of the data set `{key}` is missing",
                    where=path,
                    remedy=f"get the file, or correct datasets.{key}.path; paths are relative to where snakemake is started",
                )
        record_files(dataset)
    for where, path in _files_of_judges(study):
        if not Path(path).is_file():
            raise ConfigError(
                f"the file of {where} is missing",
                where=path,
                remedy=f"get the file, or correct {where}; paths are relative to where snakemake is started",
            )
    for key, benchmark in study.evaluation.benchmarks.items():
        if benchmark.folder is not None and not any(Path(benchmark.folder).rglob("*.yaml")):
            raise ConfigError(
                f"the folder of the benchmark `{key}` has no definition of a task", where=benchmark.folder
            )
    for key, model in study.models.items():
        if model.path is not None and is_folder(model.path):
            try:
                check_layout(Path(model.path))
            except InputError as error:
                raise ConfigError(f"the model `{key}`: {error}, or correct models.{key}.path") from None

    for path in input_files(study):
        check_braces(path)


def check_braces(path: str) -> None:
    """Raise ConfigError for a path that Snakemake would not take as it is: `{x}` is a wildcard wherever it stands."""
    if "{" in path or "}" in path:
        raise ConfigError(
            "Snakemake reads braces in a path as a wildcard",
            expected="a path without { and }",
            found=path,
            remedy="rename the file or folder, or make a link to it (ln -s) whose path has no braces",
        )


def input_files(study: Study) -> Iterator[str]:
    """Yield the user's own files that jobs have as inputs: records, questions, wordings of judges, definitions of tasks."""
    for dataset in study.datasets.values():
        yield from record_files(dataset)
    yield from (path for _, path in _files_of_judges(study))
    for benchmark in study.evaluation.benchmarks.values():
        if benchmark.folder is not None:
            yield from map(str, sources.task_files(Path(benchmark.folder)))


def record_files(dataset: Dataset) -> list[str]:
    """Return the files of records that the `path` of a data set names, in the order in which they are read."""
    try:
        return [str(file) for file in sources.record_files(dataset.paths)]
    except InputError as error:
        raise ConfigError(str(error)) from None


def _files_of_judges(study: Study) -> Iterator[tuple[str, str]]:
    """Yield the key and the path of every file that judges and their benchmarks read."""
    for key, questions in study.evaluation.questions.items():
        for name in ("path", "references", "baseline"):
            if (path := getattr(questions, name)) is not None:
                yield f"evaluation.questions.{key}.{name}", path
        if questions.length_control is not None and questions.length_control.path is not None:
            yield f"evaluation.questions.{key}.length_control.path", questions.length_control.path
    for key, judge in study.evaluation.judges.items():
        if (path := judge.params.get("prompts_file")) is not None:
            yield f"evaluation.judges.{key}.prompts_file", path


def parse_study(raw: dict[str, Any], *, where: str) -> Study:
    """Check a study that is already in memory; ``where`` is its file, for messages."""
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(first_problem(error, ""), where=where) from None
    try:
        study = _fill_plugins(study)
        for problem in problems(study):
            raise ConfigError(problem)
    except ConfigError as error:
        raise ConfigError(str(error), where=where) from None
    return study


def _fill_plugins(study: Study) -> Study:
    """Return the study with every plug-in's parameters checked and its defaults filled in."""
    datasets = {}
    for name, dataset in study.datasets.items():
        try:
            adaptor = plugins.load("datasets", dataset.adaptor)
        except ConfigError as error:
            raise ConfigError(str(error), where=f"datasets.{name}.adaptor") from None
        hub = dataset.hub and _fill_hub(dataset.hub, adaptor.HUB, f"datasets.{name}")
        datasets[name] = dataset.model_copy(update={"hub": hub})
    filled: dict[str, Any] = {
        folder: {key: plugin.checked(folder, f"{folder}.{key}") for key, plugin in getattr(study, folder).items()}
        for folder in ("pools", "scorers", "selections")
    }
    filled["datasets"] = datasets
    filled["methods"] = {
        key: method.model_copy(update={"objective": method.objective.checked("objectives", f"methods.{key}.objective")})
        for key, method in study.methods.items()
    }
    judges = {key: j.checked("judges", f"evaluation.judges.{key}") for key, j in study.evaluation.judges.items()}
    filled["evaluation"] = study.evaluation.model_copy(update={"judges": judges})
    return study.model_copy(update=filled)


def _fill_hub(hub: Hub, known: sources.HubSource | None, where: str) -> Hub:
    """Return the hub source with the adaptor's repository and files where the study names none."""
    if known is None:
        if hub.repo is None or not hub.files:
            raise ConfigError(f"{where}: the adaptor is for any data, so `hub` needs `repo` and `files`")
        return hub
    for subset in hub.subsets:
        if subset not in known.subsets:
            raise ConfigError(
                f"{where}.hub.subsets names `{subset}`, which the adaptor does not know",
                remedy=f"subsets: {', '.join(known.subsets)}; or name `files`",
            )
    files = hub.files or tuple(p for s in hub.subsets or known.default for p in known.subsets[s])
    return hub.model_copy(update={"repo": hub.repo or known.repo, "files": files})
