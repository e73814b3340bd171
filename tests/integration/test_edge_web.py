"""Browsers at the edge: gRPC-Web by hand and in a page, and CORS, which says whose pages may call."""

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import grpc
import pytest

from service.pb import inference_pb2 as pb
from tests.support.behind_edge import BehindEdge, behind_edge
from tests.support.grpc_web import web_call
from tests.support.http import Answer, ask
from tests.support.paths import ROOT
from tests.support.tokens import CALLER, token_line

METADATA = "/inference.GRPCInferenceService/ModelMetadata"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
ALLOWED, OTHER = "https://shop.example.com", "https://shop.example.com.evil.example"
FORMS = [(text, http2) for text in (False, True) for http2 in (False, True)]
OK = grpc.StatusCode.OK


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, published: Path) -> Iterator[BehindEdge]:
    """A service with tokens and the published model, behind an edge that pages of two origins may call."""
    folder = tmp_path_factory.mktemp("edge")
    shutil.copytree(published / "mnist-simplecnn", folder / "models" / "mnist-simplecnn")
    (folder / "tokens").write_text(token_line(CALLER, "infer"))
    origins = {"allowed_origins": rf"{re.escape(ALLOWED)}|http://localhost:\d+"}
    with behind_edge(folder, edge=origins, tokens_file=folder / "tokens") as both:
        yield both


def request(name: str) -> bytes:
    return pb.ModelMetadataRequest(name=name).SerializeToString()


TOKEN = {"authorization": f"Bearer {CALLER}"}


@pytest.mark.parametrize(("text", "http2"), FORMS)
def test_a_call_over_grpc_web_is_answered(behind: BehindEdge, text: bool, http2: bool) -> None:
    answer = web_call(behind.address, METADATA, request("double"), text=text, http2=http2, headers=TOKEN)
    assert (answer.http.status, answer.code) == (200, OK)
    assert answer.http.headers["content-type"].startswith("application/grpc-web" + ("-text" if text else ""))
    (message,) = answer.messages
    assert pb.ModelMetadataResponse.FromString(message).name == "double"


@pytest.mark.parametrize(("text", "http2"), FORMS)
def test_an_error_over_grpc_web_has_its_status_and_text(behind: BehindEdge, text: bool, http2: bool) -> None:
    call = partial(web_call, behind.address, text=text, http2=http2)
    unknown = call(METADATA, request("nobody"), headers=TOKEN)
    assert unknown.code is grpc.StatusCode.NOT_FOUND and "nobody" in unknown.text and not unknown.messages
    assert call(METADATA, request("double")).code is grpc.StatusCode.UNAUTHENTICATED
    other = call("/nothing.v1.Nothing/Nothing", b"", headers=TOKEN)
    assert (other.http.status, other.code) == (200, grpc.StatusCode.UNIMPLEMENTED)


def test_a_stream_of_answers_comes_as_messages(behind: BehindEdge) -> None:
    infer = pb.ModelInferRequest(model_name="nobody").SerializeToString()
    answer = web_call(behind.address, STREAM, infer, headers=TOKEN)
    assert answer.code is OK
    (message,) = answer.messages
    assert "nobody" in pb.ModelStreamInferResponse.FromString(message).error_message


def preflight(behind: BehindEdge, origin: str) -> Answer:
    """What a browser asks before it sends a page's call."""
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-grpc-web"}
    return ask(behind.address, "OPTIONS", METADATA, headers={"origin": origin, **asked})


def test_a_page_of_an_allowed_origin_may_call_and_read_the_status(behind: BehindEdge) -> None:
    asked = preflight(behind, ALLOWED)
    assert asked.status == 200 and asked.headers["access-control-allow-origin"] == ALLOWED
    allowed = asked.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "content-type", "grpc-timeout", "x-grpc-web", "x-user-agent"} <= set(allowed)
    assert "POST" in asked.headers["access-control-allow-methods"]
    for token in (TOKEN, {}):  # an error too
        answer = web_call(behind.address, METADATA, request("double"), headers={"origin": ALLOWED, **token}).http
        assert answer.headers["access-control-allow-origin"] == ALLOWED
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"grpc-status", "grpc-message", "grpc-status-details-bin"} <= set(exposed)


def test_a_page_may_also_send_json(behind: BehindEdge) -> None:
    for path, status in ((METADATA, 200), ("/v2", 404)):
        headers = {"origin": ALLOWED, "content-type": "application/json", **TOKEN}
        answer = ask(behind.address, "POST", path, b'{"name": "double"}', headers)
        assert answer.status == status and answer.headers["access-control-allow-origin"] == ALLOWED, path


@pytest.mark.parametrize("origin", [OTHER, "http://shop.example.com", "null", "http://localhost.evil.example:80"])
def test_a_page_of_another_origin_may_not(behind: BehindEdge, origin: str) -> None:
    answer = web_call(behind.address, METADATA, request("double"), headers={"origin": origin, **TOKEN})
    for headers in (preflight(behind, origin).headers, answer.http.headers):
        assert not [name for name in headers if name.startswith("access-control")]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def web_server(folder: Path) -> Iterator[int]:
    """The port of a server of the files below the folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
@pytest.mark.parametrize(
    ("host", "token", "line"),
    [
        ("localhost", CALLER, r"7 \d\d\.\d%"),
        ("localhost", "wrong", "Error: status 16: .*token.*"),
        ("127.0.0.1", CALLER, "TypeError: Failed to fetch"),  # not an allowed origin
    ],
    ids=["a picture of a seven", "a wrong token", "another origin"],
)
def test_a_page_in_a_browser_classifies_a_picture(
    behind: BehindEdge, tmp_path: Path, host: str, token: str, line: str
) -> None:
    with web_server(ROOT / "tests") as port:
        asked = {"edge": f"http://{behind.address}", "model": "mnist-simplecnn", "token": token}
        query = urlencode(asked | {"picture": "../pictures/clean-7.png"})
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        flags += ["--virtual-time-budget=20000", "--dump-dom"]
        command = [str(BROWSER), *flags, f"http://{host}:{port}/outside/grpc_web.html?{query}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (shown,) = re.findall("<output>(.*)</output>", done.stdout)
    assert re.fullmatch(line, shown), done.stderr
