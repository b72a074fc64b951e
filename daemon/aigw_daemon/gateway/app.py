"""The FastAPI application behind the dispatcher: models, health, metrics and the description of the whole surface."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Generic, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from aigw_daemon.gateway.assembly import HOT_PATHS
from aigw_daemon.gateway.cache.cache import CacheReport
from aigw_daemon.gateway.docs_page import PAGE, POLICY
from aigw_daemon.gateway.failures import unknown_model
from aigw_daemon.gateway.health import health_of
from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.metrics import exposition, readings
from aigw_daemon.gateway.models_view import model_entry, model_list
from aigw_daemon.gateway.openapi import describe
from aigw_daemon.gateway.routing import RoutingTable, resolve
from aigw_daemon.gateway.schema import ERROR, About, Health, Model, ModelList, Probe
from aigw_daemon.gateway.wire import ApiError
from aigw_daemon.version import AIGW_VERSION

_JSON = "application/json"
_ABOUT = "An OpenAI-compatible gateway to local LLM engines. Use /v1 as the path of a client's base URL."
_PLACES = {"base_path": "/v1", "models": "/v1/models", "health": "/health", "docs": "/docs", "openapi": "/openapi.json"}
Source = TypeVar("Source")


class _Kept(Generic[Source]):
    """An answer made once per snapshot, or per table of one: it is asked for far more often than they change."""

    def __init__(self, make: Callable[[Source], tuple[int, Any]]) -> None:
        self._make = make
        self._last: tuple[Source, tuple[int, bytes]] | None = None

    def get(self, source: Source) -> Response:
        if self._last is None or source is not self._last[0]:
            status, content = self._make(source)
            self._last = source, (status, msgspec.json.encode(content))
        status, body = self._last[1]
        return Response(body, status, media_type=_JSON)


def build_app(live: Live, cache: Callable[[], CacheReport]) -> FastAPI:
    """The application over the present snapshot. Its routes appear with and without ``/v1``, as the hot ones do.

    ``cache`` tells what the cache did so far.
    """
    # No redirects to the path without its slash: their address would be built from the Host header (rule S1).
    app = FastAPI(title="aigw", version=AIGW_VERSION, docs_url=None, redoc_url=None, redirect_slashes=False)
    _add_about(app)
    _add_models(app, live)
    _add_health(app, live)
    _add_metrics(app, live, cache)
    _add_docs(app)
    _add_error_handlers(app)
    app.openapi = lambda: _description(app)  # type: ignore[method-assign]  # FastAPI documents this as the way
    return app


def refusal(app: FastAPI, method: str, path: str) -> ApiError | None:
    """Why no route answers this, found without asking any; None where one does."""
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    found = [(route.matches(scope)[0], route) for route in app.routes]
    if any(match is Match.FULL for match, _ in found):
        return None
    partly = next((route for match, route in found if match is Match.PARTIAL), None)
    if isinstance(partly, Route):
        return _routing_error(405, method, path, ", ".join(sorted(partly.methods or ())))
    return _routing_error(404, method, path, None)


def _add_about(app: FastAPI) -> None:
    async def about() -> Response:
        return _json(200, {"name": "aigw", "version": AIGW_VERSION, "about": _ABOUT, **_PLACES})

    app.add_api_route(
        "/",
        about,
        response_model=About,
        summary="What this server is, and where its API is",
        operation_id="about",
        tags=["documentation"],
    )


def _add_models(app: FastAPI, live: Live) -> None:
    # A thousand models of a cloud take some 30 ms to list.
    listing = _Kept[RoutingTable](lambda table: (200, model_list(table, live.gateway.provider)))

    async def models() -> Response:
        return listing.get(_table(live))

    async def model(model_id: str) -> Response:
        table = _table(live)
        decision = resolve(table, model_id)
        entry = model_entry(table, decision, live.gateway.provider)
        if entry is None:
            raise unknown_model(decision)
        return _json(200, entry)

    for prefix in ("/v1", ""):
        # Before the route of one model, whose name would be the nothing behind the slash.
        app.add_api_route(f"{prefix}/models/", models, include_in_schema=False)
        app.add_api_route(
            f"{prefix}/models",
            models,
            response_model=ModelList,
            summary="All models that can be asked for",
            operation_id=f"models{prefix[1:]}",
            tags=["models"],
            responses={503: ERROR},
        )
        app.add_api_route(
            # A name may hold slashes and colons.
            f"{prefix}/models/{{model_id:path}}",
            model,
            response_model=Model,
            summary="One model",
            operation_id=f"model{prefix[1:]}",
            tags=["models"],
            responses={404: ERROR, 503: ERROR},
        )


def _add_health(app: FastAPI, live: Live) -> None:
    kept = _Kept(health_of)

    async def health() -> Response:
        return kept.get(live.snapshot)

    async def alive() -> Response:
        return _json(200, {"status": "ok", "reasons": []})

    async def ready() -> Response:
        status, content = health_of(live.snapshot)
        word = "ok" if status == HTTPStatus.OK else "unavailable"
        return _json(status, {"status": word, "reasons": content["reasons"] if word != "ok" else []})

    for path, endpoint, shape, summary in (
        ("/health", health, Health, "Whether the gateway can serve, and each provider's state"),
        ("/health/live", alive, Probe, "Whether the worker runs"),
        ("/health/ready", ready, Probe, "Whether the gateway can serve"),
    ):
        app.add_api_route(
            path,
            endpoint,
            response_model=shape,
            summary=summary,
            operation_id=path[1:].replace("/", "_"),
            tags=["health"],
            responses={} if endpoint is alive else {503: {"model": shape, "description": "It can't serve."}},
        )


def _add_metrics(app: FastAPI, live: Live, cache: Callable[[], CacheReport]) -> None:
    async def metrics(request: Request) -> Response:
        found = readings(live, cache())
        page, content_type = await asyncio.to_thread(exposition, found, request.headers.get("accept"))
        return Response(page, headers={"content-type": content_type})

    app.add_api_route(
        "/metrics",
        metrics,
        response_class=PlainTextResponse,
        summary="What the gateway counts, for Prometheus",
        operation_id="metrics",
        tags=["metrics"],
    )


def _add_docs(app: FastAPI) -> None:
    async def docs() -> Response:
        return Response(PAGE, media_type="text/html", headers={"content-security-policy": POLICY})

    app.add_api_route(
        "/docs",
        docs,
        response_class=HTMLResponse,
        summary="This description, for people",
        operation_id="docs",
        tags=["documentation"],
    )


def _add_error_handlers(app: FastAPI) -> None:
    async def api_error(_request: Request, error: Exception) -> Response:
        return _envelope(error) if isinstance(error, ApiError) else _envelope(ApiError(500, str(error)))

    async def http_error(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
        allow = (error.headers or {}).get("Allow") if isinstance(error, HTTPException) else None
        return _envelope(_routing_error(status, request.method, request.scope["path"], allow))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)


def _routing_error(status: int, method: str, path: str, allow: str | None) -> ApiError:
    if path == "/":
        # Whoever posts here has left the path out of a base URL: it is the route that is missing.
        return ApiError(404, f"there is no route {method} /; the base URL of the API ends in /v1, and / describes it")
    if status == HTTPStatus.NOT_FOUND:
        return ApiError(404, f"there is no route {path}; /docs shows what there is")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return ApiError(405, f"{path} doesn't take {method}", allow=allow)
    return ApiError(status, f"{path} can't be answered: status {status}")


def _envelope(error: ApiError) -> Response:
    headers = {"retry-after": str(error.retry_after)} if error.retry_after is not None else {}
    if error.allow is not None:
        headers["allow"] = error.allow
    return Response(error.body(), error.status, headers, media_type=_JSON)


def _table(live: Live) -> RoutingTable:
    if live.table is None:
        raise ApiError(503, "the gateway has not heard from its daemon yet", retry_after=1)
    return live.table


def _json(status: int, content: Any) -> Response:
    return Response(msgspec.json.encode(content), status, media_type=_JSON)


def _description(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        app.openapi_schema = describe(document, HOT_PATHS)
    return app.openapi_schema
