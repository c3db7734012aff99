"""The checkpoints that a study names, and whether they can be opened: asked before the first job, since some load last."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selfcontrast import hub, plugins
from selfcontrast.errors import ConfigError, InputError
from selfcontrast.inspection.folders import Needs, Use, check_checkpoint
from selfcontrast.inspection.weights import no_safetensors
from selfcontrast.pins import is_folder, split_revision
from selfcontrast.schema import Study

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class Named:
    """A checkpoint that a study names.

    Attributes:
        where: the key that names it.
        name: folder or hub id, with its revision if there is one.
        needs: what it is used for.
    """

    where: str
    name: str
    needs: Needs

    @property
    def is_on_hub(self) -> bool:
        """Return whether it is named by a hub id."""
        return not is_folder(self.name)


def checkpoints_of(study: Study) -> Iterator[Named]:
    """Yield every checkpoint that a study names by folder or hub id: of models, scorers and the servers of judges."""
    for key, model in study.models.items():
        if model.path is not None:
            needs = Needs("model", template=model.template == "tokenizer", code=model.trust_remote_code)
            yield Named(f"models.{key}.path", model.path, needs)
    for key, scorer in study.scorers.items():
        params = scorer.params
        use: Use | None = getattr(plugins.load("scorers", scorer.kind), "CHECKPOINT", None)
        if use is not None and (name := params.get("model")) is not None:
            use = "value_head" if params.get("layout") == "value_head" else use
            needs = Needs(
                use, template=params.get("template") == "tokenizer", code=bool(params.get("trust_remote_code"))
            )
            yield Named(f"scorers.{key}.model", str(name), needs)
    for key, judge in study.evaluation.judges.items():
        if judge.server is not None and judge.server.path is not None:
            code = any("trust-remote-code" in argument for argument in judge.server.args)
            yield Named(f"evaluation.judges.{key}.server.path", judge.server.path, Needs("judge", code=code))


def check_checkpoints(study: Study, *, ask_hub: bool = False, fetched: Path | None = None) -> None:
    """Refuse a checkpoint that cannot be opened.

    Args:
        ask_hub: of those named by a hub id, look whether they have weights as safetensors; one of which neither the cache nor
            the hub can tell anything passes, and its fetch will say so.
        fetched: folder of the study's results; what was fetched to it was checked then.

    Raises:
        InputError: there is one, with the key that names it and the file that is damaged.
        ConfigError: a name is neither a folder that is there nor a hub id.
    """
    for named in checkpoints_of(study):
        try:
            if not named.is_on_hub:
                check_checkpoint(Path(named.name), named.needs)
            elif _HUB_ID.fullmatch(split_revision(named.name)[0]) is None:
                raise ConfigError(
                    "a checkpoint is neither a folder that is there nor a hub id",
                    found=named.name,
                    remedy="correct it; the path of a folder begins with `.` or `/`",
                )
            elif ask_hub and not (fetched and (fetched / fetch_key(named.name) / "manifest.json").is_file()):
                _check_names(named)
        except ConfigError as error:
            raise ConfigError(str(error), where=named.where) from None
        except InputError as error:
            raise InputError(str(error), where=f"{named.where}: {named.name}") from None
    for key, scorer in study.scorers.items():
        if (package := scorer.params.get("package")) is not None:
            _check_package(str(package), f"scorers.{key}.package")


def fetch_key(name: str) -> str:
    """Return the folder under results/<study>/ to which a checkpoint of the hub is fetched; `@main` is the default."""
    repo, revision = split_revision(name)
    chosen = repo if revision in (None, "main") else f"{repo}@{revision}"
    return f"models/{re.sub(r'[^A-Za-z0-9._@-]', '--', chosen)}/fetch"


def _check_names(named: Named) -> None:
    files = hub.names_of_files(named.name)
    if files is not None and not any(file.endswith(".safetensors") for file in files):
        raise no_safetensors(files, where="", is_reward=named.needs.use in ("reward", "value_head"))


def _check_package(package: str, where: str) -> None:
    """Check the embedding model in an installed package; one that is installed elsewhere only is left to the step."""
    if importlib.util.find_spec(package) is None:
        return
    folder = importlib.import_module(package).get_model_path()
    try:
        check_checkpoint(Path(folder), Needs("embedder"))
    except InputError as error:
        raise InputError(str(error), where=f"{where}: {package}") from None
