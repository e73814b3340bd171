"""The edge from start to stop: its certificate, changes while it serves, replicas that fail, how clients leave it."""

import json
import os
import signal
import ssl
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.certificates import LOCAL, Authority, tls_folder
from tests.support.edge import EdgeProcess, copy_of_edge, edge_process
from tests.support.local_service import LocalService, local_service
from tests.support.processes import free_port
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import wait_until

REQUEST = infer_request("double", x=np.ones((1, 4), np.float32))


@pytest.fixture
def service(toys: Path) -> Iterator[LocalService]:
    """The service behind the edge."""
    with local_service(toys, "native") as running:
        yield running.ready()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def open_channel(edge: EdgeProcess, authority: Authority | None = None, *client: bytes) -> grpc.Channel:
    """A connection of its own, over TLS with `authority`, with the client's key and certificate in `client`."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if authority is None:
        return grpc.insecure_channel(edge.address, options)
    credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes(), *client)
    return grpc.secure_channel(edge.address, credentials, options)


def infer(channel: grpc.Channel, timeout: float = 10.0) -> Any:
    """The answer to one call."""
    return GRPCInferenceServiceStub(channel).ModelInfer(REQUEST, timeout=timeout)


@contextmanager
def load(edge: EdgeProcess, authority: Authority | None = None, clients: int = 2) -> Iterator[Counter[str]]:
    """Call without pause and without retries; yields the number of calls by status, or by status and text."""
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def call() -> None:
        with open_channel(edge, authority) as channel:
            while not stop.is_set():
                try:
                    infer(channel)
                    outcomes["OK"] += 1
                except grpc.RpcError as error:
                    outcomes[f"{error.code().name}: {error.details()}"] += 1

    threads = [threading.Thread(target=call) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: outcomes["OK"] > 20, "calls are answered")
        yield outcomes
        answered = outcomes["OK"]
        wait_until(lambda: outcomes["OK"] > answered + 20, "calls are still answered")
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def events(edge: EdgeProcess) -> list[dict[str, Any]]:
    """The lines of the edge's own log."""
    return [json.loads(line) for line in edge.log.read_text().splitlines() if line.startswith('{"time": ')]


def has_event(edge: EdgeProcess, event: str) -> bool:
    return any(line["event"] == event for line in events(edge))


# --- the certificate ----------------------------------------------------------------------------------------------


def test_with_a_certificate_the_port_speaks_tls_only(
    service: LocalService, authority: Authority, tmp_path: Path
) -> None:
    folder = tls_folder(tmp_path / "tls", authority)
    with edge_process(service.address, tmp_path, tls_folder=str(folder)) as edge:
        assert edge.health() == "serving"
        with open_channel(edge, authority) as channel:
            assert outputs_of(infer(channel))["y"].tolist() == [[2.0] * 4]
        with open_channel(edge) as channel, pytest.raises(grpc.RpcError) as refused:
            infer(channel)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "Protocol  : TLSv1.2" in handshake(edge, "-tls1_2")
        assert "alert protocol version" in handshake(edge, "-tls1_1")


