"""What to try when no connection comes about: gRPC's texts name neither TLS nor the proxy.

Client adds the hint to the error as a note (BaseException.add_note), so that tracebacks show it; the command prints it.
"""

from __future__ import annotations

import os

import grpc

from service.client.proxies import proxy_of
from service.client.tls import Tls

NOT_CONNECTED = "last error:"  # gRPC's texts about addresses that it could not connect to
# What a plain client, or one whose certificate is not accepted, sees of a failed handshake; it depends on the server.
CLOSED = ("Socket closed", "Connection reset", "Unwrap failed", "Broken pipe", "handshaker shutdown", "ALERT_")
OF_CERTIFICATES = {
    "Hostname Verification Check failed": "the server's certificate is for another name: call it by that name, or give "
    "the name (--tls-server-name, Tls(server_name=...))",
    "certificate has expired": "the server's certificate has expired",
    "certificate is not yet valid": "the server's certificate is not yet valid: compare the clocks",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is of an unknown authority: give that authority's "
    "certificate (--tls-ca, Tls(ca=...))",
    "WRONG_VERSION_NUMBER": "the server does not use TLS on this port: connect without --tls or Client's tls",
}


def hint_of(error: grpc.RpcError, url: str, tls: Tls | None) -> str:
    """What to try after the error, in one line; empty if it has nothing to do with the connection."""
    details = error.details() or ""
    if error.code() is not grpc.StatusCode.UNAVAILABLE or NOT_CONNECTED not in details:
        return ""
    for text, hint in OF_CERTIFICATES.items():
        if text in details:
            return hint
    if proxy := proxy_of(url, os.environ):
        return f"a proxy was asked ({proxy}): list the host in no_proxy to connect without it"
    if not any(text in details for text in CLOSED):
        return ""
    if tls is None:
        return "the server closed the connection: if it uses TLS, connect with --tls (Client(tls=Tls()))"
    if tls.certificate:
        return "the server closed the connection: it may not accept this client's certificate"
    return (
        "the server closed the connection: it may ask for a client's certificate (--tls-certificate and --tls-key, "
        "Tls(certificate=..., key=...))"
    )
