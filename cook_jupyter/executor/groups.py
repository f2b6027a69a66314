"""Groups of jobs with a common rule for their hosts or for stragglers.

Lives here: `Group`, as an option of an executor or a cell, checked when it is created; which groups were
submitted.
Not here: how a placement affects decisions (`scheduling.constraints.constraints`), which jobs are stragglers
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
    """Jobs that belong together; passed to an executor as `group=`.

    The scheduler learns of it with the first of its jobs. Jobs may join at any time, even from another
    notebook, with the same value or its uuid.

    Attributes:
        placement: `all` for no rule; `unique` for a different host for each running job of the group;
            `balanced` for an even distribution over the values of a host attribute; `attribute-equals` for
            hosts with the same value of an attribute.
        attribute: host attribute, for the last two; every host has HOSTNAME.
        minimum: for `balanced`, the number of values to use before any is used more often than others.
        stragglers: (quantile, multiplier): a job that runs longer than `multiplier` times the run time of the
            job at this quantile of the group is restarted, which costs no retry. None for no such limit.
        name: name for display.
        uuid: uuid by which jobs refer to the group.

    Raises:
        InvalidRequest: the attributes are invalid or do not fit together.

    Example: `CookExecutor(group=Group(placement="unique"))`
    """

    placement: Placement = "all"
    attribute: str | None = None
    minimum: int | None = None
    stragglers: tuple[float, float] | None = None
    name: str = "group"
    uuid: str = field(default_factory=lambda: str(uuids.uuid4()))

    def __post_init__(self) -> None:
        """Refuse immediately what the scheduler would refuse later."""
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
            raise InvalidRequest("placement balanced needs a minimum, and other placements take none")
        if self.minimum is not None:
            object.__setattr__(self, "minimum", whole("minimum", self.minimum, minimum=1))
        if self.attribute and not self._by_attribute:
            raise InvalidRequest(
                f"placement {self.placement} takes no attribute; balanced and attribute-equals do"
            )
        if self.stragglers is not None:
            object.__setattr__(self, "stragglers", _straggler_rule(self.stragglers))
        object.__setattr__(self, "uuid", require_uuid(self.uuid))  # as the scheduler writes it

    @property
    def _by_attribute(self) -> bool:
        return self.placement in ("balanced", "attribute-equals")

    def submission(self) -> GroupSubmission:
        """Return the group as submitted with its jobs."""
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
    message = f"stragglers must be (quantile, multiplier), from 0 to 1 and above 1, not {rule!r}"
    if not isinstance(rule, Sequence) or isinstance(rule, str) or len(rule) != 2:
        raise WrongType(message)
    quantile, multiplier = positive("a quantile of stragglers", rule[0]), positive("the multiplier", rule[1])
    if not (quantile < 1 < multiplier):
        raise InvalidRequest(message)
    return quantile, multiplier


class SubmittedGroups:
    """The groups that the scheduler knows: each is submitted once, with the first of its jobs."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def new_groups(self, client: JobClient, options: Iterable[Group | str | None]) -> list[Group]:
        """Return the groups among options of jobs that must be submitted with the jobs."""
        groups = {group.uuid: group for group in options if isinstance(group, Group)}
        unknown = [uuid for uuid in groups if uuid not in self._known]
        if unknown:  # another notebook may have submitted it, or this process and the response was lost
            self._known.update(group.uuid for group in client.groups(unknown, partial=True))
        return [groups[uuid] for uuid in unknown if uuid not in self._known]

    def record(self, groups: Iterable[Group]) -> None:
        """Record groups that were submitted."""
        self._known.update(group.uuid for group in groups)


def require_uuid(value: object) -> str:
    """Return the uuid of a group in Cook's format.

    Raises:
        InvalidRequest: `value` is not a uuid.
    """
    try:
        return str(uuids.UUID(str(value)))
    except ValueError as error:
        raise InvalidRequest(f"group must be a Group or the uuid of one, not {value!r}") from error
