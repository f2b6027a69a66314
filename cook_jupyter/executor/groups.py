"""Groups: jobs that care where the others run, or that none of them lags behind.

Lives here: `Group`, as an option of an executor or a cell, checked when it is made; who has been told of it.
Not here: what a placement means for a decision (`scheduling.constraints.constraints`), which jobs lag behind
(`scheduling.limits.stragglers`).
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from cook_jupyter.client.submission import (
    GroupSubmission,
    HostPlacement,
    PlacementParameters,
    StragglerHandling,
    StragglerParameters,
)
from cook_jupyter.errors import InvalidRequest, WrongType
from cook_jupyter.executor.option_values import positive, text, whole

if TYPE_CHECKING:
    from cook_jupyter.client.sync import JobClient

Placement = Literal["all", "unique", "balanced", "attribute-equals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Jobs that belong together: give it to an executor as `group=`.

    It is made known to the scheduler with the first of its jobs; jobs may join for as long as you like, also
    from another notebook, by the same value or its uuid.

    Attributes:
        placement: `all` puts no demand; `unique` gives each job a host of its own among those of the group
            that run; `balanced` spreads them evenly over the values of an attribute of hosts;
            `attribute-equals` keeps them on hosts with the same value of it.
        attribute: of hosts, for the last two; HOSTNAME is one that every host has.
        minimum: for `balanced`: the number of values to use before any is used more often than others.
        stragglers: (quantile, multiplier): a job that runs longer than `multiplier` times what the job at
            this quantile of the group took is started anew, at no cost of retries. None: however long.
        name: for people.
        uuid: by which jobs name it.

    Raises:
        InvalidRequest: the parts do not go together.

    Example: `CookExecutor(group=Group(placement="unique"))`
    """

    placement: Placement = "all"
    attribute: str | None = None
    minimum: int | None = None
    stragglers: tuple[float, float] | None = None
    name: str = "group"
    uuid: str = field(default_factory=lambda: str(uuids.uuid4()))

    def __post_init__(self) -> None:
        """Refuse at once what the scheduler would refuse later, and far away."""
        if self.placement not in get_args(Placement):
            raise InvalidRequest(
                f"placement must be one of {', '.join(get_args(Placement))}, not {self.placement!r}"
            )
        object.__setattr__(self, "name", text("name", self.name))
        if self.attribute is not None:
            object.__setattr__(self, "attribute", text("attribute", self.attribute))
        if self._by_attribute and not self.attribute:
            raise InvalidRequest(
                f'placement {self.placement} needs an attribute, such as attribute="HOSTNAME"'
            )
        if (self.placement == "balanced") != (self.minimum is not None):
            raise InvalidRequest("a minimum goes with the placement balanced, and with no other")
        if self.minimum is not None:
            object.__setattr__(self, "minimum", whole("minimum", self.minimum, least=1))
        if self.attribute and not self._by_attribute:
            raise InvalidRequest(
                f"placement {self.placement} looks at no attribute; balanced and attribute-equals do"
            )
        if self.stragglers is not None:
            object.__setattr__(self, "stragglers", _straggler_rule(self.stragglers))
        object.__setattr__(self, "uuid", require_uuid(self.uuid))  # as the scheduler writes it

    @property
    def _by_attribute(self) -> bool:
        return self.placement in ("balanced", "attribute-equals")

    def submission(self) -> GroupSubmission:
        """The group as it is submitted with its jobs."""
        parameters, stragglers = None, None
        if self._by_attribute:
            parameters = PlacementParameters(attribute=self.attribute, minimum=self.minimum)
        if self.stragglers is not None:
            quantile, multiplier = self.stragglers
            stragglers = StragglerHandling(
                type="quantile-deviation",
                parameters=StragglerParameters(quantile=quantile, multiplier=multiplier),
            )
        return GroupSubmission(
            uuid=self.uuid,
            name=self.name,
            host_placement=HostPlacement(type=self.placement, parameters=parameters),
            straggler_handling=stragglers,
        )


def _straggler_rule(rule: object) -> tuple[float, float]:
    wrong = f"stragglers must be (quantile, multiplier), from 0 to 1 and above 1, not {rule!r}"
    if not isinstance(rule, Sequence) or isinstance(rule, str) or len(rule) != 2:
        raise WrongType(wrong)
    quantile, multiplier = positive("a quantile of stragglers", rule[0]), positive("the multiplier", rule[1])
    if not (quantile < 1 < multiplier):
        raise InvalidRequest(wrong)
    return quantile, multiplier


class SubmittedGroups:
    """Which groups a scheduler was told of: each is described once, with the first of its jobs."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def undescribed(self, client: JobClient, options: Iterable[Group | str | None]) -> list[Group]:
        """The groups among options of jobs that the scheduler must be told of together with them."""
        found = {each.uuid: each for each in options if isinstance(each, Group)}
        unsure = [uuid for uuid in found if uuid not in self._known]
        if unsure:  # another notebook may have told of it, or we did and the answer was lost
            self._known.update(each.uuid for each in client.groups(unsure, partial=True))
        return [found[uuid] for uuid in unsure if uuid not in self._known]

    def record(self, groups: Iterable[Group]) -> None:
        """Note that the scheduler was told."""
        self._known.update(each.uuid for each in groups)


def require_uuid(value: object) -> str:
    """`value`, if it is the uuid of a group, as Cook writes it.

    Raises:
        InvalidRequest: it is not.
    """
    try:
        return str(uuids.UUID(str(value)))
    except ValueError as error:
        raise InvalidRequest(f"group must be a Group or the uuid of one, not {value!r}") from error
