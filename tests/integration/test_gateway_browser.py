"""A real browser: the page of the description works on its own; a page of another origin can use every hot route."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path

import pytest
import pytest_asyncio

from aigw_daemon.gateway import controls
from aigw_daemon.gateway.assembly import HOT_PATHS
from aigw_daemon.gateway.openapi import ANSWER_HEADERS
from tests.support.answering import answers_anything
from tests.support.description import description
from tests.support.fake_engine import fake_engine, whole
from tests.support.gateway import GatewayProcess, backend, gateway_process, route, snapshot

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.program("chromium")]

VALUES = {
    "x-aigw-timeout": "30s",
    "x-aigw-fallback": "off",
    "x-aigw-backend": "local",
    "x-aigw-priority": "high",
    "x-aigw-cache": "bypass",
    "cache-control": "no-store",
}
HEADERS = {"content-type": "application/json", "authorization": "Bearer not-needed", **VALUES}
BODY = {"model": "m", "messages": [], "prompt": "", "input": "a", "query": "a", "documents": ["a"]}

ALONE = (
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)
"""There is no other machine: neither the page nor the browser can reach one."""

SCRIPT = """
const asking = { method: "POST", headers: HEADERS, body: JSON.stringify(BODY) };
const ask = async () => {
  const told = [];
  for (const path of PATHS) {
    const answer = await fetch(GATEWAY + path, asking);
    told.push([path, answer.status, [...answer.headers.keys()], typeof (await answer.json())]);
  }
  return "told" + JSON.stringify(told) + "end";
};
ask().catch(String).then((text) => { document.body.textContent = text; });
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[GatewayProcess]:
    async with fake_engine(answers_anything) as engine:
        local = backend("local", engine.port)
        async with gateway_process(snapshot(local, routes=[route("chat", ("local", "m"))])) as running:
            yield running


async def shown(url: str, folder: Path) -> str:
    """The page as it stands when its scripts have run."""
    rootless = ["--no-sandbox"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        "chromium", "--headless", "--disable-gpu", *rootless, f"--user-data-dir={folder}",
        *ALONE, "--virtual-time-budget=10000", "--dump-dom", url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return unescape(output.decode())


async def test_the_page_of_the_description_shows_every_path(gateway: GatewayProcess, tmp_path: Path) -> None:
    page = await shown(f"{gateway.url}/docs", tmp_path)
    assert [path for path in description()["paths"] if f"<code>{path}</code>" not in page] == []
    assert "x-aigw-priority (header)" in page
    assert "No such model; the message names the nearest." in page


async def test_a_page_of_another_origin_asks_with_our_headers_and_reads_them(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    assert VALUES.keys() == {name.decode() for name in controls.NAMES}
    texts = {"GATEWAY": gateway.url, "HEADERS": HEADERS, "BODY": BODY, "PATHS": list(HOT_PATHS)}
    given = "".join(f"const {name} = {json.dumps(value)};" for name, value in texts.items())
    html = f"<!doctype html><body><script>{given}{SCRIPT}</script></body>".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A browser also opens connections that it then has no use for.
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(whole(html, 200, "connection: close").replace(b"application/json", b"text/html", 1))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        page = await shown(f"http://localhost:{server.sockets[0].getsockname()[1]}/", tmp_path)
    told = json.loads(page.partition("told")[2].partition("end<")[0])
    assert [(path, status, kind) for path, status, _, kind in told] == [(path, 200, "object") for path in HOT_PATHS]
    assert all(ANSWER_HEADERS.keys() <= set(names) for _, _, names, _ in told)
