"""JSON Web Tokens of an issuer of the test's own, signed with openssl."""

import base64
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path


class Issuer:
    """An issuer with an RSA key, made in the folder."""

    def __init__(self, folder: Path) -> None:
        self._key = folder / "issuer.key"
        _openssl("genrsa", "-out", str(self._key), "2048")

    def keys(self) -> str:
        """The public key, as a JWKS document."""
        modulus = _openssl("rsa", "-in", str(self._key), "-noout", "-modulus").decode().strip().partition("=")[2]
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "n": _text(bytes.fromhex(modulus)), "e": "AQAB"}
        return json.dumps({"keys": [key]})

    def token(self, claims: Mapping[str, object], *, seconds: float = 600) -> str:
        """A token with these claims that is valid for that long."""
        head = {"alg": "RS256", "kid": "1", "typ": "JWT"}
        signed = ".".join(_text(json.dumps(part).encode()) for part in (head, {"exp": time.time() + seconds, **claims}))
        return f"{signed}.{_text(_openssl('dgst', '-sha256', '-sign', str(self._key), text=signed))}"


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _openssl(*arguments: str, text: str = "") -> bytes:
    command = ["/usr/bin/env", "openssl", *arguments]
    return subprocess.run(command, input=text.encode(), check=True, capture_output=True).stdout
