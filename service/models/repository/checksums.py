"""Triton's repository agent `checksum`: hashes in config.pbtxt that files of the model must have.

    model_repository_agents { agents [ { name: "checksum" parameters [ { key: "MD5:1/model.onnx" value: "…" } ] } ] }

Not here: the hash in a version's manifest (version_files.py).
Source: https://github.com/triton-inference-server/checksum_repository_agent
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from service.core.load_errors import ConfigurationError, FilesError, FilesUnreadable
from service.models.repository.version_files import VERSION_NAME, ModelFolder, open_file
from service.pb.model_config_pb2 import ModelConfig


def check_repository_agents(folder: ModelFolder, version: int, config: ModelConfig) -> None:
    """Compare the hash of every file that a checksum names, other than those of other versions.

    Raises:
        ConfigurationError: an agent or a kind of hash that the service does not have.
        FilesError: a file has another hash, is missing, or lies outside the model's folder.
    """
    for agent in config.model_repository_agents.agents:
        if agent.name != "checksum":
            raise ConfigurationError(
                f"model_repository_agents: this service has the agent checksum, not {agent.name!r}; remove it"
            )
        for key, expected in sorted(agent.parameters.items()):
            kind, _, name = key.partition(":")
            if kind != "MD5" or not name:
                raise ConfigurationError(f"model_repository_agents: checksum expects MD5:FILE, got {key!r}")
            if _version_of(name) in ("", str(version)):
                _check(folder, name, expected)


def shared_files(config: ModelConfig) -> Iterator[str]:
    """The files of the model, but of none of its versions, that have a checksum."""
    for agent in config.model_repository_agents.agents:
        for key in agent.parameters:
            name = key.partition(":")[2]
            if name and not _version_of(name) and not _leads_outside(name):
                yield name


def _version_of(name: str) -> str:
    """The version that a file belongs to; "" if it belongs to all."""
    first = "".join(Path(name).parts[:1])
    return first if VERSION_NAME.fullmatch(first) else ""


def _leads_outside(name: str) -> bool:
    return bool(Path(name).anchor) or ".." in Path(name).parts


def _check(folder: ModelFolder, name: str, expected: str) -> None:
    path = folder.path / name
    if _leads_outside(name):
        raise FilesError(f"model_repository_agents: the file {name!r} is outside {folder.path}")
    try:
        with open_file(path) as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError as error:
        raise FilesError(
            f"model_repository_agents: {path} is missing, its MD5 checksum should be {expected}"
        ) from error
    except OSError as error:
        raise FilesUnreadable(f"{path} cannot be read: {error.strerror}") from error
    if found != expected.strip().lower():
        raise FilesError(f"model_repository_agents: {path} has the MD5 checksum {found}, expected {expected}")
