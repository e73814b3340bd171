"""What every server of a version must reproduce: the answers to golden samples and to golden pictures.

Golden samples are test images. Golden pictures are small files made from test images, one for each way in which a
server may read files otherwise than this job, so that the version also proves decoding and fitting:

    turned.jpg    JPEG that its EXIF orientation turns
    photo.jpg     JPEG, larger than the network's input and of another shape
    cut-out.png   PNG with alpha: transparent where the picture is white
    grey-16.png   PNG with 16 bits a pixel
    exact.png     PNG with the network's size and channels: in place of the last two if the fit is `none`

Not here: the files of a user's own data set (file_check.py), writing golden.npz (publish.py).
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from service.pictures.files import BadPicture
from service.pictures.fit import DRAWING, NONE, Fit
from service.pictures.fitting import fit_file
from training.data.dataset import Split
from training.publishing.export import INPUT, OUTPUT, Run

# The arrays of golden.npz: one for the bytes of each file, and the answers in the order of the files' names.
PICTURE, PICTURE_ANSWERS = "picture:", "picture_answers"
# Pixels of a picture for one of the image, along each axis.
ENLARGEMENT = 4
# The probability of the right label that an answer to a golden picture has at least, so that it holds where another
# decoder gives pixels that differ by a level or two.
MIN_CONFIDENCE = 0.8
# EXIF's tag of the orientation, and its value for: turn by 90° clockwise to show it.
ORIENTATION, TURN_CLOCKWISE = 0x0112, 6


@dataclass(frozen=True)
class Golden:
    """The golden samples, as indices of test images (N,), and the golden pictures: the bytes of each file, by name."""

    samples: NDArray[np.int64]
    pictures: Mapping[str, bytes]

    def arrays(
        self, run: Run, images: NDArray[np.uint8], probabilities: NDArray[np.float32], fit: Fit
    ) -> dict[str, NDArray[Any]]:
        """The arrays of golden.npz. `probabilities` are those that the graph, `run`, gives to all test images."""
        arrays: dict[str, NDArray[Any]] = {INPUT: images[self.samples], OUTPUT: probabilities[self.samples]}
        if self.pictures:
            names, shape = sorted(self.pictures), images.shape[1:]
            arrays |= {f"{PICTURE}{name}": np.frombuffer(self.pictures[name], np.uint8) for name in names}
            answers = [run(fit_file(self.pictures[name], shape, fit)[None]) for name in names]
            arrays[PICTURE_ANSWERS] = np.concatenate(answers)
        return arrays


def choose(run: Run, test: Split, probabilities: Tensor, fit: Fit) -> Golden:
    """Choose the golden samples and make the golden pictures; `probabilities` are the network's, of the test images."""
    return Golden(
        golden_samples(probabilities, test.labels),
        golden_pictures(run, test, probabilities, fit),
    )


def golden_samples(probabilities: Tensor, labels: Tensor) -> NDArray[np.int64]:
    """Indices of two test images per class: the first one, and the correctly classified one with least confidence."""
    chosen = []
    for label in labels.unique().tolist():
        (of_class,) = torch.where(labels == label)
        correct = of_class[probabilities[of_class].argmax(1) == label]
        chosen.append(int(of_class[0]))
        if len(correct):
            chosen.append(int(correct[probabilities[correct, label].argmin()]))
    return np.unique(chosen)


def golden_pictures(run: Run, test: Split, probabilities: Tensor, fit: Fit) -> dict[str, bytes]:
    """A file of each kind, by name, made from a test image that is recognised with confidence in that file too.

    A kind is left out if no image is.
    """
    height, width, channels = test.images.shape[1:]

    def confidence(file: bytes, label: int) -> float:
        """The probability of the right label; 0 if another label has more or the file does not fit."""
        try:
            answer = run(fit_file(file, (height, width, channels), fit)[None])[0]  # (classes,)
        except BadPicture:
            return 0.0
        return float(answer[label]) if answer.argmax() == label else 0.0

    candidates = [
        (_picture(test.images[index].numpy(), fit), int(test.labels[index]))
        for index in _most_confident(probabilities, test.labels)
    ]
    # A server that ignores the EXIF orientation must not pass: pictures that are recognised lying down come last.
    candidates.sort(key=lambda candidate: confidence(_jpeg(_turned(candidate[0])), candidate[1]))
    files = {}
    for name, encode in (EXACT_KINDS if fit.method == NONE else KINDS).items():
        for position, (picture, label) in enumerate(candidates):
            file = encode(picture)
            if confidence(file, label) >= MIN_CONFIDENCE:
                files[name] = file
                candidates.append(candidates.pop(position))  # the next kind shows another class
                break
    return files


def _most_confident(probabilities: Tensor, labels: Tensor) -> list[int]:
    """The index of the most confident of each class's correctly classified images."""
    of_label = probabilities.gather(1, labels[:, None])[:, 0]  # (N,)
    of_label = torch.where(probabilities.argmax(1) == labels, of_label, 0)
    best = [int(torch.where(labels == label, of_label, -1).argmax()) for label in labels.unique().tolist()]
    return [index for index in best if of_label[index] > 0]


def _picture(image: NDArray[np.uint8], fit: Fit) -> Image.Image:
    """A picture of which the fit makes about this image (H, W, C): grey or RGB, and opaque."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    if fit.method == NONE:
        return picture
    width, height = (side * ENLARGEMENT for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    if fit.method == DRAWING:  # dark on a white page, and not in its middle
        page = Image.new("L", (width + height // 2, height + height // 2), 255)
        page.paste(ImageOps.invert(picture.convert("L")), (height // 8, height // 4))
        return page
    page = Image.new(picture.mode, (width + height // 2, height), "white")  # the fit crops the white sides
    page.paste(picture, (height // 4, 0))
    return page


def _turned(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.ROTATE_90)  # anticlockwise


def _jpeg(picture: Image.Image) -> bytes:
    return _saved(picture, "JPEG", quality=92)


def _turned_jpeg(picture: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_CLOCKWISE
    return _saved(_turned(picture), "JPEG", quality=92, exif=exif)


def _cut_out_png(picture: Image.Image) -> bytes:
    """Black or coloured pixels with as much transparency as gives the picture on white paper."""
    colours = np.asarray(picture.convert("RGB"), np.float64)
    alpha = 255 - colours.min(2, keepdims=True)
    ink = (colours - 255 + alpha) / np.maximum(alpha, 1) * 255
    return _saved(Image.fromarray(np.concatenate([ink, alpha], 2).round().astype(np.uint8), "RGBA"), "PNG")


def _grey_16_png(picture: Image.Image) -> bytes:
    return _saved(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257), "PNG")


def _png(picture: Image.Image) -> bytes:
    return _saved(picture, "PNG")


def _saved(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


KINDS: Mapping[str, Callable[[Image.Image], bytes]] = {
    "turned.jpg": _turned_jpeg,
    "photo.jpg": _jpeg,
    "cut-out.png": _cut_out_png,
    "grey-16.png": _grey_16_png,
}
EXACT_KINDS: Mapping[str, Callable[[Image.Image], bytes]] = {
    "turned.jpg": _turned_jpeg,
    "photo.jpg": _jpeg,
    "exact.png": _png,
}
