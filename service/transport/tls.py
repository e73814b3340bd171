"""TLS of the aio server and of the metrics port: the certificate, its key, and the CA of callers (mTLS).

Owns reading the three files and proving that they belong together. Every new connection gets the files that were read
last; open connections keep theirs. TLS 1.2 at least. Not here: when the files are read again (app/credentials.py), who
needs a certificate on the metrics port (http/monitoring.py).
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

# Flights of a handshake: TLS 1.3 has three, TLS 1.2 four.
FLIGHTS = 4


class BadTlsFile(Exception):
    """A file cannot be used for TLS; the message names its flag, the file and the reason."""


@dataclass(frozen=True)
class TlsFiles:
    """The PEM files. With `client_ca`, callers must present a certificate of that CA."""

    certificate: Path  # and its chain
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """The files that are there."""
        return [path for path in (self.certificate, self.key, self.client_ca) if path is not None]


@dataclass(frozen=True)
class _Identity:
    """What was read last, for each of the two servers."""

    context: ssl.SSLContext
    configuration: grpc.ServerCertificateConfiguration
    doubt: str


class ServerTls:
    """The server's side of TLS.

    Raises:
        BadTlsFile: a file is missing, unreadable or invalid, or the key is not that of the certificate.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._identity = _read(files)
        self._handed_out = self._identity

    def read_again(self) -> None:
        """Read the files again, for connections from now on. If that raises BadTlsFile, what was read before stays."""
        self._identity = _read(self._files)

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection of the metrics port; even with `client_ca` it does not require a certificate."""
        return self._identity.context

    @property
    def doubt(self) -> str:
        """Why clients will refuse the certificate, such as "certificate has expired"; "" if its dates are right."""
        return self._identity.doubt

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For the aio server, which asks for the newest files at every connection."""
        return grpc.dynamic_ssl_server_credentials(
            self._identity.configuration,
            self._changed_configuration,  # type: ignore[arg-type] # None is allowed, and means no change
            require_client_authentication=self._files.client_ca is not None,
        )

    def _changed_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """The newest files, if they were read since the last connection. gRPC calls it on threads of its own."""
        identity = self._identity
        if identity is self._handed_out:
            return None
        self._handed_out = identity
        return identity.configuration


def _read(files: TlsFiles) -> _Identity:
    certificate = _content("--tls-certificate", files.certificate)
    key = _content("--tls-key", files.key)
    client_ca = None if files.client_ca is None else _content("--tls-client-ca", files.client_ca)
    _check_certificates("--tls-certificate", files.certificate, certificate)
    if b"ENCRYPTED" in key:
        raise BadTlsFile(f"--tls-key {files.key} needs a passphrase; give a key without one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key, password="")  # never asks for one on a terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadTlsFile(f"--tls-key {files.key} is not the key of the certificate {files.certificate}") from error
        reason = f" ({error.reason})" if error.reason else ""
        raise BadTlsFile(f"--tls-key {files.key} holds no private key in PEM form that can be used{reason}") from error
    if client_ca is not None:
        _check_certificates("--tls-client-ca", files.client_ca, client_ca)
        context.load_verify_locations(cadata=_text(client_ca))
        context.verify_mode = ssl.CERT_OPTIONAL
    configuration = grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)
    return _Identity(context, configuration, _doubt(context, certificate))


def _content(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadTlsFile(f"{flag} {path} cannot be read ({error.strerror or error})") from error


def _check_certificates(flag: str, path: Path | None, content: bytes) -> None:
    """Check that the file holds certificates. Raises BadTlsFile."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_text(content))
    except (ValueError, ssl.SSLError) as error:  # ValueError: the file is empty
        raise BadTlsFile(f"{flag} {path} holds no certificate in PEM form") from error


def _text(pem: bytes) -> str:
    return pem.decode("ascii", errors="ignore")  # comments between the certificates may have other characters


def _doubt(context: ssl.SSLContext, certificate: bytes) -> str:
    """Why a client that trusts this very certificate refuses it; found by a handshake in memory.

    Python parses no certificates of its own, but checks their dates and purpose in a handshake.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(cadata=_text(certificate))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = trusting.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in [client, server] * FLIGHTS:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    return ""
