"""The tree of files: what counts as a picture, what is passed over, and links."""

import os
from pathlib import Path

import pytest

from training.data.folder import files
from training.data.folder.files import HIDDEN, LINKS_BACK, TOO_DEEP, scan, shown
from training.errors import DataError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    "name",
    [
        "._1.png", ".DS_Store", ".ipynb_checkpoints/1.png", "__MACOSX/1.png", "@eaDir/1.png", "Thumbs.db",
        "desktop.ini", ".thumbnails/1.png", "$RECYCLE.BIN/1.png", "lost+found/1.png",
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", [".", "a", "a/deeper"])
def test_what_is_hidden_or_of_the_system_is_passed_over_and_counted(tmp_path: Path, name: str, where: str) -> None:
    picture = touch(tmp_path / "a" / "deeper" / "1.png")
    touch(tmp_path / where / name)
    tree, passed = scan(tmp_path)
    assert tree.all_pictures() == [picture] and passed == {HIDDEN: 1}


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path: Path) -> None:
    for name in ("1.png", "1.txt", "2.TXT", "labels.csv", "README", "1.jpg.part"):
        touch(tmp_path / "a" / name)
    tree, passed = scan(tmp_path)
    assert len(tree.all_pictures()) == 1
    assert passed == {".txt": 2, ".csv": 1, "without a suffix": 1, ".part": 1}


def test_links_are_followed_but_not_back_to_a_folder_above(tmp_path: Path) -> None:
    touch(tmp_path / "pool" / "1.png")
    root = tmp_path / "root"
    touch(root / "b" / "2.png")
    (root / "a").symlink_to(tmp_path / "pool")
    (root / "b" / "root").symlink_to(root)
    (root / "b" / "here").symlink_to(".")
    (root / "b" / "itself").symlink_to("itself")
    (root / "b" / "3.png").symlink_to(tmp_path / "pool" / "1.png")
    (root / "b" / "gone.png").symlink_to("nowhere.png")
    tree, passed = scan(root)
    names = [str(file.relative_to(root)) for file in tree.all_pictures()]
    assert names == ["a/1.png", "b/2.png", "b/3.png", "b/gone.png"], "a file that is gone is named when it is read"
    assert passed == {LINKS_BACK: 2, "without a suffix": 1}


def test_folders_below_the_greatest_depth_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_DEPTH", 2)
    touch(tmp_path / "1" / "1.png")
    touch(tmp_path / "1" / "2" / "2.png")
    tree, passed = scan(tmp_path)
    assert len(tree.all_pictures()) == 1 and passed == {TOO_DEEP: 1}


def test_a_folder_that_cannot_be_listed_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a" / "1.png")
    listing = os.scandir

    def denied(path: Path) -> object:
        if path == tmp_path / "a":
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=f"{tmp_path / 'a'} cannot be listed \\(Permission denied\\)"):
        scan(tmp_path)


def test_every_name_is_shown_as_one_line_that_can_be_printed() -> None:
    assert shown("große Katze, 犬.png") == "große Katze, 犬.png"
    assert shown(os.fsdecode(b"\xff\n\x1b[2J.png")) == "\\xff\\n\\x1b[2J.png"
