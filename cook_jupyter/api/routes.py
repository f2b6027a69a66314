"""The table of routes, and the application that serves it.

Not here: the handlers (their own modules), limits on size and time (`api.server`).
"""

import logging
import re
from functools import partial
from pathlib import Path

from tornado.web import Application, RequestHandler

from cook_jupyter.api.auth import Authenticator
from cook_jupyter.api.debug import DumpHandler
from cook_jupyter.api.events import EventsHandler
from cook_jupyter.api.fairness import MonitorHandler, RebalancerHandler
from cook_jupyter.api.files import BrowseHandler, DownloadHandler, ReadHandler
from cook_jupyter.api.groups import GroupHandler
from cook_jupyter.api.handler import HEARTBEAT_S, WRITE_TIMEOUT_S, ApiContext, CookHandler, NotFoundHandler
from cook_jupyter.api.info import (
    DebugHandler,
    FailureReasonsHandler,
    InfoHandler,
    MetricsHandler,
    SchedulerInfoHandler,
    SettingsHandler,
    ShutdownHandler,
    SummaryHandler,
)
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
from cook_jupyter.api.server import ListeningServer, ServerLimits, serve
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.schema import Settings

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
    ("/v1/info", SchedulerInfoHandler),
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
    write_timeout_s: float = WRITE_TIMEOUT_S,
) -> Application:
    """Create the application that serves a scheduler.

    Args:
        scheduler: the scheduler; its settings have the allowed origins, impersonators and limits.
        authenticator: the authenticator of requests.
        heartbeat_s: interval of heartbeats in a stream of events without changes.
        write_timeout_s: time that a client has to accept data.
    """
    context = ApiContext(
        scheduler=scheduler,
        authenticator=authenticator,
        origins=tuple(re.compile(pattern) for pattern in scheduler.settings.server.cors_origins),
        heartbeat_s=heartbeat_s,
        write_timeout_s=write_timeout_s,
    )
    return Application(
        [(pattern_of(path), handler, {"context": context}) for path, handler in ROUTES],
        default_handler_class=NotFoundHandler,
        default_handler_args={"context": context},
        log_function=_log_request,
    )


def listen(
    scheduler: Scheduler,
    authenticator: Authenticator,
    settings: Settings,
    *,
    owner_socket: Path | None = None,
) -> ListeningServer:
    """Serve a scheduler on the address, or on the Unix socket, of its settings.

    Args:
        scheduler: the scheduler.
        authenticator: the authenticator of requests.
        settings: the settings of the scheduler.
        owner_socket: path of an additional Unix socket for the owner. If it cannot be created, the scheduler
            listens on the address only.

    Raises:
        InvalidRequest: other machines can reach the address, and users are not authenticated.
        OSError: the address is in use.
    """
    application = make_application(scheduler, authenticator)
    limits = ServerLimits(body_bytes=settings.server.body_bytes)
    if settings.server.socket is not None:
        path = Path(settings.server.socket)
        return serve(application, authenticator, host=None, socket_path=path, limits=limits)
    serve_at = partial(
        serve, application, authenticator, host=settings.server.host, port=settings.server.port, limits=limits
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
    """Return the regular expression of a route; paths under /files/ may end in `.json`."""
    pattern = re.escape(path).replace(":uuid", "([^/]+)").replace(":name", "(.+)")
    return pattern + (r"(?:\.json)?" if path.startswith("/files/") else "")


def _log_request(handler: RequestHandler) -> None:
    request = handler.request
    elapsed_ms = 1000 * request.request_time()
    log.debug("%d %s %s %.1f ms", handler.get_status(), request.method, request.path, elapsed_ms)
