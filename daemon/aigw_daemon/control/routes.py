"""The control API as a table of routes over `Operations`. Plain routes, no reflective calls (rule S13)."""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aigw_daemon.control.cache_schema import CacheClear
from aigw_daemon.control.codec import decoded, encoded, plain
from aigw_daemon.control.operations import Operations
from aigw_daemon.control.problems import Refusal
from aigw_daemon.control.schema import (
    Endings,
    Message,
    Names,
    Problem,
    ProfileChoice,
    PullRequest,
    RouteRequest,
    UpRequest,
)

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=Message)
Handler = Callable[[Request], Awaitable[Response]]


def application(operations: Operations) -> Starlette:
    """The ASGI application of the control socket."""
    routes = [
        *_looking(operations),
        *_following(operations),
        *_changing(operations),
        *_cache(operations),
    ]
    handlers = {Refusal: _refused, HTTPException: _no_route, Exception: _bug}
    return Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]  # handlers take subclasses


def _looking(operations: Operations) -> list[Route]:
    async def status(_: Request) -> Response:
        return _json(operations.status())

    async def health(_: Request) -> Response:
        return _json(operations.health())

    async def why(request: Request) -> Response:
        return _json(operations.why(request.path_params["name"]))

    async def profiles(_: Request) -> Response:
        return _json(operations.profiles())

    async def names(_: Request) -> Response:
        return _json(operations.names())

    async def route(request: Request) -> Response:
        return _json(operations.route(await _body(request, RouteRequest)))

    return [
        Route("/v1/status", status),
        Route("/v1/health", health),
        Route("/v1/why/{name}", why),
        Route("/v1/profiles", profiles),
        Route("/v1/names", names),
        Route("/v1/route", route, methods=["POST"]),
    ]


def _following(operations: Operations) -> list[Route]:
    async def watch(_: Request) -> Response:
        return _stream(operations.watch())

    async def logs(request: Request) -> Response:
        lines = _count(request.query_params.get("lines", "200"))
        follow = request.query_params.get("follow", "false") == "true"
        text = operations.log(request.path_params["name"], lines, follow=follow)
        return StreamingResponse(text, media_type="text/plain; charset=utf-8")

    async def tail(_: Request) -> Response:
        return StreamingResponse(
            (json.dumps(event) + "\n" async for event in operations.tail()), media_type="application/x-ndjson"
        )

    async def events(request: Request) -> Response:
        asked = request.query_params
        told = operations.events(
            asked.get("backend"), _count(asked.get("lines", "200")), follow=asked.get("follow", "false") == "true"
        )
        return StreamingResponse((json.dumps(event) + "\n" async for event in told), media_type="application/x-ndjson")

    return [
        Route("/v1/watch", watch),
        Route("/v1/logs/{name}", logs),
        Route("/v1/tail", tail),
        Route("/v1/events", events),
    ]


def _changing(operations: Operations) -> list[Route]:
    async def up(request: Request) -> Response:
        return _json(await operations.up(await _body(request, UpRequest)))

    async def down(_: Request) -> Response:
        return _stream(operations.down())

    async def start(request: Request) -> Response:
        return _json(await operations.start((await _body(request, Names)).backends))

    async def stop(request: Request) -> Response:
        asked = await _body(request, Endings)
        return _json(await operations.stop(asked.backends, now=asked.now))

    async def restart(request: Request) -> Response:
        asked = await _body(request, Endings)
        return _json(await operations.restart(asked.backends, now=asked.now))

    async def daemon_restart(_: Request) -> Response:
        await operations.restart_daemon()
        return JSONResponse({})

    async def pull(request: Request) -> Response:
        return _stream(operations.pull(await _body(request, PullRequest)))

    async def use_profile(request: Request) -> Response:
        return _json(await operations.use_profile((await _body(request, ProfileChoice)).profile))

    verbs: dict[str, Handler] = {
        "/v1/up": up,
        "/v1/down": down,
        "/v1/backends/start": start,
        "/v1/backends/stop": stop,
        "/v1/backends/restart": restart,
        "/v1/daemon/restart": daemon_restart,
        "/v1/pull": pull,
        "/v1/profile": use_profile,
    }
    return [Route(path, handler, methods=["POST"]) for path, handler in verbs.items()]


def _cache(operations: Operations) -> list[Route]:
    async def stats(_: Request) -> Response:
        return _json(await operations.cache_stats())

    async def show(request: Request) -> Response:
        return _json(await operations.cache_show(request.path_params["key"]))

    async def clear(request: Request) -> Response:
        return _json(await operations.cache_clear(await _body(request, CacheClear)))

    return [
        Route("/v1/cache/stats", stats),
        Route("/v1/cache/answers/{key}", show),
        Route("/v1/cache/clear", clear, methods=["POST"]),
    ]


def _json(value: Any) -> Response:
    return Response(encoded(value), media_type="application/json")


def _stream(messages: AsyncIterator[Message]) -> Response:
    return StreamingResponse((encoded(message) + "\n" async for message in messages), media_type="application/x-ndjson")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise Refusal(400, "invalid_request", f"lines takes a number of lines, not {text!r}")
    return int(text)


async def _body(request: Request, kind: type[Model]) -> Model:
    try:
        return decoded(await request.body() or b"{}", kind)
    except ValueError as error:
        raise Refusal(400, "invalid_request", f"the request can't be read: {error}") from error


async def _refused(_: Request, refusal: Refusal) -> Response:
    return _problem(refusal.status, refusal.problem)


async def _no_route(request: Request, error: HTTPException) -> Response:
    message = f"the control API has no {request.method} {request.url.path}"
    hint = "the CLI and the daemon may be of different versions: 'aigw daemon restart'"
    return _problem(error.status_code, Problem(code="unknown_route", message=message, hint=hint))


async def _bug(request: Request, error: Exception) -> Response:
    log.error("control: %s %s failed", request.method, request.url.path, exc_info=error)
    message = "internal error in aigwd"
    return _problem(500, Problem(code="internal", message=message, hint="the traceback is in 'aigw logs daemon'"))


def _problem(status: int, problem: Problem) -> Response:
    return JSONResponse({"error": plain(problem)}, status_code=status)
