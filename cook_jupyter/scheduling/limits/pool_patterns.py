"""Rules that an operator sets for pools by their names.

Lives here: which of several counts for a pool. Not here: what they say (`service.settings.schema`).

Source: Cook's `config.clj`, as told in the fair-share specification, section 2.
"""

import re
from collections.abc import Iterable
from typing import TypeVar

from cook_jupyter.model.pool import PoolName

Rule = TypeVar("Rule")


def first_found(pool: PoolName, rules: Iterable[tuple[str, Rule]]) -> Rule | None:
    """Return the first rule whose regular expression is found in the pool's name; None if none is.

    Args:
        pool: its name, or that of a quota group.
        rules: each with its regular expression, which need not match the whole name.
    """
    return next((rule for regex, rule in rules if re.search(regex, pool)), None)
