"""Tells whether a run would only repeat what is live, and what is noted so that nobody has to find that out twice.

After a change of code, options or source that changes no row, a run has another recipe than what is live, and the same
content: it publishes nothing, and what is live keeps its recipe. A note beside the data, as
``_runs/_unchanged-<sha16>.json``, holds the recipe of such a run and the identity of what it found live. Its name is
made of both: it may be missing or damaged, and then a run finds out again, but it cannot be out of date, nor about what
another pipeline publishes there.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING

from etl.errors import EtlError, RetryLater

if TYPE_CHECKING:
    from etl.base import Loader
    from etl.run import Live

log = logging.getLogger("etl.pipeline")


def repeats(loader: Loader, live: Live, recipe: str) -> bool:
    """Whether a run with this recipe would publish what is live, as far as is known without running it."""
    return recipe == live.recipe or (live.identity is not None and _is_kept(loader, *note(recipe, live.identity)))


def note(recipe: str, identity: str) -> tuple[str, str]:
    """Name and content of the note that this recipe gives what has this identity."""
    content = json.dumps({"recipe": recipe, "gives": identity}, indent=2)
    return f"_runs/_unchanged-{hashlib.sha256(content.encode()).hexdigest()[:16]}.json", content


def _is_kept(loader: Loader, name: str, content: str) -> bool:
    """Whatever is wrong with a note, a run can do without; but not if the store is out of reach."""
    try:
        with loader.blamed():
            return loader.kept(name) == content.encode()
    except RetryLater:
        raise
    except EtlError as error:
        log.debug("Going on as if there were no %s: %s", name, error)
        return False
