"""The class names of a version's outputs: its manifest's or, if that has none, those of the model's label file.

    manifest.json   `labels`, of the output with one value a class; the model's label file decides nothing then
    labels.txt      of other versions; an output's `label_filename` in config.pbtxt names the file

Owns the format of a label file, the choice of the output that a manifest's labels name, and the check of their number.
Not here: reading manifest.json (version_files.py), the other fields of config.pbtxt (config.py).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from service.core.load_errors import ConfigurationError, FilesError, FilesUnreadable
from service.core.spec import ModelSpec, TensorSpec
from service.models.repository.version_files import ModelFolder, read_file
from service.pb.model_config_pb2 import ModelConfig


def with_labels(
    outputs: Sequence[TensorSpec],
    folder: ModelFolder,
    config: ModelConfig,
    manifest_labels: tuple[str, ...] | None,
) -> tuple[TensorSpec, ...]:
    """The outputs with their labels. `manifest_labels` are None if the version has no manifest with labels.

    Raises:
        ConfigurationError: the manifest has labels, but not exactly one output has one value a class.
        FilesError: the manifest has another number of labels than the output has classes, or a label file is missing,
            is not UTF-8 or lies outside the model's folder.
    """
    files = {tensor.name: tensor.label_filename for tensor in config.output if tensor.label_filename}
    batches = config.max_batch_size > 0
    if manifest_labels is not None:
        labels = {_class_output(outputs, files, batches=batches): manifest_labels}
    else:
        labels = {output.name: read_labels(folder, files[output.name]) for output in outputs if output.name in files}
    if manifest_labels is not None:
        for output in outputs:
            classes, names = _classes(output, batches=batches), labels.get(output.name)
            if names is not None and classes not in (len(names), None):
                raise FilesError(
                    f"manifest.json has {len(names)} labels, but output {output.name!r} has {classes} classes"
                )
    return tuple(replace(output, labels=labels.get(output.name, ())) for output in outputs)


def miscounted(spec: ModelSpec) -> Iterator[tuple[TensorSpec, int]]:
    """The outputs whose label file has another number of lines than they have classes, with that number of classes."""
    files = {tensor.name for tensor in spec.config.output if tensor.label_filename}
    for output in spec.outputs:
        classes = _classes(output, batches=spec.batches)
        if output.name in files and classes not in (len(output.labels), None):
            yield output, classes


def _class_output(outputs: Sequence[TensorSpec], files: dict[str, str], *, batches: bool) -> str:
    """The output that a manifest's labels name: the one with a label_filename, or the only one with a float a class."""
    candidates = [output.name for output in outputs if output.name in files] or [
        output.name
        for output in outputs
        if output.data_type.dtype.kind == "f" and len(_class_axes(output, batches=batches)) == 1
    ]
    if len(candidates) != 1:
        raise ConfigurationError(
            f"manifest.json has labels for one output, but {len(candidates)} of {[output.name for output in outputs]} "
            "could have them; give one output a label_filename in config.pbtxt"
        )
    return candidates[0]


def _classes(output: TensorSpec, *, batches: bool) -> int | None:
    """The number of values of one row; None if the graph leaves it open."""
    axes = _class_axes(output, batches=batches)
    return math.prod(axes) if axes and -1 not in axes else None


def _class_axes(output: TensorSpec, *, batches: bool) -> tuple[int, ...]:
    """The axes of one row. Of a model that does not batch, a free first axis counts the rows."""
    return output.shape[1:] if not batches and output.shape[:1] == (-1,) else output.shape


def read_labels(folder: ModelFolder, filename: str) -> tuple[str, ...]:
    """Read a label file: one label a line, by class id.

    Raises:
        FilesError: the file is missing, unreadable, not UTF-8, or outside the model's folder.
    """
    path = folder.path / filename
    try:
        if folder.path.resolve() not in path.resolve().parents:
            raise FilesError(f"label_filename {filename!r} points outside {folder.path}")
        return label_lines(read_file(path))
    except ValueError as error:  # not UTF-8, or a name with a NUL
        raise FilesError(f"{path} cannot be read: {error}") from error
    except (OSError, RuntimeError) as error:  # of resolve(): a folder that cannot be read, or a loop of links
        raise FilesUnreadable(f"{path} cannot be read: {error}") from error


def label_lines(content: bytes) -> tuple[str, ...]:
    """The lines of a label file, cut at line feeds alone, as Triton cuts them: other separators may be part of a name.

    A byte order mark and the carriage returns of a Windows editor are passed over.
    """
    lines = content.decode("utf-8-sig").split("\n")
    if not lines[-1]:
        lines.pop()  # what follows the last line feed
    return tuple(line.removesuffix("\r") for line in lines)
