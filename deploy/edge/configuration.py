"""The YAML files with the settings filled in, and Envoy's word that they are right.

Owns what is worked out for this container: its memory limit and its processors. Not here: the certificate
(certificate.py).
"""

from __future__ import annotations

import json
import math
import os
import re
import string
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .errors import WrongSetting
from .files import replace
from .settings import MIB, Settings

HERE = Path(__file__).resolve().parent
CGROUP = Path("/sys/fs/cgroup")
DEFAULT_HEAP_BYTES = 512 * MIB  # where the container has no memory limit
NO_LIMIT = 2**60  # and more: what cgroup v1 says where there is none


def render(settings: Settings, output: Path) -> None:
    """Fill in the YAML files, into `output`. Raises WrongSetting for a name in ${...} that is not known."""
    values = _values(settings, output)
    piece = "mutual-tls" if settings.client_certificates else "tls" if settings.tls_folder else "plaintext"
    lines = _filled(f"{piece}.yaml", values).splitlines()
    values["TRANSPORT_SOCKET"] = "\n" + "\n".join(f"      {line}" for line in lines)
    for name in ("envoy.yaml", "cluster.yaml", "listener.yaml"):
        replace(output / name, _filled(name, values))
    if (HERE / "jwks.json").exists():
        replace(output / "jwks.json", (HERE / "jwks.json").read_text())


def _filled(name: str, values: Mapping[str, object]) -> str:
    try:
        return string.Template((HERE / name).read_text()).substitute(values)
    except (KeyError, ValueError) as error:
        raise WrongSetting(f"{HERE / name}: unknown or unfinished ${{...}}: {error}") from error


def _values(settings: Settings, output: Path) -> dict[str, object]:
    host, _, port = settings.upstream.rpartition(":")
    return {
        "FOLDER": output,
        "HOST": settings.host,
        "PORT": settings.port,
        "OPERATORS_PORT": settings.operators_port,
        "ADMIN_PORT": settings.admin_port,
        "UPSTREAM_HOST": host.strip("[]"),
        "UPSTREAM_PORT": port,
        "MAX_MESSAGE_BYTES": settings.max_message_bytes,
        "MAX_REQUEST_BYTES": settings.max_message_bytes + 5,  # gRPC's frame: a flag and the length
        "MAX_CONNECTIONS": settings.max_connections,
        "ALLOWED_ORIGINS": json.dumps(settings.allowed_origins),
        "ACCESS_LOG_SHARE": json.dumps(
            {"numerator": round(settings.access_log_percent * 1e4), "denominator": "MILLION"}
        ),
        "HEAP_BYTES": settings.heap_bytes or _memory_limit() * 3 // 4 or DEFAULT_HEAP_BYTES,
        "DESCRIPTORS": HERE / "descriptors.pb",
    }


def _memory_limit() -> int:
    """The container's memory limit in bytes, from cgroup v2 or v1; 0 without one."""
    text = _cgroup("memory.max") or _cgroup("memory/memory.limit_in_bytes")
    limit = int(text) if text.isdecimal() else 0
    return limit if limit < NO_LIMIT else 0


def concurrency() -> int:
    """Envoy's worker threads: the processors that the container may use, rounded up."""
    v1 = f"{_cgroup('cpu/cpu.cfs_quota_us')} {_cgroup('cpu/cpu.cfs_period_us')}"
    quota, _, period = (_cgroup("cpu.max") or v1).partition(" ")
    cores = len(os.sched_getaffinity(0))
    return min(cores, math.ceil(int(quota) / int(period))) if quota.isdecimal() else cores


def _cgroup(name: str) -> str:
    try:
        return (CGROUP / name).read_text().strip()
    except OSError:
        return ""


def validate(envoy: str, folder: Path) -> None:
    """Raises WrongSetting, with Envoy's words, if Envoy would refuse the configuration in the folder.

    Envoy validates a bootstrap alone, so the other files' resources are added to it as static ones.
    """
    overlay = "static_resources:\n"
    for key, name in (("listeners", "listener"), ("clusters", "cluster")):
        text = (folder / f"{name}.yaml").read_text().partition("\nresources:\n")[2]
        resources = re.sub(r'^- "@type": .*\n  ', "- ", text, flags=re.MULTILINE)
        overlay += f"  {key}:\n" + "".join(f"  {line}\n" for line in resources.splitlines())
    command = [envoy, "--mode", "validate", "-c", str(folder / "envoy.yaml"), "--config-yaml", overlay, "-l", "error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        words = [json.loads(line)["event"] if line.startswith("{") else line for line in lines]
        raise WrongSetting(f"Envoy refuses the configuration: {' '.join(words)}")
