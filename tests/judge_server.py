"""A judge behind a real HTTP server on the loopback, which misbehaves as it is told."""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Told a request's JSON and how often the same one came before, says what to do: see `Script` functions below.
Behaviour = dict
Script = Callable[[dict, int], Behaviour]


def said(text, finish="stop", **message):
    """A complete answer of status 200."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge-2026", "choices": [choice]}
    return {"status": 200, "body": json.dumps(body)}


def failed(status, message="no", headers=None, **fields):
    """An answer of an error status."""
    body = json.dumps({"error": {"message": message, "type": "error", **fields}})
    return {"status": status, "body": body, "headers": headers or {}}


class JudgeServer:
    """The server: `script` says what it does. `paid` counts complete answers of status 200 by what was asked."""

    def __init__(self, script: Script):
        self.script = script
        self.seen: list[dict] = []
        self.headers: list[dict] = []
        self.times: list[float] = []
        self.paid: Counter = Counter()
        self._counts: Counter = Counter()
        self._lock = threading.Lock()
        self._open = threading.Event()
        handler = _handler(self)
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._open.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def decide(self, request: dict, headers: dict) -> tuple[str, Behaviour]:
        words = json.dumps(request["messages"])
        with self._lock:
            before = self._counts[words]
            self._counts[words] += 1
            self.seen.append(request)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            self.times.append(time.monotonic())
            return words, self.script(request, before)

    def hang(self) -> None:
        """Wait until the test is over."""
        self._open.wait(60)


def user_text(request):
    """What the user says in a request."""
    return request["messages"][-1]["content"]


def has_schema(request):
    return "response_format" in request


@contextmanager
def serving(script):
    with JudgeServer(script).running() as server:
        yield server


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Say nothing of clients that went away, for instance because they were killed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _handler(server: JudgeServer):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            words, what = server.decide(request, dict(self.headers))
            if what.get("hang"):
                server.hang()
                self.close_connection = True
                return
            time.sleep(what.get("delay", 0))
            body = what["body"].encode()
            self.send_response(what["status"])
            for name, value in {"Content-Type": "application/json", **what.get("headers", {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
                self.wfile.flush()
            except OSError:
                return
            if what["status"] == 200:
                with server._lock:
                    server.paid[words] += 1

        def log_message(self, *_):
            pass

    return Handler
