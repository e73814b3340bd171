"""What `cnn-client classify` prints, by the results that a server gives. The server is fake."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.client import Client, command
from service.core.errors import MessageTooLarge, QueueFull, ServiceError
from service.pb.classifier_pb2 import Class, Error, Result
from tests.unit.service.client.test_retries import Refused


def result(*classes: tuple[str, float]) -> Result:
    return Result(classes=[Class(class_id=7, label=label, probability=found) for label, found in classes])


SURE, UNSURE = result(("7", 0.994), ("1", 0.004)), result(("7", 0.55), ("1", 0.304))
DAMAGED = Result(error=Error(code=3, message="the JPEG is damaged"))


class RefusedWithText(Refused):
    def __init__(self, error: ServiceError) -> None:
        super().__init__(error.code, error.trailing_metadata())
        self._text = error.message

    def details(self) -> str:
        return self._text


class Server:
    """Answers every file with the result at its index, or the calls with `error`; `calls` has the files of each."""

    def __init__(self, results: Sequence[Result], error: ServiceError | None = None) -> None:
        self.results = list(results)
        self.error = error
        self.calls: list[list[bytes]] = []

    def classify(self, _: Client, model: str, images: Sequence[bytes], version: str, **options: Any) -> list[Result]:
        self.calls.append(list(images))
        assert options["top_k"] >= 2
        if self.error:
            raise RefusedWithText(self.error)
        answered, self.results = self.results[: len(images)], self.results[len(images) :]
        return answered


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two files."""
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"a")
    Path("long name.jpg").write_bytes(b"b")
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `cnn-client classify` and returns its exit status, output and errors as lines."""

    def run(server: Server, *arguments: str) -> tuple[int | str | None, list[str], list[str]]:
        monkeypatch.setattr(Client, "classify", lambda *given, **options: server.classify(*given, **options))
        monkeypatch.setattr(sys, "argv", ["cnn-client", "classify", *arguments])
        with pytest.raises(SystemExit) as ended:
            command.main()
        output = capsys.readouterr()
        return ended.value.code, output.out.splitlines(), output.err.splitlines()

    return run


def test_an_answer_under_the_threshold_is_marked_and_has_the_second_choice(folder: Path, run: Any) -> None:
    assert run(Server([SURE, UNSURE]), "a.png", "long name.jpg") == (
        0,
        ["a.png          7   99.4%", "long name.jpg  7   55.0%  unsure: or 1   30.4%"],
        [],
    )


def test_the_threshold_can_be_moved(folder: Path, run: Any) -> None:
    assert "unsure" not in run(Server([UNSURE]), "a.png", "--unsure-below", "0.5")[1][0]
    assert "unsure" in run(Server([SURE]), "a.png", "--unsure-below", "0.999")[1][0]


def test_a_list_of_classes_keeps_its_columns(folder: Path, run: Any) -> None:
    cars = result(("automobile", 0.9), ("ship", 0.08), ("truck", 0.01))
    birds = result(("bird", 0.4), ("automobile", 0.3), ("ship", 0.2))
    assert run(Server([cars, birds]), "--top", "3", "a.png", "long name.jpg")[1] == [
        "a.png          automobile   90.0%  ship          8.0%  truck         1.0%",
        "long name.jpg  bird         40.0%  automobile   30.0%  ship         20.0%  unsure",
    ]


def test_a_model_of_one_class_has_no_second_choice(folder: Path, run: Any) -> None:
    assert run(Server([result(("", 0.2))]), "a.png")[1] == ["a.png  7   20.0%  unsure"]


def test_the_error_of_a_picture_names_its_file(folder: Path, run: Any) -> None:
    status, output, errors = run(Server([DAMAGED, SURE]), "a.png", "long name.jpg")
    assert (status, len(output), errors) == (1, 1, ["a.png: the JPEG is damaged"])


def test_standard_input_is_a_file(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"picture")))
    server = Server([SURE])
    assert run(server, "-")[:2] == (0, ["-  7   99.4%"])
    assert server.calls == [[b"picture"]]


def test_a_folder_is_said_to_be_one_and_what_to_name(folder: Path, run: Any) -> None:
    Path("holiday").mkdir()
    status, output, errors = run(Server([SURE]), "holiday", "a.png")
    assert (status, len(output), errors) == (1, 1, ["holiday: a folder; name its files: holiday/*"])


def test_a_file_that_no_message_can_hold_is_not_sent(folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MAX_FILE_BYTES", 1000)
    Path("film.mov").write_bytes(bytes(1001))
    server = Server([SURE])
    status, output, errors = run(server, "film.mov", "a.png")
    assert (status, len(output), errors) == (1, 1, ["film.mov: larger than 1,000 bytes"])
    assert server.calls == [[b"a"]]


def test_a_call_carries_8_mebibytes_at_most(folder: Path, run: Any) -> None:
    for name in ("c.jpg", "d.jpg"):
        Path(name).write_bytes(bytes(5 * 2**20))
    server = Server([SURE] * 4)
    assert run(server, "a.png", "c.jpg", "d.jpg", "long name.jpg")[0] == 0
    assert [len(files) for files in server.calls] == [2, 2]


def test_a_file_larger_than_the_servers_limit_is_named_and_the_others_are_answered(folder: Path, run: Any) -> None:
    Path("scan.png").write_bytes(bytes(17 * 2**20))
    server = Server([SURE])
    server.error = MessageTooLarge(17 * 2**20, 2**20)
    status, output, errors = run(server, "scan.png")
    assert (status, output) == (1, [])
    assert errors == [
        "scan.png: the server refuses 17,825,792 bytes: "
        "the message has 17825792 bytes, the limit is 1048576 (--max-message-bytes)"
    ]


def test_a_full_queue_ends_the_command(folder: Path, run: Any) -> None:
    server = Server([])
    server.error = QueueFull(16, 16, 30.0)
    status, output, errors = run(server, "a.png")
    assert (status, output, len(errors)) == (1, [], 1)
    assert errors[0].startswith("error: 127.0.0.1:8001: RESOURCE_EXHAUSTED: ")
