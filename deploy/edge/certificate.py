"""The certificate, the key and the clients' authorities: files in, Envoy's secrets out.

Owns checking them, noticing that they changed, and handing them over. Not here: when that happens (process.py).
"""

from __future__ import annotations

import json
import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from .errors import WrongSetting
from .files import replace


class Certificate:
    """The files of the TLS folder: tls.crt, tls.key and, for mutual TLS, client-ca.crt."""

    def __init__(self, folder: Path, *, mutual: bool) -> None:
        self._files = [folder / name for name in ("tls.crt", "tls.key", *(["client-ca.crt"] if mutual else []))]
        self._seen: object = None

    def changed(self) -> bool:
        """Whether the files are others than at the last call; a link that points elsewhere is a change too."""
        seen = self._signature()
        changed, self._seen = seen != self._seen, seen
        return changed

    def write(self, output: Path) -> None:
        """Check the files and write Envoy's secrets into `output`. Raises WrongSetting, and then writes nothing."""
        certificate, key, *authorities = [self._read(path) for path in self._files]
        self._check(certificate, key, output)
        for authority in authorities:
            _check_authorities(self._files[2], authority)
        secret = {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}}
        _write_secret(output / "certificate.json", {"name": "certificate", "tls_certificate": secret})
        for authority in authorities:
            context = {"trusted_ca": {"inline_string": authority}}
            _write_secret(output / "client-ca.json", {"name": "client-ca", "validation_context": context})

    def _signature(self) -> object:
        try:
            stats = [path.stat() for path in self._files]
        except OSError as error:
            return str(error)
        return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]

    def _read(self, path: Path) -> str:
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no PEM file"
            raise WrongSetting(f"TLS: {path} cannot be read by user {os.getuid()}: {reason}") from error

    def _check(self, certificate: str, key: str, output: Path) -> None:
        with tempfile.TemporaryDirectory(dir=output) as folder:  # what was read, not what the files are by now
            copies = Path(folder) / "tls.crt", Path(folder) / "tls.key"
            for copy, text in zip(copies, (certificate, key), strict=True):
                replace(copy, text)
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(copies[0], copies[1], _no_password)
            except (ssl.SSLError, ValueError) as error:
                reason = "the key is not the certificate's" if "MISMATCH" in str(error) else str(error)
                raise WrongSetting(f"TLS: {self._files[0]} and {self._files[1]}: {reason}") from error


def _check_authorities(path: Path, text: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text.encode("ascii", "ignore").decode())
    except (ssl.SSLError, ValueError) as error:
        raise WrongSetting(f"TLS: {path}: expected certificates of authorities in PEM: {error}") from error


def _no_password() -> NoReturn:
    raise ValueError("the key has a passphrase, which nobody could type here")


def _write_secret(path: Path, secret: Mapping[str, object]) -> None:
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    replace(path, json.dumps({"resources": [{"@type": kind, **secret}]}))
