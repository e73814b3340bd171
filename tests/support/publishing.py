"""A toy classifier of images, published as the training job publishes."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tests.support.models import toy_model
from training.publishing.publish import Artifact, newest_version, publish


def brightness_model(size: int, *, light_first: bool = False) -> bytes:
    """`images` UINT8 [N, size, size, 1] → `probabilities` FP32 [N, 2]: of a dark and of a light image.

    The probability of light is the brightest pixel / 255. With `light_first` the classes have the other order.
    """
    order = ["light", "dark"] if light_first else ["dark", "light"]
    return toy_model(
        [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("Cast", ["flat"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["pixels", "last"], ["brightest"]),
            helper.make_node("Div", ["brightest", "white"], ["light"]),
            helper.make_node("Sub", ["one", "light"], ["dark"]),
            helper.make_node("Concat", order, ["probabilities"], axis=1),
        ],
        inputs=[("images", TensorProto.UINT8, ["N", size, size, 1])],
        outputs=[("probabilities", TensorProto.FLOAT, ["N", 2])],
        constants=[
            helper.make_tensor("last", TensorProto.INT64, [1], [1]),
            helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        ],
    )


def publish_brightness(
    repository: Path, labels: tuple[str, str] = ("dark", "light"), *, size: int = 4, light_first: bool = False
) -> Path:
    """Add the toy classifier as the next version of `brightness`, under these labels. Returns its folder.

    It is published elsewhere and copied, as an operator may: the job refuses to publish other labels beside a version.
    """
    levels = np.array([0, 255], np.uint8)
    probabilities = np.array([[1, 0], [0, 1]], np.float32)
    artifact = Artifact(
        name="brightness",
        model=brightness_model(size, light_first=light_first),
        manifest={"golden": {"samples": 2, "tolerance": 1e-4}},
        golden={
            "images": np.broadcast_to(levels[:, None, None, None], (2, size, size, 1)),
            "probabilities": probabilities[:, ::-1] if light_first else probabilities,
        },
        label_names=labels,
        image_shape=(size, size, 1),
    )
    folder = repository / artifact.name
    folder.mkdir(parents=True, exist_ok=True)
    version, staging = folder / str(newest_version(folder) + 1), folder / ".copy.tmp"
    with tempfile.TemporaryDirectory() as elsewhere:
        published = publish(Path(elsewhere), artifact)
        if not (folder / "config.pbtxt").exists():
            shutil.copy(published.parent / "config.pbtxt", folder)
        shutil.copy(published.parent / "labels.txt", folder)
        shutil.copytree(published, staging)
        staging.rename(version)
    return version
