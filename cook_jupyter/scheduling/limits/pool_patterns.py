"""Rules that an operator sets for pools by patterns of their names.

Lives here: the choice of the rule for a pool. Not here: the rules (`service.settings.schema`).

Source: Cook's `config.clj`, as described in the fair-share specification, section 2.
"""

import re
from collections.abc import Iterable
from typing import TypeVar

from cook_jupyter.model.pool import PoolName

Rule = TypeVar("Rule")


def first_matching(pool: PoolName, rules: Iterable[tuple[str, Rule]]) -> Rule | None:
    """Return the first rule whose regular expression matches in the pool's name; None if there is none.

    Args:
        pool: name of a pool or of a quota group.
        rules: pairs of a regular expression, which need not match the whole name, and a rule.
    """
    return next((rule for regex, rule in rules if re.search(regex, pool)), None)
