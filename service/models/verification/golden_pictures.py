"""Verifies that this service makes of picture files what the training job made of them, by the answers to a few.

The files differ in what decoders read differently: an EXIF orientation, transparency, 16 bits a pixel, the size. Not
here: reading the files and their answers (repository/golden_file.py), decoding and fitting (service.pictures).
"""

import numpy as np
from numpy.typing import NDArray

from service.core.load_errors import GoldenMismatch
from service.core.spec import ModelSpec, Run
from service.models.repository.golden_file import GoldenPictures
from service.models.verification.verifier import trial_run
from service.pictures.fit import Fit


def verify_pictures(pictures: GoldenPictures, spec: ModelSpec, fit: Fit, run: Run, *, rows: int) -> None:
    """Decode each file, fit it, run it in a batch of `rows`, and compare the first output with the golden answer.

    Raises:
        GoldenMismatch: a file cannot be used, or gets another label or another probability; the message names it.
        GraphError: the graph cannot run on the images.
    """
    from service.pictures.files import BadPicture  # here, because Pillow loads slowly and many versions need none
    from service.pictures.fitting import fit_file

    height, width, channels = spec.inputs[0].shape
    for (name, file), expected in zip(pictures.files.items(), pictures.answers, strict=True):
        try:
            image = fit_file(file, (height, width, channels), fit)
        except BadPicture as error:
            raise GoldenMismatch(f"golden picture {name} cannot be used with the fit {fit}: {error}") from error
        answer = trial_run(run, (np.repeat(image[None], rows, axis=0),))[0][0]
        if answer.shape != expected.shape:
            raise GoldenMismatch(
                f"golden picture {name}: expected {list(expected.shape)} values, got {list(answer.shape)}"
            )
        difference = float(np.abs(answer.astype(np.float64) - expected.astype(np.float64)).max())
        if answer.argmax() != expected.argmax() or not difference <= pictures.tolerance:  # "not <=" so that NaN fails
            raise GoldenMismatch(
                f"golden picture {name}, with the fit {fit}: expected {_show(spec, expected)}, got "
                f"{_show(spec, answer)}; values differ by {difference:.2e}, the tolerance is {pictures.tolerance:g}"
            )


def takes_images(spec: ModelSpec) -> bool:
    """Whether pictures can be fitted to the model: config.pbtxt may give its input another shape."""
    shapes = [tensor.shape for tensor in spec.inputs]
    return spec.batches and len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][2] in (1, 3) and min(shapes[0]) > 0


def _show(spec: ModelSpec, answer: NDArray[np.generic]) -> str:
    """The label and its probability."""
    class_id, labels = int(answer.argmax()), spec.outputs[0].labels
    label = repr(labels[class_id]) if class_id < len(labels) else f"class {class_id}"
    return f"{label} with {float(answer[class_id]):.3f}"
