"""The scripted daemon of these tests is held to the real one's table of routes."""

from starlette.routing import Route

from aigw_daemon.control.routes import application
from tests.support.fake_daemon import PATHS


def test_the_scripted_daemon_has_the_routes_of_the_real_one() -> None:
    real = {
        (method, route.path)
        for route in application(None).routes  # type: ignore[arg-type]  # the operations are asked at a request only
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert real == PATHS
