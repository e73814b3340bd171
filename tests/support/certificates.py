"""Certificates of an authority of our own, made with openssl."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority: `certificate` is what those who trust it need."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """The authority's own certificate."""
        return self.folder / "ca.crt"

    def issue(self, name: str, *, host: str = "localhost", days: int = 2) -> tuple[Path, Path]:
        """Make a certificate for a host and 127.0.0.1, and its key: the files NAME.crt and NAME.key."""
        certificate, key, request = (self.folder / f"{name}.{ending}" for ending in ("crt", "key", "csr"))
        _openssl("req", *_new_key(key), "-subj", f"/CN={name}", "-out", str(request))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName=DNS:{host},IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        authority = ["-CA", str(self.certificate), "-CAkey", str(self.folder / "ca.key"), "-CAcreateserial"]
        flags = ["-req", "-in", str(request), "-days", str(days), "-extfile", str(extensions), "-out", str(certificate)]
        _openssl("x509", *flags, *authority)
        return certificate, key


def make_authority(folder: Path) -> Authority:
    """Make an authority, in a folder that it creates."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder)
    flags = ["-x509", *_new_key(folder / "ca.key"), "-subj", "/CN=test authority", "-days", "2"]
    _openssl("req", *flags, "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", str(authority.certificate))
    return authority


def tls_folder(folder: Path, authority: Authority, *, clients: Authority | None = None) -> Path:
    """A folder for the edge: tls.crt, tls.key and, with `clients`, the authority of the clients' certificates."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = authority.issue("server")
    (folder / "tls.crt").write_bytes(certificate.read_bytes())
    (folder / "tls.key").write_bytes(key.read_bytes())
    if clients:
        (folder / "client-ca.crt").write_bytes(clients.certificate.read_bytes())
    return folder


def _new_key(path: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path)]


def _openssl(*arguments: str) -> None:
    subprocess.run(["/usr/bin/openssl", *arguments], check=True, capture_output=True)
