"""A server that takes memory on the GPU that CUDA shows it first, and lists that GPU's UUID as its only model.

It speaks to the driver's own library, so it needs no CUDA toolkit. Run: ``python cuda_server.py HOST PORT BYTES``.
"""

import ctypes
import json
import sys
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer


def take(size: int) -> str:
    """Allocate so many bytes on the first visible GPU; its UUID as NVML writes it."""
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    name = (ctypes.c_ubyte * 16)()
    check(cuda.cuInit(0))
    check(cuda.cuDeviceGet(ctypes.byref(device), 0))
    check(cuda.cuDeviceGetUuid(ctypes.byref(name), device))
    check(cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device))
    check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(size)))
    return f"GPU-{uuid.UUID(bytes=bytes(name))}"


def check(result: int) -> None:
    if result:
        sys.exit(f"CUDA fails with {result}")


class Handler(BaseHTTPRequestHandler):
    """Answers every path with the list of models."""

    gpu = ""

    def do_GET(self) -> None:
        body = json.dumps({"object": "list", "data": [{"id": self.gpu, "object": "model", "created": 1}]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(host: str, port: str, size: str) -> None:
    Handler.gpu = take(int(size))
    HTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
