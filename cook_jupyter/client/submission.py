"""What `JobClient.submit` sends: jobs and groups as values.

Lives here: the fields that calls and cells use. A job that needs another field of Cook's (a container, uris)
is submitted as a mapping under Cook's names instead.
Not here: how the scheduler reads a submission (`wire.submission`), to which tests/client/test_answers.py
holds these structs.

Source: the REST specification, sections 4 and 7.
"""

from collections.abc import Mapping

from msgspec import Struct, field


class JobSubmission(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job to submit; fields at their default are omitted.

    Attributes:
        uuid: empty to be given one by `JobClient.submit`.
        max_retries: attempts in all, the first included.
        group: the uuid of the group that the job joins.
        constraints: attribute of hosts, operator (`EQUALS`) and value.
    """

    command: str
    cpus: float
    mem_mb: float = field(name="mem")
    max_retries: int
    uuid: str = ""
    name: str | None = None
    priority: int | None = None
    gpus: int = 0
    max_runtime_ms: int | None = field(name="max_runtime", default=None)
    expected_runtime_ms: int | None = field(name="expected_runtime", default=None)
    group: str | None = None
    constraints: tuple[tuple[str, str, str], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


class PlacementParameters(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a placement is by: an attribute of hosts, and for `balanced` the least number of its values."""

    attribute: str | None = None
    minimum: int | None = None


class HostPlacement(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the jobs of a group may run; `type` is all, unique, balanced or attribute-equals."""

    type: str
    parameters: PlacementParameters | None = None


class StragglerParameters(Struct, frozen=True, kw_only=True):
    """When a job of a group counts as a straggler."""

    quantile: float
    multiplier: float


class StragglerHandling(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What becomes of stragglers of a group; `type` is none or quantile-deviation."""

    type: str
    parameters: StragglerParameters | None = None


class GroupSubmission(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A group to submit with its jobs; fields at their default are omitted."""

    uuid: str
    name: str | None = None
    host_placement: HostPlacement | None = None
    straggler_handling: StragglerHandling | None = None
