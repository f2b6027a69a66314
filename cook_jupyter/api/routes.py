"""The table of URLs, and the application that serves it.

Lives here: which path is whose. Not here: what a handler does (its own module), sizes and times
(`api.server`).
"""

import logging
import re
from functools import partial
from pathlib import Path

from tornado.web import Application, RequestHandler

from cook_jupyter.api.about import (
    DebugHandler,
    FailureReasonsHandler,
    InfoHandler,
    MetricsHandler,
    OwnInfoHandler,
    SettingsHandler,
    ShutdownHandler,
    SummaryHandler,
)
from cook_jupyter.api.auth import Authenticator
from cook_jupyter.api.debug import DumpHandler
from cook_jupyter.api.events import EventsHandler
from cook_jupyter.api.fairness import MonitorHandler, RebalancerHandler
from cook_jupyter.api.files import BrowseHandler, DownloadHandler, ReadHandler
from cook_jupyter.api.groups import GroupHandler
from cook_jupyter.api.handler import HEARTBEAT_S, WRITE_S, CookHandler, Door, NoRoute
from cook_jupyter.api.jobs import (
    CancelHandler,
    InstanceHandler,
    InstancesHandler,
    JobHandler,
    JobsHandler,
    ListHandler,
    RawSchedulerHandler,
)
from cook_jupyter.api.limits import QuotaHandler, ShareHandler, UsageHandler
from cook_jupyter.api.logs import LogsHandler
from cook_jupyter.api.nested import WaitsHandler
from cook_jupyter.api.payloads import BlobHandler, ResultHandler
from cook_jupyter.api.pools import (
    PoolsHandler,
    QueueHandler,
    RunningHandler,
    UnscheduledHandler,
    WhyHandler,
)
from cook_jupyter.api.progress import ProgressHandler
from cook_jupyter.api.retry import RetryHandler
from cook_jupyter.api.server import Bounds, Listener, serve
from cook_jupyter.service.config import Settings
from cook_jupyter.service.scheduler import Scheduler

log = logging.getLogger(__name__)

ROUTES: tuple[tuple[str, type[CookHandler]], ...] = (
    ("/jobs", JobsHandler),
    ("/jobs/:uuid", JobHandler),
    ("/rawscheduler", RawSchedulerHandler),
    ("/instances", InstancesHandler),
    ("/instances/:uuid", InstanceHandler),
    ("/list", ListHandler),
    ("/group", GroupHandler),
    ("/retry", RetryHandler),
    ("/share", ShareHandler),
    ("/quota", QuotaHandler),
    ("/usage", UsageHandler),
    ("/queue", QueueHandler),
    ("/running", RunningHandler),
    ("/unscheduled_jobs", UnscheduledHandler),
    ("/pools", PoolsHandler),
    ("/info", InfoHandler),
    ("/settings", SettingsHandler),
    ("/failure_reasons", FailureReasonsHandler),
    ("/progress/:uuid", ProgressHandler),
    ("/metrics", MetricsHandler),
    ("/debug", DebugHandler),
    ("/files/browse", BrowseHandler),
    ("/files/download", DownloadHandler),
    ("/files/read", ReadHandler),
    ("/v1/info", OwnInfoHandler),
    ("/v1/summary", SummaryHandler),
    ("/v1/events", EventsHandler),
    ("/v1/results/:uuid", ResultHandler),
    ("/v1/blobs/:name", BlobHandler),
    ("/v1/logs/:uuid", LogsHandler),
    ("/v1/why/:uuid", WhyHandler),
    ("/v1/rebalancer", RebalancerHandler),
    ("/v1/monitor", MonitorHandler),
    ("/v1/cancel", CancelHandler),
    ("/v1/waits", WaitsHandler),
    ("/v1/debug/dump", DumpHandler),
    ("/v1/shutdown", ShutdownHandler),
)


def make_application(
    scheduler: Scheduler,
    authenticator: Authenticator,
    *,
    heartbeat_s: float = HEARTBEAT_S,
    write_s: float = WRITE_S,
) -> Application:
    """Make the application that serves a scheduler.

    Args:
        scheduler: whom it asks; its settings name origins, impersonators and limits.
        authenticator: who tells it who asks.
        heartbeat_s: how often a silent stream of events says that it is alive.
        write_s: how long a client may take nothing of what it is sent.
    """
    door = Door(
        scheduler=scheduler,
        authenticator=authenticator,
        origins=tuple(re.compile(pattern) for pattern in scheduler.settings.cors_origins),
        heartbeat_s=heartbeat_s,
        write_s=write_s,
    )
    return Application(
        [(pattern_of(path), handler, {"door": door}) for path, handler in ROUTES],
        default_handler_class=NoRoute,
        default_handler_args={"door": door},
        log_function=_log_request,
    )


def listen(
    scheduler: Scheduler,
    authenticator: Authenticator,
    settings: Settings,
    *,
    owner_socket: Path | None = None,
) -> Listener:
    """Serve a scheduler at the address, or on the Unix socket, that its settings name.

    Args:
        scheduler: the scheduler.
        authenticator: the authenticator of its requests.
        settings: the scheduler's settings.
        owner_socket: a Unix socket to listen on besides the address, for the owner alone. Where it cannot be
            made, the address has to do.

    Raises:
        InvalidRequest: other machines could reach that address, and the authenticator does not tell their
            users apart.
        OSError: the address is taken.
    """
    application = make_application(scheduler, authenticator)
    bounds = Bounds(body_bytes=settings.body_bytes)
    if settings.socket is not None:
        path = Path(settings.socket)
        return serve(application, authenticator, host=None, socket_path=path, bounds=bounds)
    serve_at = partial(
        serve, application, authenticator, host=settings.host, port=settings.port, bounds=bounds
    )
    failure: OSError | None = None
    if owner_socket is not None:
        try:
            return serve_at(socket_path=owner_socket)
        except OSError as error:
            failure = error
    listener = serve_at()
    if failure is not None:
        log.warning("No Unix socket at %s: %s", owner_socket, failure)
    return listener


def pattern_of(path: str) -> str:
    """Return the regular expression of a path in the table; /files/* may end in `.json`."""
    pattern = re.escape(path).replace(":uuid", "([^/]+)").replace(":name", "(.+)")
    return pattern + (r"(?:\.json)?" if path.startswith("/files/") else "")


def _log_request(handler: RequestHandler) -> None:
    request = handler.request
    elapsed_ms = 1000 * request.request_time()
    log.debug("%d %s %s %.1f ms", handler.get_status(), request.method, request.path, elapsed_ms)
