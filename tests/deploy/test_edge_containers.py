"""The published port in real containers: TLS, tokens, changes under load, and who reaches what."""

import json
import ssl
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.soaks.load import ConstantLoad, once_ready
from tests.support.certificates import Authority, tls_folder
from tests.support.containers import Stack, call, docker, healthy, inspect, readable_copy, refusal
from tests.support.edge import change_livez
from tests.support.paths import ROOT
from tests.support.tokens import CALLER, token_line

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

OPEN = "0.0.0.0"  # noqa: S104
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


@pytest.fixture(scope="module")
def stack(images: dict[str, str], repository: Path) -> Iterator[Stack]:
    """A running service and its edge."""
    stack = Stack(repository, **images)
    try:
        stack.up("service", "edge")
        yield stack
    finally:
        stack.down()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority of the edge's certificate and of the clients' certificates."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def tls(tmp_path: Path, authority: Authority) -> Path:
    """A folder with a certificate for localhost, its key, and the authority of the clients' certificates."""
    return tls_folder(tmp_path / "tls", authority, clients=authority)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder that the user of the containers can read."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def trusting(authority: Authority, client: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
    """Credentials of a client that trusts the authority and shows this certificate, of which it has the key."""
    chain, key = (path.read_bytes() for path in client) if client else (None, None)
    return grpc.ssl_channel_credentials(authority.ca.read_bytes(), key, chain)


def served_certificate(stack: Stack) -> str:
    return ssl.get_server_certificate(("127.0.0.1", stack.ports["GRPC_PORT"]))


# --- who reaches what --------------------------------------------------------------------------------------------


def test_only_the_edge_and_prometheus_reach_the_service(stack: Stack, images: dict[str, str]) -> None:
    (service,), (edge,) = stack.containers(), stack.containers("edge")
    assert not any(inspect(service)["NetworkSettings"]["Ports"].values())
    networks = inspect(edge)["NetworkSettings"]["Networks"]
    reachable = networks[f"{stack.name}_default"]["IPAddress"]
    code = (
        "import socket, sys\n"
        "for host, port in (address.split(':') for address in sys.argv[1:]):\n"
        "    try: socket.create_connection((host, int(port)), 2).close(); print('reached')\n"
        "    except OSError: print('not reached')\n"
    )
    hidden = [f"service:{port}" for port in (8001, 8002)] + [
        f"{stack.address_of(service)}:{port}" for port in (8001, 8002)
    ]
    command = ("run", "--rm", "--network", f"{stack.name}_default", "--entrypoint", "python", images["SERVICE_IMAGE"])
    answers = docker(*command, "-c", code, f"{reachable}:8001", *hidden).splitlines()
    assert answers == ["reached", *["not reached"] * 4]
    # Nor does the service reach out: its one network has no route.
    assert docker("exec", service, "python", "-c", code, f"{reachable}:8001") == "not reached"


def test_an_open_address_without_tls_is_refused_unless_that_is_wanted_and_then_a_warning(
    stack: Stack, tls: Path
) -> None:
    with pytest.raises(AssertionError):
        stack.up("edge", GRPC_BIND=OPEN)
    assert "error: published on" in stack.log("edge")
    stack.up("edge", GRPC_BIND=OPEN, GRPC_INSECURE="1")
    warnings = [line for line in stack.log("edge").splitlines() if '"level": "warning"' in line]
    assert len(warnings) == 2 and "TOKENS_FOLDER" in warnings[0] and "without TLS" in warnings[1]
    stack.up("edge", GRPC_BIND=OPEN, TLS_FOLDER=str(tls), TOKENS_FOLDER=str(tls))
    assert '"level": "warning"' not in stack.log("edge")


# --- changes under load ------------------------------------------------------------------------------------------


def test_a_changed_configuration_of_the_edge_is_taken_under_load_without_a_failed_call(
    stack: Stack, tmp_path: Path
) -> None:
    folder = readable_copy(ROOT / "deploy/edge", tmp_path / "edge")
    stack.up("service", "edge", EDGE_FOLDER=str(folder))
    call(stack.address, wait=True)
    with ConstantLoad(stack.address, 4, rate=50) as load:
        change_livez(folder)
        stack.compose("kill", "-s", "HUP", "edge")
        once_ready(lambda: livez(stack.address) == b"changed\n", "the changed configuration answers")
        time.sleep(6)  # Envoy closes the connections of the old one after 5 s
    assert load.outcome.failed == 0, load.outcome.texts
    assert load.outcome.count() > 300


def livez(address: str) -> bytes:
    with urllib.request.urlopen(f"http://{address}/livez", timeout=5) as answer:
        body: bytes = answer.read()
        return body


