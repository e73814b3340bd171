"""Triton's repository agent `checksum`: hashes in config.pbtxt that files of the model must have.

    model_repository_agents { agents [ { name: "checksum" parameters [ { key: "MD5:1/model.onnx" value: "…" } ] } ] }

Not here: the hash in a version's manifest (version_files.py).
Source: https://github.com/triton-inference-server/checksum_repository_agent
"""

import hashlib
from pathlib import Path

from service.core.errors import ConfigurationError, FilesError, FilesUnreadable
from service.models.repository.version_files import VERSION_NAME, ModelFolder
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
            if not _is_of_another_version(name, version):
                _check(folder, name, expected)


def _is_of_another_version(name: str, version: int) -> bool:
    first = Path(name).parts[0]
    return VERSION_NAME.fullmatch(first) is not None and first != str(version)


def _check(folder: ModelFolder, name: str, expected: str) -> None:
    path = folder.path / name
    if Path(name).anchor or ".." in Path(name).parts:
        raise FilesError(f"model_repository_agents: the file {name!r} is outside {folder.path}")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError as error:
        raise FilesError(
            f"model_repository_agents: {path} is missing, its MD5 checksum should be {expected}"
        ) from error
    except OSError as error:
        raise FilesUnreadable(f"{path} cannot be read: {error.strerror}") from error
    if found != expected.strip().lower():
        raise FilesError(f"model_repository_agents: {path} has the MD5 checksum {found}, expected {expected}")
