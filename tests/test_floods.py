"""Requests that are too much or make no sense: the real server refuses them, and goes on."""

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest
from aiohttp import WSCloseCode
from server_process import ServerProcess, server_process

pytestmark = pytest.mark.timeout(120)  # a process starts, and megabytes are sent

TOO_MUCH = 101 * 2**20

TEXT, BINARY, CLOSE = 1, 2, 8


def frame(opcode: int, payload: bytes) -> bytes:
    """A frame as clients send it (RFC 6455, section 5.2), with a mask of zeros."""
    return struct.pack("!BBQ4x", 0x80 | opcode, 0x80 | 127, len(payload)) + payload


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_process(tmp_path_factory.mktemp("base")) as server:
        yield server


@pytest.fixture(autouse=True)
def still_answers(server: ServerProcess) -> Iterator[None]:
    """Whatever a test sent: the server takes a request afterwards, and runs nothing of it."""
    yield
    refused = {"1": {"class_type": "NoSuchNode", "inputs": {}}}
    status, answer = server.ask("POST", "/prompt", json.dumps({"prompt": refused}).encode())
    assert status == 400
    assert json.loads(answer)["error"]["type"] == "invalid_prompt"
    assert server.get("/queue") == {"queue_running": [], "queue_pending": []}
    assert "Traceback" not in server.log.read_text(), "no bad request is a fault of the server"


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"[" * 20_000_000, 413, "request_too_large"),
        (b'{"prompt":' + b'{"a":' * 1_000_000, 413, "request_too_large"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b'{"prompt":' + b"[" * 500 + b"]" * 500 + b"}", 400, "invalid_prompt"),
        (b'{"prompt":{"1":{"class_type":"KSampler","inputs":{"cfg":NaN}}}}', 400, "invalid_json"),
        (b'{"prompt":{"1":{"class_type":"KSampler","inputs":{"cfg":-Infinity}}}}', 400, None),
        (b'{"prompt":{"1":{"class_type":"KSampler","inputs":{"seed":1e999}}}}', 400, None),
        (b'{"number":' + b"9" * 1_000_000 + b"}", 400, "invalid_json"),
        (b'{"prompt":{' + b'"a":0,' * 2_000_000 + b'"b":0}}', 413, "request_too_large"),
        (b'"' + b"x" * 34_000_000 + b'"', 413, "request_too_large"),
        (b"\xff" * 1_000_000, 400, "invalid_json"),
        (b"\0" * 1_000_000, 400, "invalid_json"),
        (b'"\\ud800"', 400, "invalid_json"),
    ],
    ids=lambda value: f"{value[:12]!r}" if isinstance(value, bytes) else str(value),
)
def test_a_bad_body_is_refused_with_words(
    server: ServerProcess, body: bytes, status: int, kind: str | None
) -> None:
    answered, answer = server.ask("POST", "/prompt", body)
    assert answered == status
    error = json.loads(answer)["error"]
    assert error["message"]
    assert kind in (None, error["type"])


@pytest.mark.parametrize("path", ["/prompt", "/upload/image", "/userdata/x", "/settings"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["announced", "chunked"])
def test_100_megabytes_are_refused(server: ServerProcess, path: str, is_chunked: bool) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: {server.host}\r\nContent-Type: text/plain\r\n"
    head += "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {TOO_MUCH}"
    piece = b" " * 2**20
    if is_chunked:
        piece = b"100000\r\n" + piece + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode())
        try:
            for _ in range(TOO_MUCH // 2**20):
                connection.sendall(piece)
            if is_chunked:
                connection.sendall(b"0\r\n\r\n")
        except ConnectionError:
            pass  # it has stopped to listen
        try:
            answer = connection.recv(4096)
        except ConnectionError:
            return  # the answer was lost with the connection, as TCP has it
    assert answer == b"" or 400 <= int(answer.split()[1]) < 500, answer


LARGE = frame(TEXT, b"x" * 70_000)
GIANT = frame(BINARY, bytes(10_000_000))
DEEP = frame(TEXT, b"[" * 60_000)
FLAGS = frame(TEXT, b'{"type":"feature_flags","data":{}}')


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (LARGE, WSCloseCode.MESSAGE_TOO_BIG),
        (GIANT, WSCloseCode.MESSAGE_TOO_BIG),
        (FLAGS * 200, WSCloseCode.POLICY_VIOLATION),
        (FLAGS * 50_000, WSCloseCode.POLICY_VIOLATION),
        (DEEP * 1_000, WSCloseCode.POLICY_VIOLATION),
    ],
    ids=["large", "giant", "many", "very many", "many and deep"],
)
def test_a_websocket_that_says_too_much_is_closed(
    server: ServerProcess, said: bytes, code: int
) -> None:
    told = code_of_end(server, said)
    if told is None:  # TCP resets a connection where much is on its way, and last words are lost
        assert len(said) > 100_000
    else:
        assert told == code


def code_of_end(server: ServerProcess, said: bytes) -> int | None:
    """The code with which the server closes a websocket on which this is said, if it came."""
    head = f"GET /ws HTTP/1.1\r\nHost: {server.host}\r\nUpgrade: websocket\r\nConnection: upgrade"
    head += "\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        told = connection.makefile("rb")
        assert b" 101 " in told.readline()
        try:
            while told.readline().strip():
                pass
            with suppress(ConnectionError):  # it has stopped to listen; what did it say before?
                connection.sendall(said)
            while len(start := told.read(2)) == 2:
                opcode, length = start[0] & 0xF, start[1]
                if length == 126:
                    (length,) = struct.unpack("!H", told.read(2))
                payload = told.read(length)
                if opcode == CLOSE:
                    return struct.unpack("!H", payload[:2])[0]
        except ConnectionError:
            pass
    return None