def handshake(edge: EdgeProcess, version: str) -> str:
    """What openssl says of a handshake with that version alone."""
    command = ["/usr/bin/openssl", "s_client", "-connect", f"127.0.0.1:{edge.port}", version]
    command += ["-cipher", "ALL:@SECLEVEL=0"]  # else openssl itself refuses old versions
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_mutual_tls_refuses_a_client_without_a_certificate_of_its_authority(
    service: LocalService, authority: Authority, tmp_path: Path
) -> None:
    clients = Authority(tmp_path / "clients")
    certificate, key = clients.issue("caller", *LOCAL)
    stranger, stranger_key = authority.issue("stranger", *LOCAL)
    settings = {"tls_folder": str(tls_folder(tmp_path / "tls", authority, clients=clients))}
    with edge_process(service.address, tmp_path, client_certificates="required", **settings) as edge:  # type: ignore[arg-type]
        assert edge.health() == "serving"
        with open_channel(edge, authority, key.read_bytes(), certificate.read_bytes()) as channel:
            assert infer(channel).model_name == "double"
        for shown in ((), (stranger_key.read_bytes(), stranger.read_bytes())):
            with open_channel(edge, authority, *shown) as channel, pytest.raises(grpc.RpcError) as refused:
                infer(channel, timeout=3)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_changed_certificate_is_served_without_a_lost_call_and_a_wrong_one_is_not(
    service: LocalService, authority: Authority, tmp_path: Path
) -> None:
    folder = tls_folder(tmp_path / "tls", authority)

    def served() -> str:
        return ssl.get_server_certificate(("127.0.0.1", edge.port)).strip()

    with edge_process(service.address, tmp_path, tls_folder=str(folder)) as edge, load(edge, authority) as outcomes:
        first = served()
        certificate, key = authority.issue("renewed", *LOCAL)
        (folder / "tls.crt").write_bytes(certificate.read_bytes())  # in place, and for a moment with the old key
        wait_until(lambda: has_event(edge, "change refused, keeping what was"), "the half change is refused")
        assert served() == first
        (folder / "tls.key").write_bytes(key.read_bytes())
        wait_until(lambda: served() == certificate.read_text().strip(), "the renewed certificate is served")
        (folder / "tls.key").write_text("no key")
        wait_until(lambda: events(edge)[-1]["event"] != "certificate reloaded", "the wrong key is refused")
        assert "tls.key" in events(edge)[-1]["reason"]
        assert served() == certificate.read_text().strip() and edge.health() == "serving"
    assert set(outcomes) == {"OK"}


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "tls.key").unlink(), "tls.key cannot be read by user"),
        (lambda folder: (folder / "tls.crt").write_text("no"), "tls.crt"),
        (lambda folder: (folder / "tls.key").write_bytes(b"\xff"), "it is no PEM file"),
        (lambda folder: folder.rename(folder.parent / "elsewhere"), "No such file or directory"),
        (lambda folder: (folder / "client-ca.crt").write_text("none"), "client-ca.crt: expected certificates"),
    ],
    ids=["no key", "no certificate", "no text", "no folder", "no authority"],
)
def test_a_certificate_that_cannot_be_used_is_one_line_and_no_edge(
    break_it: Any, words: str, authority: Authority, tmp_path: Path
) -> None:
    folder = tls_folder(tmp_path / "tls", authority, clients=authority)
    break_it(folder)
    settings = {"tls_folder": str(folder), "client_certificates": "required"}
    with edge_process("127.0.0.1:9", tmp_path, ready=False, **settings) as edge:  # type: ignore[arg-type]
        assert edge.process.wait(20) == 2
        assert edge.health() != "serving"
    (line,) = edge.log.read_text().splitlines()
    assert line.startswith("error: TLS: ") and words in line, line


def test_a_key_of_another_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    folder = tls_folder(tmp_path / "tls", authority)
    _, key = authority.issue("other", *LOCAL)
    (folder / "tls.key").write_bytes(key.read_bytes())
    with edge_process("127.0.0.1:9", tmp_path, ready=False, tls_folder=str(folder)) as edge:
        assert edge.process.wait(20) == 2
    assert "the key is not the certificate's" in edge.log.read_text()


# --- changes, and the end -----------------------------------------------------------------------------------------


def test_sighup_takes_a_changed_configuration_without_a_lost_call_and_refuses_a_wrong_one(
    service: LocalService, tmp_path: Path
) -> None:
    copy = copy_of_edge(tmp_path)
    listener = copy / "listener.yaml"
    right = listener.read_text()
    with edge_process(service.address, tmp_path, root=tmp_path) as edge, load(edge) as outcomes:
        listener.write_text(right.replace("max_headers_count: 64", "max_headers_count: many"))
        edge.process.send_signal(signal.SIGHUP)
        wait_until(lambda: has_event(edge, "change refused, keeping what was"), "the wrong configuration is refused")
        listener.write_text(right.replace('"live\\n"', '"changed\\n"'))
        edge.process.send_signal(signal.SIGHUP)
        wait_until(lambda: has_event(edge, "configuration reloaded"), "the right configuration is taken")
        wait_until(lambda: public_livez(edge) == b"changed\n", "the new configuration answers")
    assert set(outcomes) == {"OK"}


def public_livez(edge: EdgeProcess) -> bytes:
    with urllib.request.urlopen(f"http://{edge.address}/livez", timeout=5) as answer:
        body: bytes = answer.read()
        return body


