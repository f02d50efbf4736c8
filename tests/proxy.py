"""A proxy in front of a real S3 server that makes what goes wrong in networks go wrong, on demand."""

import http.client
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Fault = str
"""``drop`` (no answer), ``hang``, ``short`` (half of the answer), ``slow`` (ten bytes at a time), or a status and a
code of S3, as ``503 SlowDown``."""
Plan = Callable[[str, str], Fault]
"""From method and path to the fault of this request, "" for none."""


class Proxy:
    """Hands requests on to ``upstream``, except for those that :attr:`plan` has other ideas for."""

    def __init__(self, upstream: str):
        self.upstream = urlsplit(upstream)
        self.plan: Plan = lambda method, path: ""
        self.seen: list[tuple[str, str, Fault]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                with suppress(ConnectionError):
                    outer.answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fail(self, times: int, fault: Fault, method: str = "GET", name: str = "") -> None:
        """The next requests of a method for a path that holds ``name`` go wrong."""
        left = [times]

        def plan(asked: str, path: str) -> Fault:
            if asked != method or name not in path or not left[0]:
                return ""
            left[0] -= 1
            return fault

        self.plan = plan

    @property
    def faults(self) -> int:
        return sum(bool(fault) for _, _, fault in self.seen)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        fault = self.plan(request.command, request.path)
        self.seen.append((request.command, request.path, fault))
        if fault in ("drop", "hang"):
            time.sleep(30 if fault == "hang" else 0)
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
        elif fault and fault[0].isdigit():
            status, code = fault.split()
            content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as planned</Message></Error>".encode()
            self.send(request, int(status), {"Content-Type": "application/xml"}, content, "")
        else:
            assert self.upstream.hostname
            store = http.client.HTTPConnection(self.upstream.hostname, self.upstream.port, timeout=60)
            store.request(request.command, request.path, body, dict(request.headers.items()))
            found = store.getresponse()
            self.send(request, found.status, dict(found.getheaders()), found.read(), fault)
            store.close()

    def send(
        self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes, fault: Fault
    ) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                request.send_header(name, value)
        length = headers.get("Content-Length", "0") if request.command == "HEAD" else str(len(content))
        request.send_header("Content-Length", length)
        request.end_headers()
        if fault == "short":
            request.wfile.write(content[: len(content) // 2])
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "slow":
            for start in range(0, len(content), 10):
                request.wfile.write(content[start : start + 10])
                time.sleep(0.02)
        elif request.command != "HEAD":
            request.wfile.write(content)
