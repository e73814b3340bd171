"""Certificates of an authority of the test's own, made with openssl."""

import subprocess
from pathlib import Path

NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
LOCAL = ("DNS:localhost", "IP:127.0.0.1")  # the names of a server of a test


class Authority:
    """A certificate authority in a folder; `ca` is the file of its certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.ca, self._key = folder / "ca.crt", folder / "ca.key"
        _openssl(*NEW_KEY, "-subj", "/CN=test authority", "-keyout", str(self._key), "-out", str(self.ca))

    def issue(self, name: str, *names: str, usage: str = "") -> tuple[Path, Path]:
        """The files of a new certificate and its key, for names as in DNS:localhost and a usage as in clientAuth."""
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        extensions = ["basicConstraints=critical,CA:FALSE"]
        extensions += [f"subjectAltName={','.join(names)}"] if names else []
        extensions += [f"extendedKeyUsage={usage}"] if usage else []
        flags = [word for extension in extensions for word in ("-addext", extension)]
        issuer = ["-CA", str(self.ca), "-CAkey", str(self._key), "-subj", f"/CN={name}"]
        _openssl(*NEW_KEY, *issuer, *flags, "-keyout", str(key), "-out", str(certificate))
        return certificate, key


def tls_folder(folder: Path, authority: Authority, *, clients: Authority | None = None) -> Path:
    """A folder as the edge wants it: tls.crt, tls.key and, with `clients`, the authority of their certificates."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = authority.issue("server", *LOCAL)
    (folder / "tls.crt").write_bytes(certificate.read_bytes())
    (folder / "tls.key").write_bytes(key.read_bytes())
    if clients:
        (folder / "client-ca.crt").write_bytes(clients.ca.read_bytes())
    return folder


def _openssl(*arguments: str) -> None:
    command = ["/usr/bin/env", "openssl", "req", "-x509", "-days", "2", *arguments]
    subprocess.run(command, check=True, capture_output=True)
