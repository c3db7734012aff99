"""Run lm-evaluation-harness on a model that is loaded already."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast.chunks import Chunks
from selfcontrast.errors import InputError, SelfContrastError, StepError
from selfcontrast.harness.definitions import Definition, check_harness, check_pin, digest, unknown_task
from selfcontrast.harness.policy import policy_lm
from selfcontrast.harness.results import describe_task, samples
from selfcontrast.harness.resuming import keep_batches
from selfcontrast.rendering import Renderer
from selfcontrast.task_pins import PINS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Outcome:
    """What a benchmark found.

    Attributes:
        tasks: for each task that was asked for, what ``results.describe_task`` keeps of it.
        samples: rows of ``results.samples``.
        counts: what happened to requests and prompts, under the names of ``harness.policy``.
    """

    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def run_tasks(
    model: PreTrainedModel,
    renderer: Renderer,
    spec: Mapping[str, Any],
    *,
    folder: Path | None = None,
    cache: Path | None = None,
    chunks: Chunks | None = None,
) -> Outcome:
    """Return the results of a model on the tasks of a benchmark.

    Args:
        model: of which ``checkpoints.reset_generation`` has taken away how its checkpoint wants to be decoded.
        renderer: of the policy; it renders the prompts if ``spec`` asks for a chat template.
        spec: keys of ``schema.Benchmark``.
        folder: holds definitions of tasks; paths in them are relative to it.
        cache: where the library of data sets keeps what it reads; by default its own place.
        chunks: where finished batches outlive an interruption; None keeps none.

    Raises:
        StepError: another version of the harness is installed, or data cannot be had.
        InputError: there is no such task, it is not the one that is pinned, or its files are wrong.
    """
    check_harness()
    sys.dont_write_bytecode = True  # functions of tasks lie in folders that are not ours
    # Loading a data set reports itself over the network, local ones too.
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    import lm_eval

    index = Index.of(spec["tasks"], None if folder is None else folder.resolve(), spec["pins"])
    definitions = {name: index.definition(name) for name in spec["tasks"]}
    for name, definition in definitions.items():
        check_pin(name, definition, spec["pins"])
    lm = policy_lm(model, renderer, batch=spec["batch"])
    if chunks is not None:
        keep_batches(lm, chunks)
    outcome = Outcome()
    for few_shot, names in _by_few_shot(spec).items():
        with _cached_in(cache), _inside(folder), _told(names, index):
            found = lm_eval.simple_evaluate(
                model=lm,
                tasks=names,
                num_fewshot=few_shot,
                limit=spec["limit"],
                apply_chat_template=spec["chat_template"],
                task_manager=index.manager,
            )
        assert found is not None  # it is None in the other processes of several
        outcome.tasks |= {name: describe_task(name, found, definitions[name]) for name in names}
        outcome.samples += samples(found)
    outcome.counts = dict(lm.prompts.counts)
    return outcome


def _by_few_shot(spec: Mapping[str, Any]) -> dict[int | None, list[str]]:
    """Return the tasks that are asked with the same number of examples; None: with the task's own number."""
    groups: dict[int | None, list[str]] = {}
    for name in spec["tasks"]:
        given = spec["few_shot"]
        if given is None and name in PINS:
            given = PINS[name].few_shot
        groups.setdefault(given, []).append(name)
    return groups


@dataclass(frozen=True)
class Index:
    """The definitions that the harness finds for a benchmark.

    Attributes:
        manager: the harness' own ``TaskManager``.
        folder: of the user or the pocket world; what it defines goes before the harness' own.
    """

    manager: Any
    folder: Path | None

    @classmethod
    def of(cls, tasks: Sequence[str], folder: Path | None, pins: Mapping[str, str]) -> Index:
        """Read as few files as may be: all that the harness brings takes 9 s, and is read only for a task that needs it.

        Args:
            pins: of the study; a task of the harness that neither they nor the project pin could not be run anyway.
        """
        from lm_eval import tasks as bundled
        from lm_eval.tasks import TaskManager

        here = Path(bundled.__file__).parent
        mine = TaskManager(include_path=str(folder), include_defaults=False).all_tasks if folder else []
        theirs = [name for name in tasks if name not in mine]
        paths = [str(here / place) for place in dict.fromkeys(PINS[name].folder for name in theirs if name in PINS)]
        everything = any(name in pins and name not in PINS for name in theirs)
        paths += [str(folder)] if folder else []
        return cls(TaskManager(include_path=paths, include_defaults=everything), folder)

    def definition(self, name: str) -> Definition:
        """Return what a task is, or raise InputError."""
        entries = self.manager.task_index
        if name not in entries:
            raise unknown_task(name, [*entries, *PINS])
        entry = entries[name]
        version = str(((entry.cfg or {}).get("metadata") or {}).get("version"))
        own = self.folder is not None and entry.yaml_path is not None and entry.yaml_path.is_relative_to(self.folder)
        return Definition(version, digest(name, entries), "folder" if own else "harness")


@contextlib.contextmanager
def _inside(folder: Path | None) -> Iterator[None]:
    """Work inside the folder of the definitions, as `lm-eval --include_path .` would there."""
    with contextlib.chdir(folder) if folder is not None else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _cached_in(cache: Path | None) -> Iterator[None]:
    """Let the library of data sets keep what it reads in a folder, for the length of the block."""
    from datasets import config

    before = config.HF_DATASETS_CACHE
    if cache is not None:
        config.HF_DATASETS_CACHE = cache.resolve()
    try:
        yield
    finally:
        config.HF_DATASETS_CACHE = before


@contextlib.contextmanager
def _told(names: Sequence[str], index: Index) -> Iterator[None]:
    """Turn what goes wrong with the data of a task into a message that says what to do."""
    try:
        yield
    except SelfContrastError:
        raise
    except OSError as error:
        if error.errno is not None:  # of this machine: a full disk, a file that may not be read
            raise
        first = str(error).strip().partition("\n")[0]
        if isinstance(error, FileNotFoundError) and index.folder is not None and "on the Hub" not in first:
            raise InputError(
                "a task names a data file that is not there",
                found=first,
                where=str(index.folder),
                remedy="correct dataset_kwargs.data_files of the task; paths are relative to the folder",
            ) from None
        raise StepError(
            "the data of a task cannot be reached: they are on the Hugging Face hub, and not in the cache",
            found=first,
            where=", ".join(names),
            remedy="where there is a network, with the same HF_HOME and the environment of this project, run `lm-eval run "
            f"--model dummy --tasks {','.join(names)} --limit 1`, which fetches them; HF_HUB_OFFLINE must not be set there",
        ) from None
