"""A server of the test's own that speaks as much of the OpenAI format as is needed, and fails."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Reply = Callable[["Call"], None]


class Call(BaseHTTPRequestHandler):
    """One request, with the means to answer it well or badly."""

    server: "Service"
    protocol_version = "HTTP/1.1"
    body: dict[str, Any]
    number: int

    def do_GET(self) -> None:
        self.server.authorizations.append(self.headers.get("Authorization"))
        if self.server.status_of_models != 200:
            self.send_json({"error": {"message": "no"}}, status=self.server.status_of_models)
            return
        self.send_json({"data": [{"id": "m", "owned_by": "tests", "max_model_len": 512}]})

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.enter(self)
        try:
            self.server.reply(self)
        finally:
            self.server.leave()

    def log_message(self, *_: Any) -> None:
        return

    @property
    def question(self) -> str:
        return str(self.body["messages"][-1]["content"])

    def send_json(
        self, body: Any, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_text(json.dumps(body), status=status, headers=headers)

    def send_text(
        self, text: str, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_parts(self, parts: list[dict[str, Any] | str], *, end: bool = True) -> None:
        """Send server-sent events, and break off without the end if it is not wanted."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for part in parts:
            data = part if isinstance(part, str) else json.dumps(part)
            self.wfile.write(f"data: {data}\n\n".encode())
            self.wfile.flush()
        if end:
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def answer(self, text: str) -> None:
        """Answer well, in parts if that was asked for."""
        usage = {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 2},
        }
        about = {"id": f"req-{self.server.count}", "model": "m-2026", "system_fingerprint": "fp"}
        if not self.body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.send_json({**about, "choices": [choice], "usage": usage})
            return
        middle = len(text) // 2
        self.send_parts(
            [
                {**about, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
                {**about, "choices": [{"index": 0, "delta": {"content": text[:middle]}}]},
                {**about, "choices": [{"index": 0, "delta": {"content": text[middle:]}}]},
                {**about, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {**about, "choices": [], "usage": usage},
            ]
        )


class Service(ThreadingHTTPServer):
    """Counts what it is asked; `reply` decides what it does."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Call)
        self.reply: Reply = lambda call: call.answer(f"{call.question}!")
        self.status_of_models = 200
        self.count = 0
        self.most_open = 0
        self.authorizations: list[str | None] = []
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self._open = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def enter(self, call: Call) -> None:
        with self._lock:
            self.count += 1
            call.number = self.count
            self._open += 1
            self.most_open = max(self.most_open, self._open)
            self.bodies.append(call.body)
            self.times.append(time.monotonic())
            self.authorizations.append(call.headers.get("Authorization"))

    def leave(self) -> None:
        with self._lock:
            self._open -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away: tests send them away."""


@pytest.fixture
def service() -> Iterator[Service]:
    """A server that answers `<question>!` until a test says otherwise."""
    server = Service()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
