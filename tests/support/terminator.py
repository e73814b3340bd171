"""Envoy, which ends TLS in front of a service: a stand-in for any edge that clients call over TLS."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.http import get
from tests.support.waiting import wait_until

ENVOY = Path(sys.executable).parent / "envoy"
TYPES = "type.googleapis.com/envoy.extensions"


@contextmanager
def terminator(folder: Path, upstream: str, pair: tuple[Path, Path], client_ca: Path | None = None) -> Iterator[str]:
    """Run Envoy on a free loopback port until the end; yields its address.

    Its files are in the folder. `pair` is the certificate with its key. With `client_ca`, clients must have a
    certificate of that authority.
    """
    admin = folder / "admin-address"
    admin.unlink(missing_ok=True)
    configuration = json.dumps(_bootstrap(upstream, _tls(pair, client_ca)))
    command = [str(ENVOY), "--config-yaml", configuration, "--admin-address-path", str(admin)]
    command += ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"]
    with (folder / "envoy.log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            yield _address(process, admin)
        finally:
            process.kill()


def _address(process: subprocess.Popen[bytes], admin: Path) -> str:
    """The address that Envoy listens on, once it does."""
    wait_until(lambda: process.poll() is not None or bool(admin.exists() and admin.read_text()), "Envoy started")
    assert process.poll() is None, "Envoy ended"
    url = f"http://{admin.read_text().strip()}/listeners?format=json"
    wait_until(lambda: get(url)[0] == 200 and "listener_statuses" in get(url)[1], "Envoy listens")
    (listener,) = json.loads(get(url)[1])["listener_statuses"]
    return f"127.0.0.1:{listener['local_address']['socket_address']['port_value']}"


def _tls(pair: tuple[Path, Path], client_ca: Path | None) -> dict[str, Any]:
    files = {"certificate_chain": {"filename": str(pair[0])}, "private_key": {"filename": str(pair[1])}}
    common: dict[str, Any] = {"alpn_protocols": ["h2"], "tls_certificates": [files]}
    if client_ca:
        common["validation_context"] = {"trusted_ca": {"filename": str(client_ca)}}
    return {
        "@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": client_ca is not None,
        "common_tls_context": common,
    }


def _bootstrap(upstream: str, tls: dict[str, Any]) -> dict[str, Any]:
    """Envoy's configuration: one TLS listener whose calls all go to the upstream address over plain HTTP/2."""
    http = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "calls",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "service", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}],
    }
    http2 = {
        "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    host, _, port = upstream.rpartition(":")
    endpoint = {"endpoint": {"address": _socket(host, int(port))}}
    listener = {
        "name": "tls",
        "address": _socket("127.0.0.1", 0),
        "filter_chains": [
            {
                "transport_socket": {"name": "tls", "typed_config": tls},
                "filters": [{"name": "http", "typed_config": http}],
            }
        ],
    }
    cluster = {
        "name": "service",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "service", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {f"{TYPES[20:]}.upstreams.http.v3.HttpProtocolOptions": http2},
    }
    return {
        "admin": {"address": _socket("127.0.0.1", 0)},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }


def _socket(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
