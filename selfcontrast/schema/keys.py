"""The types of keys of a study file: ids, fractions, counts, choices of plug-ins, and models that refuse unknown keys."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from selfcontrast import plugins
from selfcontrast.errors import ConfigError, first_problem

_ID = re.compile(r"[a-z][a-z0-9]*")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def _check_id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise ValueError(f"`{value}` is not an id: lower-case letters and digits, a letter first (a folder's name)")
    return value


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"`{value}` is no name of a study: lower-case letters, digits and hyphens, a letter first")
    return value


Id = Annotated[str, AfterValidator(_check_id)]
Name = Annotated[str, AfterValidator(_check_name)]
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

    def checked(self, folder: str, where: str) -> Self:
        """Return this choice with the plug-in's defaults filled in, or raise ConfigError."""
        try:
            module = plugins.load(folder, self.kind)
            params = module.Params(**self.params)
        except ConfigError as error:
            raise ConfigError(str(error), where=where) from None
        except ValidationError as error:
            raise ConfigError(first_problem(error, where)) from None
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**own, **params.model_dump())
