"""What every group of options has in common: declared fields, checked once, then fixed."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

# Else pydantic looks for plugins in the metadata of every package that is installed, which takes longer than all else
# that it does here. Whoever has plugins sets the variable to something else.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


class Options(BaseModel):
    """A declaration of options: unknown ones are refused, and messages do not repeat what was given.

    Validation is compiled when a class is first used: most classes are parts of others, and never are by themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


def different(names: Collection[str]) -> Collection[str]:
    """Raise ValueError if two of the names are the same."""
    if len(set(names)) < len(names):
        raise ValueError("names a column more than once")
    return names


DifferentColumns = Annotated[tuple[str, ...], AfterValidator(different)]
