"""Whether a model's folder takes a version: by the service's own rule, and by the classes of older versions.

The job asks before it trains, as far as the network's shape and classes tell, and again before a version appears, with
its files. Older versions must have the same classes: Triton names the classes of all versions by labels.txt, and would
answer for an older version with the names of the new one. Not here: the service's rule
(service/models/repository/acceptance.py), writing the files (publish.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.models.repository import acceptance
from service.models.repository.acceptance import GraphSignature, GraphTensor, LoadError, ModelConfig
from service.models.repository.config import parse_config, read_config
from service.models.repository.scan import read_model_folder
from service.models.repository.selection import select
from service.models.repository.version_files import GRAPH, ModelFolder, graph_path, own_labels
from training.errors import NotAccepted
from training.publishing.export import INPUT, OUTPUT


@dataclass(frozen=True)
class Proposal:
    """What is to become version `number` of the model in `folder`, which exists."""

    folder: Path
    number: int
    label_names: tuple[str, ...]  # by class id
    new_config: str | None  # the config.pbtxt that comes with it; None if the folder has one


def check_shape(proposal: Proposal, image_shape: tuple[int, int, int]) -> None:
    """Check what is known before training: the images (H, W, C) that the version takes, and its classes.

    Raises:
        NotAccepted: the service would refuse such a version, or an older one has other classes.
    """
    labels = proposal.label_names
    graph = GraphSignature(
        inputs=(GraphTensor(INPUT, "tensor(uint8)", (None, *image_shape)),),
        outputs=(GraphTensor(OUTPUT, "tensor(float)", (None, len(labels))),),
    )
    golden: dict[str, NDArray[np.generic]] = {
        INPUT: np.zeros((1, *image_shape), np.uint8),
        OUTPUT: np.zeros((1, len(labels)), np.float32),
    }
    with _refused_as_by_the_service(proposal):
        folder = read_model_folder(proposal.folder)
        config = _config(folder, proposal)
        acceptance.check_fields(folder, proposal.number, config)
        acceptance.accept_configuration(folder, proposal.number, config, graph, labels=labels, golden=golden)
        acceptance.check_selected(folder, proposal.number, config)
    _check_older_versions(folder, proposal)


def check_files(proposal: Proposal, staging: Path) -> None:
    """Check the version's files, which lie in the folder `staging` until the version appears.

    Raises:
        NotAccepted: the service would refuse the version, or an older one has other classes.
    """
    with _refused_as_by_the_service(proposal):
        folder = read_model_folder(proposal.folder)
        staged = replace(folder, staged={proposal.number: staging})
        acceptance.check_version(staged, proposal.number, _config(folder, proposal), _signature)
    _check_older_versions(folder, proposal)


def waits_for(version: Path) -> str:
    """What a published version waits for before the service loads it; empty if it loads it now."""
    selection = select(read_model_folder(version.parent))
    labels = selection.routing.labels
    if selection.wants(int(version.name), labels.values()):
        return ""
    named = " and ".join(f"{label} {number}" for label, number in labels.items())
    return f"config.pbtxt names {named}: the service loads version {version.name} once it is named there"


@contextmanager
def _refused_as_by_the_service(proposal: Proposal) -> Iterator[None]:
    """Say of an error what the service would say, and what to do."""
    try:
        yield
    except LoadError as error:
        raise NotAccepted(
            f"the service would refuse version {proposal.number} of {proposal.folder.name}: {error}; nothing was "
            f"published. Publish under another --name, correct config.pbtxt, or delete {proposal.folder}"
        ) from error


def _check_older_versions(folder: ModelFolder, proposal: Proposal) -> None:
    """Refuse a version beside which an older one would get other class names, or no answers.

    Raises:
        NotAccepted: there is such an older version.
    """
    for version in folder.versions:
        if reason := _class_difference(folder, version, proposal) or _configuration_conflict(folder, version, proposal):
            raise NotAccepted(
                f"{folder.version_path(version)} {reason}; nothing was published. Publish under another --name, or "
                f"delete {folder.path}"
            )


def _class_difference(folder: ModelFolder, version: int, proposal: Proposal) -> str:
    """How the classes of an older version differ; empty if they do not, or if there is no graph to answer."""
    ours, theirs = proposal.label_names, own_labels(folder, version)
    if theirs is None:
        graph = graph_path(folder, version, GRAPH)
        return "does not say in a manifest which classes it has, so this job did not publish it" * graph.exists()
    if len(theirs) != len(ours):
        return f"has {len(theirs)} classes, this run has {len(ours)}"
    different = (index for index, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
    if (index := next(different, None)) is None:
        return ""
    return f"has other classes: its class {index} is {theirs[index]!r}, that of this run {ours[index]!r}"


def _configuration_conflict(folder: ModelFolder, version: int, proposal: Proposal) -> str:
    """Why the service would refuse an older version, which it takes now, by the config.pbtxt that comes; or empty."""
    if proposal.new_config is None or _refusal(folder, version, read_config(folder)):
        return ""
    refusal = _refusal(folder, version, _config(folder, proposal))
    return f"would be refused with the new config.pbtxt: {refusal}" if refusal else ""


def _refusal(folder: ModelFolder, version: int, config: ModelConfig) -> str:
    try:
        files = acceptance.read_files(folder, version, config)
        acceptance.accept(folder, version, config, files, _signature(files.model))
    except LoadError as error:
        return str(error)
    except Exception as error:
        if type(error).__module__.startswith("onnxruntime"):  # its errors have no common base class
            return str(error)
        raise
    return ""


def _config(folder: ModelFolder, proposal: Proposal) -> ModelConfig:
    if proposal.new_config is None:
        return read_config(folder)
    return parse_config(folder, proposal.new_config.encode())


def _signature(model: bytes) -> GraphSignature:
    return acceptance.read_signature(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]))
