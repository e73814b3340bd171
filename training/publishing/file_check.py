"""The check that a user's own files are answered as their images were: what is sent is what the network was taught.

The files of test images are read again from the disk, fitted as the manifest's record says, and run through the
exported graph by ONNX Runtime, which is what the service does with them.

Not here: golden pictures (golden.py), the check that the graph and PyTorch agree (export.py).
"""

import numpy as np
from numpy.typing import NDArray

from service.pictures.files import BadPicture
from service.pictures.fit import Fit
from service.pictures.fitting import fit_file
from training.data.dataset import Dataset
from training.errors import FileMismatch
from training.publishing.export import Run, labels_differ

# Test files that are checked, at most; of more, an even sample.
MAX_FILES = 500


def check_files(run: Run, dataset: Dataset, probabilities: NDArray[np.float32], fit: Fit) -> int:
    """Run the files of test images through the graph, `run`, and return their number; 0 without files.

    `probabilities` (N, classes) are those that the graph gave to the test images.

    Raises:
        FileMismatch: a file cannot be used, or its label is not that of its image; the message names the first.
    """
    count = len(dataset.test_files)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_FILES)).round().astype(int))
    labels, differing = dataset.label_names, []
    for index in chosen.tolist():
        file = dataset.test_files[index]
        try:
            (answer,) = run(fit_file(file.read_bytes(), dataset.image_shape, fit)[None])
        except (OSError, BadPicture) as error:
            raise FileMismatch(
                f"{file} was used for testing, and now cannot be ({error}); nothing was published"
            ) from error
        if labels_differ(probabilities[index][None], answer[None]).any():
            before, now = labels[probabilities[index].argmax()], labels[answer.argmax()]
            differing.append(f"{file} was {before!r} in the test and is {now!r} as the service reads it")
    if differing:
        raise FileMismatch(
            f"{len(differing)} of {len(chosen)} test files get another label than their images did, first: "
            f"{differing[0]}; nothing was published"
        )
    return len(chosen)
