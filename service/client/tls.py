"""How a client encrypts: `Tls`, its files, and the credentials that gRPC makes of them.

Not here: the server's side (service/transport), tokens.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

# Where systems keep the authorities that they trust, if Python's ssl module does not know: Debian, Fedora, macOS.
ROOT_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


@dataclass(frozen=True)
class Tls:
    """Encrypt, and check the server's certificate. All files are PEM, and are read when the client is made.

    `ca` has the authorities to trust, or the server's own certificate; without it, the system's are trusted.
    `certificate` and `key` identify the client to a server that asks for it (mTLS). `server_name` is the name in the
    server's certificate, if it is not the host of the address.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """Read and check the files.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file is no PEM, the key does not match, or one of certificate and key is missing.
        """
        if bool(self.certificate) != bool(self.key):
            given, missing = ("certificate", "key") if self.certificate else ("key", "certificate")
            raise ValueError(f"TLS: a client's {given} needs its {missing}")
        roots = _authorities(Path(self.ca)) if self.ca else _system_roots()
        if not self.certificate or not self.key:
            return grpc.ssl_channel_credentials(roots)
        certificate, key = Path(self.certificate), Path(self.key)
        _check_pair(certificate, key)
        return grpc.ssl_channel_credentials(roots, key.read_bytes(), certificate.read_bytes())

    def options(self) -> list[tuple[str, str]]:
        """The options of the channel. The name is also the one that the server is asked for (SNI, :authority)."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


def _authorities(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise ValueError(f"{path}: no certificates in PEM") from error
    return data


def _check_pair(certificate: Path, key: Path) -> None:
    """Raise OSError or ValueError unless both are PEM and belong together: gRPC does not say what is wrong."""
    for path, kind in (certificate, "CERTIFICATE"), (key, "PRIVATE KEY"):
        if f"{kind}-----".encode() not in path.read_bytes():
            raise ValueError(f"{path}: no {kind.lower()} in PEM")
    if b"ENCRYPTED" in key.read_bytes():
        raise ValueError(f"{key}: encrypted with a password; gRPC needs it without one")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        wrong = "not the key of" if error.reason == "KEY_VALUES_MISMATCH" else "damaged, or so is"
        raise ValueError(f"{key}: {wrong} {certificate}") from error


def _system_roots() -> bytes | None:
    """The authorities that this system trusts; None, for gRPC's own list, where no file of them is found or wanted.

    gRPC for Python reads no system's file: it would not trust what an administrator added.
    """
    if os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        return None
    known = ssl.get_default_verify_paths().cafile
    return next((Path(name).read_bytes() for name in (known, *ROOT_FILES) if name and Path(name).exists()), None)
