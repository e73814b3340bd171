"""The flags and environment variables that say which server the command calls, how, and as whom.

A flag counts more than its variable, and an empty variable is none. Not here: subcommands (command.py).
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

from service.client import Client
from service.client.address import check
from service.client.tls import Tls

TRUE, FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
NO_FLAGS = Tls("", "", "", "")


def add_connection_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that come before the subcommand."""
    parser.add_argument(
        "--url",
        default=os.environ.get("CNN_URL") or "127.0.0.1:8001",
        metavar="HOST:PORT",
        help="address of the gRPC services (%(default)s; CNN_URL)",
    )
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS", help="seconds that a call may take (%(default)s)"
    )
    tokens = parser.add_mutually_exclusive_group()
    tokens.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with the bearer token, if the server requires one (CNN_TOKEN_FILE)",
    )
    tokens.add_argument(
        "--token", help="the bearer token itself, which other users of this machine can then see (CNN_TOKEN)"
    )
    tls = parser.add_argument_group("TLS", "Each of these flags turns it on. Files are PEM.")
    tls.add_argument("--tls", action="store_true", help="encrypt, and trust the system's authorities (CNN_TLS=1)")
    for name, metavar, help in (
        ("ca", "FILE", "trust these authorities, or the server's own certificate, and no others"),
        ("certificate", "FILE", "this client's certificate, if the server asks for one (mTLS)"),
        ("key", "FILE", "the key of that certificate"),
        ("server-name", "NAME", "the name in the server's certificate, if it is not the host of --url"),
    ):
        variable = f"CNN_TLS_{name.upper().replace('-', '_')}"
        tls.add_argument(
            f"--tls-{name}", default=os.environ.get(variable, ""), metavar=metavar, help=f"{help} ({variable})"
        )


def connect(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Client:
    """The client for these arguments; its warnings are printed. Wrong usage ends the process with status 2.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file has not what it should.
    """
    tls = _tls(parser, arguments)
    try:
        check(arguments.url)
    except ValueError as error:
        parser.error(f"--url: {error}")
    token = _token(parser, arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = Client(arguments.url, timeout=arguments.timeout, token=token, tls=tls)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return client


def _tls(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Tls | None:
    tls = Tls(arguments.tls_ca, arguments.tls_certificate, arguments.tls_key, arguments.tls_server_name)
    if bool(tls.certificate) != bool(tls.key):
        parser.error("--tls-certificate and --tls-key go together")
    wanted = os.environ.get("CNN_TLS", "").lower()
    if wanted not in TRUE + FALSE:
        parser.error(f"CNN_TLS: expected 1 or 0, got {wanted!r}")
    return tls if arguments.tls or wanted in TRUE or tls != NO_FLAGS else None


def _token(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    """The token of the flags or, without one, of the environment; empty if there is none."""
    token, file = arguments.token, arguments.token_file
    if token is None and file is None:
        token, file = os.environ.get("CNN_TOKEN"), os.environ.get("CNN_TOKEN_FILE")
        if token and file:
            parser.error("CNN_TOKEN and CNN_TOKEN_FILE: set one of them")
    if not file:
        return token or ""
    found = Path(file).read_text("utf-8", "replace").strip()
    if not found:
        raise ValueError(f"{file}: no token")
    return found
