"""Lists the models of a repository: which of its entries are models, and why the others are not.

Owns the rule for what is a model. Hidden entries, SKIPPED_NAMES, files, and folders with neither a version folder nor
config.pbtxt are not models. A folder that cannot be looked into may be a model: it is listed with the problem, as is a
model with a name that cannot be sent and shown. One entry's trouble never hides the others. Not here: the files of a
version (version_files.py), whether they changed (fingerprint.py).
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.core.load_errors import FilesError, FilesUnreadable, LoadError
from service.models.repository.version_files import CONFIG, VERSION_NAME, ModelFolder, printable_name

# Folders that file systems and tools put beside models.
SKIPPED_NAMES = frozenset({"lost+found", "__pycache__"})


@dataclass(frozen=True)
class Listing:
    """What a repository holds: its models by name, and the reason why each other entry is not a model, by name."""

    models: Sequence[ModelFolder]
    skipped: Mapping[str, str]


def scan(repository: Path) -> Listing:
    """List the repository.

    Raises:
        FilesUnreadable: the repository itself cannot be read.
    """
    try:
        names = sorted(path.name for path in repository.iterdir())
    except OSError as error:
        raise FilesUnreadable(f"the repository {repository} cannot be read: {error.strerror}") from error
    models, skipped = [], {}
    for name in names:
        found = _skip_reason(name) or _look_into(repository / name)
        if isinstance(found, ModelFolder):
            models.append(found)
        else:
            skipped[printable_name(name)] = found
    return Listing(models, skipped)


def find_model(repository: Path, name: str) -> ModelFolder | None:
    """The model of that name; None if the repository has no such model.

    Raises:
        FilesUnreadable: the repository itself cannot be read.
    """
    return next((folder for folder in scan(repository).models if folder.name == name), None)


def read_model_folder(folder: Path) -> ModelFolder:
    """List the versions of one model folder.

    Raises:
        FilesError: the folder cannot be read, or its name cannot be a model's name.
    """
    path = Path(os.path.abspath(folder))  # noqa: PTH100 # links stay, as when the service scans the repository
    try:
        found = ModelFolder(path, _versions(path.iterdir()), _name_problem(path))
    except OSError as error:
        raise FilesUnreadable(f"the model folder {folder} cannot be read: {error.strerror}") from error
    if found.problem:
        raise found.problem
    return found


def _skip_reason(name: str) -> str:
    if name.startswith("."):
        return "it is hidden"
    return "it belongs to the file system or to a tool" if name in SKIPPED_NAMES else ""


def _look_into(path: Path) -> ModelFolder | str:
    """The model in that folder, or why there is none."""
    try:
        entries = list(path.iterdir())
    except NotADirectoryError:
        return "it is not a folder"
    except FileNotFoundError:
        if not path.is_symlink():
            return "it was removed during the scan"
        return ModelFolder(path, (), _name_problem(path) or FilesUnreadable(f"{path} is a link to nothing"))
    except OSError as error:
        unreadable = FilesUnreadable(f"the folder {path} cannot be read: {error.strerror}")
        return ModelFolder(path, (), _name_problem(path) or unreadable)
    versions = _versions(entries)
    if not versions and path / CONFIG not in entries:
        return f"it holds no version folder, such as {printable_name(path.name)}/1, and no {CONFIG}"
    return ModelFolder(path, versions, _name_problem(path))


def _name_problem(path: Path) -> LoadError | None:
    if printable_name(path.name) == path.name:
        return None
    return FilesError(
        "the folder's name cannot be a model's name: it expects UTF-8 without control characters and backslashes"
    )


def _versions(entries: Iterable[Path]) -> Sequence[int]:
    """The version numbers among the entries of a model's folder, newest first."""
    return sorted(
        (int(path.name) for path in entries if VERSION_NAME.fullmatch(path.name) and _may_hold(path)), reverse=True
    )


def _may_hold(path: Path) -> bool:
    """Whether the path is a folder, or cannot be looked at; a link to nothing counts, so that loading it says why."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return path.is_symlink()
    except OSError:
        return True
