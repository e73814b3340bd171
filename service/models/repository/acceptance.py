"""Whether the service takes a version: its files, its configuration and the signature of its graph agree.

The service asks this of each version that it loads, after it opened the graph, and the training job of each version
before it appears in the repository. Some words of core/ and pb/ are exported here for the job, which
imports nothing from there. Not here: whether the answers are right (verification/), the devices
(models/engine_settings.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.core.load_errors import ConfigurationError, FilesError, LoadError
from service.core.signature import GraphSignature, GraphTensor, read_signature
from service.core.spec import ModelSpec
from service.models.repository.checksums import check_repository_agents
from service.models.repository.config import complete_spec, derives_batching
from service.models.repository.engine_fields import check_batching, check_instance_groups
from service.models.repository.fit_record import recorded_fit
from service.models.repository.golden_file import count_samples
from service.models.repository.selection import selection_of
from service.models.repository.version_files import GRAPH, ModelFolder, VersionFiles, read_version
from service.pb.model_config_pb2 import ModelConfig
from service.pictures.fit import Fit

__all__ = [
    "AcceptedVersion",
    "GraphSignature",
    "GraphTensor",
    "LoadError",
    "ModelConfig",
    "accept",
    "accept_configuration",
    "check_fields",
    "check_selected",
    "check_version",
    "read_files",
    "read_signature",
]


@dataclass(frozen=True)
class AcceptedVersion:
    """A version as it would be served, or as `unbatched_spec` has it if its rows must not share a batch."""

    spec: ModelSpec
    unbatched_spec: ModelSpec
    fit: Fit | None  # how pictures become images of the model; None if the version does not record it


def read_files(
    folder: ModelFolder, version: int, config: ModelConfig, *, require_manifest: bool = False
) -> VersionFiles:
    """Read the version's files.

    Raises:
        LoadError: as check_fields(), a file is invalid, or there is no manifest and one is required.
    """
    check_fields(folder, version, config)
    files = read_version(folder, version, config.default_model_filename or GRAPH)
    if require_manifest and files.manifest is None:
        raise FilesError(
            f"{folder.version_path(version)} has no manifest.json, which --require-manifest asks for; publish the "
            "version with the training job, or start the service without the flag"
        )
    return files


def accept(
    folder: ModelFolder, version: int, config: ModelConfig, files: VersionFiles, graph: GraphSignature
) -> AcceptedVersion:
    """Compare the files and the configuration with the graph.

    Raises:
        LoadError: they contradict each other.
    """
    fit = recorded_fit(folder.version_path(version), files.manifest, graph.metadata)
    spec = accept_configuration(folder, version, config, graph, labels=files.labels, golden=files.golden)
    unbatched_spec = spec
    if spec.batches and derives_batching(config):
        unbatched_spec = complete_spec(
            folder, version, config, graph, manifest_labels=files.labels, derive_batching=False
        )
    return AcceptedVersion(spec, unbatched_spec, fit)


def check_fields(folder: ModelFolder, version: int, config: ModelConfig) -> None:
    """Check the fields of a configuration that say nothing of the graph.

    Raises:
        LoadError: one is invalid, or a file has another checksum.
    """
    check_repository_agents(folder, version, config)
    check_instance_groups(config)


def accept_configuration(
    folder: ModelFolder,
    version: int,
    config: ModelConfig,
    graph: GraphSignature,
    *,
    labels: tuple[str, ...] | None,
    golden: Mapping[str, NDArray[np.generic]],
) -> ModelSpec:
    """Compare the configuration with a graph, with the labels in the version's manifest and with its golden samples.

    A version without a manifest has neither: `labels` is None, and `golden` is empty.

    Raises:
        LoadError: they contradict each other, or a field of the configuration is invalid.
    """
    spec = complete_spec(folder, version, config, graph, manifest_labels=labels)
    check_batching(spec)
    if golden:
        count_samples(golden, spec)
    return spec


def check_version(
    folder: ModelFolder, version: int, config: ModelConfig, signature: Callable[[bytes], GraphSignature]
) -> None:
    """Check a version as the service will when it is told of it; `signature` reads that of a graph.

    Raises:
        LoadError: the service would refuse the version, or its configuration does not select it.
    """
    files = read_files(folder, version, config)
    accept(folder, version, config, files, signature(files.model))
    check_selected(folder, version, config)


def check_selected(folder: ModelFolder, version: int, config: ModelConfig) -> None:
    """Check that the configuration lets the version answer.

    Raises:
        ConfigurationError: its version_policy leaves the version out, or a label is invalid.
    """
    selected = selection_of(config, [version, *folder.versions]).candidates
    if version not in selected:
        raise ConfigurationError(
            f"version_policy in config.pbtxt selects the versions {sorted(selected)}, and version {version} comes next"
        )
