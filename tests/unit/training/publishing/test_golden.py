"""Golden pictures: a file of each kind, made from test images, that catches a server which reads files otherwise."""

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from service.pictures.fit import DRAWING, NONE, RESIZE, Fit
from service.pictures.fitting import fit_file, fit_picture
from training.data.dataset import Split
from training.publishing import golden
from training.publishing.export import Run

KINDS = ["cut-out.png", "grey-16.png", "photo.jpg", "turned.jpg"]


def strokes(channels: int) -> Split:
    """Three classes of light strokes on black (N, 28, 28, C): a frame, which has no upper side, upright and lying."""
    images = np.zeros((3, 28, 28, channels), np.uint8)
    images[0, 4:24, 4:24] = 255
    images[0, 7:21, 7:21] = 0
    images[1, 4:24, 12:16] = 255
    images[2, 12:16, 4:24] = 255
    return Split(torch.from_numpy(images), torch.arange(3))


def nearest(split: Split) -> Run:
    """A classifier that is sure of the class whose image has the least squared difference."""
    templates = split.images.numpy().astype(np.float32) / 255  # (3, 28, 28, C)

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        differences = ((images[:, None] / np.float32(255) - templates) ** 2).mean((2, 3, 4))
        return torch.softmax(torch.from_numpy(-50 * differences), 1).numpy()

    return run


def chosen(fit: Fit, channels: int) -> tuple[golden.Golden, Split, Run, NDArray[np.float32]]:
    test = strokes(channels)
    run = nearest(test)
    probabilities = run(test.images.numpy())
    return golden.choose(run, test, torch.from_numpy(probabilities), fit), test, run, probabilities


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("fit", "names"),
    [(Fit(DRAWING), KINDS), (Fit(RESIZE), KINDS), (Fit(NONE), ["exact.png", "photo.jpg", "turned.jpg"])],
    ids=["drawing", "resize", "none"],
)
def test_each_fit_has_a_file_of_each_kind_that_it_takes_and_their_answers(
    fit: Fit, names: list[str], channels: int
) -> None:
    found, test, run, probabilities = chosen(fit, channels)
    arrays = found.arrays(run, test.images.numpy(), probabilities, fit)
    assert sorted(found.pictures) == names
    assert set(arrays) == {"images", "probabilities", "picture_answers", *(f"picture:{name}" for name in names)}
    assert arrays["picture_answers"].dtype == np.float32 and (arrays["picture_answers"].max(1) >= 0.8).all()
    for name, answer in zip(names, arrays["picture_answers"], strict=True):
        file = arrays[f"picture:{name}"].tobytes()
        np.testing.assert_array_equal(run(fit_file(file, (28, 28, channels), fit)[None])[0], answer)
    assert sum(len(file) for file in found.pictures.values()) < 20_000


@pytest.mark.parametrize("fit", [Fit(DRAWING), Fit(RESIZE)], ids=str)
def test_the_files_are_of_the_formats_that_decoders_read_differently(fit: Fit) -> None:
    pictures = chosen(fit, 1)[0].pictures
    opened = {name: Image.open(io.BytesIO(file)) for name, file in pictures.items()}
    assert {name: (picture.format, picture.mode) for name, picture in opened.items()} == {
        "cut-out.png": ("PNG", "RGBA"),
        "grey-16.png": ("PNG", "I;16"),
        "photo.jpg": ("JPEG", "L"),
        "turned.jpg": ("JPEG", "L"),
    }
    assert opened["turned.jpg"].getexif()[golden.ORIENTATION] == golden.TURN_CLOCKWISE
    low, high = opened["cut-out.png"].getchannel("A").getextrema()
    assert low == 0 and high == 255, "parts of it are transparent"
    assert all(max(picture.size) > 100 for picture in opened.values())


@pytest.mark.parametrize("fit", [Fit(DRAWING), Fit(RESIZE)], ids=str)
def test_a_server_that_reads_a_file_otherwise_gets_another_answer(fit: Fit) -> None:
    """It ignores the orientation, drops the alpha channel, keeps the low byte of 16 bits, or has another fit."""
    found, test, run, probabilities = chosen(fit, 1)
    arrays = found.arrays(run, test.images.numpy(), probabilities, fit)
    answers = dict(zip(sorted(found.pictures), arrays["picture_answers"], strict=True))
    files = {name: Image.open(io.BytesIO(file)) for name, file in found.pictures.items()}
    black = Image.new("L", files["cut-out.png"].size, 0)
    white = Image.new("L", files["grey-16.png"].size, 255)
    for name, wrong in (("turned.jpg", files["turned.jpg"]), ("cut-out.png", black), ("grey-16.png", white)):
        image = fit_picture(wrong, (28, 28, 1), Fit(RESIZE) if name != "turned.jpg" else fit)
        assert np.abs(run(image[None])[0] - answers[name]).max() > 0.5, name
    if fit.method == DRAWING:  # a drawing that fills the picture is the same image with both
        image = fit_file(found.pictures["photo.jpg"], (28, 28, 1), Fit(RESIZE))
        assert np.abs(run(image[None])[0] - answers["photo.jpg"]).max() > 0.1


def test_a_picture_is_made_only_from_an_image_that_is_recognised_with_confidence() -> None:
    test = strokes(1)

    def unsure(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.full((len(images), 3), 1 / 3, np.float32)

    found = golden.choose(unsure, test, torch.full((3, 3), 1 / 3), Fit(RESIZE))
    assert not found.pictures
    arrays = found.arrays(unsure, test.images.numpy(), unsure(test.images.numpy()), Fit(RESIZE))
    assert set(arrays) == {"images", "probabilities"}