def test_a_changed_certificate_is_served_under_load_without_a_failed_call(
    stack: Stack, tls: Path, authority: Authority, tmp_path: Path
) -> None:
    stack.up("edge", TLS_FOLDER=str(tls))
    first, credentials = served_certificate(stack), trusting(authority)
    call(stack.address, credentials=credentials, wait=True)
    with pytest.raises(grpc.RpcError):
        call(stack.address)  # without TLS
    with ConstantLoad(stack.address, 4, rate=50, credentials=credentials) as load:
        time.sleep(1)
        for path in sorted(tls_folder(tmp_path / "renewed", authority).iterdir()):  # another key, another certificate
            path.rename(tls / path.name)
        once_ready(lambda: served_certificate(stack) != first, "new connections get the new certificate", limit=15)
        time.sleep(1)
    assert load.outcome.failed == 0, load.outcome.texts
    assert load.outcome.count() > 300
    call(stack.address, credentials=credentials)


def test_with_client_certificates_required_a_client_without_one_is_refused(
    stack: Stack, tls: Path, authority: Authority, tmp_path: Path
) -> None:
    stack.up("edge", TLS_FOLDER=str(tls), CLIENT_CERTIFICATES="required")
    call(stack.address, credentials=trusting(authority, authority.issue("client")), wait=True)
    strangers = Authority(tmp_path / "strangers").issue("stranger")
    for credentials in (trusting(authority), trusting(authority, strangers)):
        assert refusal(stack.address, credentials=credentials) is grpc.StatusCode.UNAVAILABLE


# --- what is set wrong never opens the port ----------------------------------------------------------------------


def test_a_folder_that_does_not_exist_is_an_error_of_up(stack: Stack, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    for variable, service in (("TLS_FOLDER", "edge"), ("TOKENS_FOLDER", "service")):
        done = stack.try_compose("up", "-d", "--no-deps", service, **{variable: missing})
        assert done.returncode != 0 and missing in done.stderr and not Path(missing).exists()


def test_tls_files_that_are_missing_or_cannot_be_read_leave_the_port_closed_and_are_named(
    stack: Stack, tls: Path, folder: Path
) -> None:
    said = stack.fails_to_start("edge", TLS_FOLDER=str(folder))
    assert "error: TLS: /run/tls/tls.crt cannot be read by user 10001: No such file or directory" in said
    (tls / "tls.key").chmod(0o600)  # its owner is root
    said = stack.fails_to_start("edge", TLS_FOLDER=str(tls))
    assert "error: TLS: /run/tls/tls.key cannot be read by user 10001: Permission denied" in said
    said = stack.fails_to_start("edge", CLIENT_CERTIFICATES="required")
    assert "error: EDGE_CLIENT_CERTIFICATES needs TLS" in said
    assert refusal(stack.address) is grpc.StatusCode.UNAVAILABLE


def test_with_tokens_a_call_without_one_is_refused(stack: Stack, folder: Path) -> None:
    (folder / "tokens").write_text(token_line(CALLER, "infer"))
    stack.up("service", "edge", TOKENS_FOLDER=str(folder))
    assert call(stack.address, token=CALLER, wait=True).outputs
    assert refusal(stack.address) is grpc.StatusCode.UNAUTHENTICATED
    assert refusal(stack.address, token="wrong") is grpc.StatusCode.UNAUTHENTICATED  # noqa: S106
    (edge,) = stack.containers("edge")
    assert "/run/tokens" not in {mount["Destination"] for mount in inspect(edge)["Mounts"]}


def test_a_tokens_folder_without_the_file_leaves_the_service_closed_and_is_named(stack: Stack, folder: Path) -> None:
    said = stack.fails_to_start("service", TOKENS_FOLDER=str(folder))
    assert "/run/tokens/tokens" in said and "No such file" in said
    assert refusal(stack.address) is grpc.StatusCode.UNAVAILABLE


def test_a_stack_without_a_model_says_what_to_do(stack: Stack, folder: Path) -> None:
    said = stack.fails_to_start("service", MODELS=str(folder))
    assert "docker compose run --rm training" in said


# --- a proxy, last, because Compose does not start containers anew for its absence --------------------------------


def test_a_proxy_in_the_docker_clients_configuration_changes_nothing(stack: Stack, tmp_path: Path) -> None:
    proxy = "http://127.0.0.1:9"  # where nothing listens
    (tmp_path / "config.json").write_text(
        json.dumps({"proxies": {"default": {"httpProxy": proxy, "httpsProxy": proxy}}})
    )
    plugins = Path.home() / ".docker/cli-plugins"
    if plugins.exists():
        (tmp_path / "cli-plugins").symlink_to(plugins)
    through = dict.fromkeys(PROXIES, proxy)
    stack.up("--force-recreate", "service", "edge", "prometheus", DOCKER_CONFIG=str(tmp_path), **through)
    for name in ("service", "edge", "prometheus"):
        (container,) = stack.containers(name)
        assert f"http_proxy={proxy}" in inspect(container)["Config"]["Env"] and healthy(container)
    call(stack.address, wait=True)