def test_sigterm_moves_clients_to_another_edge_without_a_lost_call(service: LocalService, tmp_path: Path) -> None:
    """Clients that know both edges, as those of a name with two addresses do."""
    with ExitStack() as stack:
        edges = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            edges.append(stack.enter_context(edge_process(service.address, tmp_path / name, drain_seconds="10")))
        options = [("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]}))]
        target = "ipv4:" + ",".join(f"127.0.0.1:{edge.port}" for edge in edges)
        failures: list[grpc.RpcError] = []
        answered = 0
        with grpc.insecure_channel(target, options) as channel:
            for _ in range(50):
                infer(channel)
            edges[0].process.terminate()
            while edges[0].process.poll() is None:
                try:
                    infer(channel)
                    answered += 1
                except grpc.RpcError as error:
                    failures.append(error)
            for _ in range(50):
                infer(channel)
        assert edges[0].process.returncode == 0
        assert not failures and answered > 0
        assert [line["event"] for line in events(edges[0])][-2:] == ["draining", "stopped"]


def test_an_idle_edge_stops_at_once(service: LocalService, tmp_path: Path) -> None:
    with edge_process(service.address, tmp_path) as edge:
        began = time.monotonic()
        edge.process.terminate()
        assert edge.process.wait(20) == 0 and time.monotonic() - began < 5


def test_the_edge_exits_with_envoy(service: LocalService, tmp_path: Path) -> None:
    """So that the container is restarted; and nothing keeps running behind it."""
    with edge_process(service.address, tmp_path) as edge:
        children = Path(f"/proc/{edge.process.pid}/task/{edge.process.pid}/children").read_text().split()
        (envoy,) = [int(child) for child in children]
        os.kill(envoy, signal.SIGKILL)
        assert edge.process.wait(20) not in (0, None)
        assert has_event(edge, "Envoy exited")


@pytest.mark.parametrize("published_on", ["0.0.0.0", "192.0.2.1"])  # noqa: S104
def test_an_open_address_without_tokens_or_tls_is_a_warning_each(published_on: str, tmp_path: Path) -> None:
    with edge_process("127.0.0.1:9", tmp_path, ready=False, published_on=published_on, insecure="1") as edge:
        wait_until(lambda: has_event(edge, "started"), "the edge has started")
        warned = [line["event"] for line in events(edge) if line["level"] == "warning"]
    assert len(warned) == 2 and "without tokens" in warned[0] and "without TLS" in warned[1]


# --- replicas -----------------------------------------------------------------------------------------------------


@contextmanager
def edge_of(replicas: list[LocalService], folder: Path) -> Iterator[EdgeProcess]:
    """An edge before services on several ports of loopback, in place of a name with several addresses."""
    copy = copy_of_edge(folder)
    cluster = copy / "cluster.yaml"
    first = '{endpoint: {address: {socket_address: {address: "${UPSTREAM_HOST}", port_value: ${UPSTREAM_PORT}}}}}'
    text = cluster.read_text()
    assert first in text
    others = "".join(
        f", {{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}"
        for port in [replica.address.rpartition(":")[2] for replica in replicas[1:]]
    )
    cluster.write_text(text.replace(first, first + others))
    with edge_process(replicas[0].address, folder, root=folder) as edge:
        yield edge


def test_a_replica_that_stops_loses_no_call_of_clients_without_retries(toys: Path, tmp_path: Path) -> None:
    with local_service(toys, "native") as stays:
        leaves = LocalService(toys, "native").ready()
        with edge_of([leaves, stays], tmp_path) as edge, load(edge, clients=4) as outcomes:
            leaves.stop(lame_duck=2.0)
            time.sleep(1)
    assert set(outcomes) == {"OK"}, outcomes


def test_a_replica_that_is_gone_without_a_word_loses_no_call(toys: Path, tmp_path: Path) -> None:
    """Nobody listens at its address from one moment to the next; a call that was not answered is sent again."""
    with local_service(toys, "native") as stays:
        leaves = LocalService(toys, "native").ready()
        with edge_of([leaves, stays], tmp_path) as edge, load(edge, clients=4) as outcomes:
            leaves.server._grpc._native.close(0.0)  # type: ignore[union-attr]
            time.sleep(1)
            leaves.stop()
    assert set(outcomes) == {"OK"}, outcomes


def test_where_no_replica_is_healthy_one_that_still_answers_is_asked(toys: Path, tmp_path: Path) -> None:
    """In lame duck a service says NOT_SERVING, and serves on."""
    service = LocalService(toys, "native").ready()
    with edge_process(service.address, tmp_path) as edge, open_channel(edge) as channel:
        finish = service.begin_shut_down(lame_duck=6.0)
        wait_until(lambda: not edge.ready(), "the edge has seen NOT_SERVING")
        assert infer(channel).model_name == "double"
        finish()
        with pytest.raises(grpc.RpcError) as failed:
            infer(channel)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert edge.health() == "serving", "the edge itself is well"


def test_a_replica_that_comes_back_is_asked_again(toys: Path, tmp_path: Path) -> None:
    port = free_port()
    with edge_process(f"127.0.0.1:{port}", tmp_path, ready=False) as edge:
        wait_until(lambda: edge.health() == "serving", "the edge runs without replicas")
        assert not edge.ready()
        with local_service(toys, "native", grpc_port=port), open_channel(edge) as channel:
            wait_until(edge.ready, "the replica is found")
            assert infer(channel).model_name == "double"
