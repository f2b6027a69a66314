"""Rules that an operator sets for pools by patterns of their names.

Lives here: the choice of the rule for a pool. Not here: the rules (`service.settings.schema`).

Source: Cook's `config.clj`, as described in the fair-share specification, section 2.
"""

import re
from collections.abc import Iterable
from typing import TypeVar

Rule = TypeVar("Rule")


def first_matching(name: str, rules: Iterable[tuple[str, Rule]]) -> Rule | None:
    """Return the first rule whose regular expression matches in a name; None if there is none.

    Args:
        name: name of a pool or of a quota group.
        rules: pairs of a regular expression, which need not match the whole name, and a rule.
    """
    return next((rule for regex, rule in rules if re.search(regex, name)), None)
