"""An engine that misbehaves on demand: it takes llama-server's flags, answers like it, and shows one fault or another.

Run it through `install`, which writes a program that a profile can name as its ``binary``; the faults are flags, for
the profile's ``args``.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path


def install(folder: Path) -> Path:
    """A program ``llama-server`` in ``folder`` that runs this file."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "llama-server"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{Path(__file__).resolve()}" "$@"\n')
    program.chmod(0o755)
    return program


def settings(programs: Path, models: Path) -> str:
    """The beginning of a backend's settings in a profile: the stub, serving ``m``; more keys and a brace close it."""
    model = models / "model.gguf"
    model.write_bytes(b"GGUF")
    return f"{{engine: llamacpp, binary: {install(programs)}, model: {model}, served_name: m"


def behind_a_leader(program: Path, folder: Path) -> Path:
    """A program that runs another as its child, as engines with workers do, and does not notice that one's end."""
    leader = folder / "leader"
    leader.write_text(f'#!/bin/sh\n"{program}" "$@" &\nexec sleep 600\n')
    leader.chmod(0o755)
    return leader


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--model", "--alias", "--host", "--ctx-size", "--parallel", "--gpu-layers"):
        parser.add_argument(flag)
    parser.add_argument("--port", type=int)
    for switch in ("--metrics", "--slots", "--no-webui", "--embeddings", "--rerank"):
        parser.add_argument(switch, action="store_true")
    parser.add_argument("--say", help="written to the log at the start")
    parser.add_argument("--exit", type=int, help="end at once with this code")
    parser.add_argument("--die-after", type=float, help="end with code 3 after so many seconds")
    parser.add_argument("--load", type=float, default=0.0, help="answer 503 for so many seconds")
    parser.add_argument("--serve-name", help="list this model instead of the alias")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--child", choices=["group", "session", "erased"], help="start a child that outlives us")
    parser.add_argument("--mute", action="store_true", help="run, and listen nowhere")
    parser.add_argument("--flood", type=int, default=0, help="write so many bytes to the log")
    parser.add_argument("--sick-file", help="answer 500 to probes while this file exists")
    parser.add_argument("--stall", action="store_true", help="take requests and never answer them; probes are fine")
    parser.add_argument("--burn", type=float, default=0.0, help="compute for so many seconds before an answer")
    parser.add_argument("--pieces", type=int, default=1, help="how many pieces a stream has")
    parser.add_argument("--chatty", type=int, default=0, help="write so many bytes to the log with each piece")
    parser.add_argument("--think", type=float, default=0.0, help="say nothing for so many seconds before an answer")
    parser.add_argument("--poison", help="die of a request that has this word in it")
    parser.add_argument("--single", action="store_true", help="do one thing at a time: no probe while it streams")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two pieces")
    return parser.parse_args()


CHILD = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1] == "erased":
    # What setproctitle does: the memory of arguments and environment is overwritten.
    import ctypes, re
    start, end = (int(field) for field in open("/proc/self/stat").read().rpartition(")")[2].split()[47:49])
    ctypes.memset(start, 0, end - start)
import os
os.write(int(sys.argv[2]), b"up")
time.sleep(600)
"""


def start_child(kind: str) -> None:
    """Start it, and wait until it is what it should be."""
    reader, writer = os.pipe()
    command = [sys.executable, "-S", "-c", CHILD, kind, str(writer)]
    subprocess.Popen(command, start_new_session=kind != "group", pass_fds=(writer,))
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)


class Server(ThreadingHTTPServer):
    """Takes many connections at once."""

    request_queue_size = 128


class Handler(BaseHTTPRequestHandler):
    """Answers like llama-server."""

    said: argparse.Namespace
    up_at: float

    def do_GET(self) -> None:
        if time.monotonic() < self.up_at:
            self.answer(503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}})
        elif self.said.sick_file and Path(self.said.sick_file).exists():
            self.answer(500, {"error": {"message": "sick"}})
        elif self.path == "/health":
            self.answer(200, {"status": "ok"})
        elif self.path == "/v1/models":
            name = self.said.serve_name or self.said.alias
            self.answer(200, {"object": "list", "data": [{"id": name, "object": "model", "created": 1}]})
        elif self.path == "/props":
            self.answer(200, {"default_generation_settings": {"n_ctx": 512}, "total_slots": 2})
        else:
            self.answer(404, {"error": {"message": "no such path"}})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.said.poison and self.said.poison in json.dumps(asked):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.said.stall:
            threading.Event().wait()
        time.sleep(self.said.think)
        until = time.monotonic() + self.said.burn
        while time.monotonic() < until:
            pass
        if asked.get("stream"):
            self.stream()
        else:
            message = {"role": "assistant", "content": "Hi"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.answer(200, {"object": "chat.completion", "model": self.said.alias, "choices": [choice]})

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for number in range(self.said.pieces):
            write_to_log(self.said.chatty)
            last = number == self.said.pieces - 1
            choice = {"index": 0, "delta": {"content": f"{number} "}, "finish_reason": "stop" if last else None}
            self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
            time.sleep(self.said.pause)
        self.wfile.write(b"data: [DONE]\n\n")

    def answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Say nothing."""


def write_to_log(size: int) -> None:
    """Write so many bytes, in lines, as fast as the log takes them."""
    block = (b"x" * 127 + b"\n") * 8192
    for begin in range(0, size, len(block)):
        os.write(1, block[: size - begin])


def main() -> None:
    said = options()
    if said.say:
        sys.stdout.write(f"{said.say}\n")
        sys.stdout.flush()
    if said.exit is not None:
        sys.exit(said.exit)
    if said.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if said.child:
        start_child(said.child)
    if said.die_after is not None:
        threading.Timer(said.die_after, lambda: os._exit(3)).start()
    if said.mute:
        threading.Event().wait()
    Handler.said, Handler.up_at = said, time.monotonic() + said.load
    server = (HTTPServer if said.single else Server)((said.host, said.port), Handler)
    if said.flood:
        threading.Thread(target=write_to_log, args=(said.flood,), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
