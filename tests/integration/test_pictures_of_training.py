"""The image that a model gets of a file through Classify is the one that the training job makes of it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from service.client import Client
from service.pictures.fit import RESIZE, Fit
from tests.support.local_service import local_service
from tests.support.models import BATCHING_CONFIG, add_version, toy_model
from tests.support.pictures import odd_files
from training.data.folder.load import load

FILES = odd_files()


def pixels_model(height: int, width: int, channels: int) -> bytes:
    """`image` UINT8 [N, height, width, channels] → `pixels` FP32 [N, height × width × channels], unchanged."""
    count = height * width * channels
    return toy_model(
        [
            helper.make_node("Reshape", ["image", "shape"], ["flat"]),
            helper.make_node("Cast", ["flat"], ["pixels"], to=TensorProto.FLOAT),
        ],
        inputs=[("image", TensorProto.UINT8, ["N", height, width, channels])],
        outputs=[("pixels", TensorProto.FLOAT, ["N", count])],
        constants=[onnx.numpy_helper.from_array(np.array([-1, count]), "shape")],
    )


@pytest.mark.parametrize("shape", [(16, 16, 3), (16, 16, 1)])
def test_service_and_training_job_make_the_same_image_of_every_file(
    shape: tuple[int, int, int], tmp_path: Path
) -> None:
    for folder in ("train/odd", "train/other", "test/odd", "test/other"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        colour = {"train": 255, "test": 0}[folder.split("/")[0]]
        Image.new("L", (20, 20), colour).save(tmp_path / "data" / folder / "0.png")
    for name, file in FILES.items():
        (tmp_path / "data/train/odd" / name).write_bytes(file.data)
    files = sorted((tmp_path / "data/train/odd").iterdir())
    assert len(files) == len(FILES) + 1
    trained = load(tmp_path / "data", shape, Fit(RESIZE), data_dir=tmp_path / "cache").train.images.numpy()

    add_version(tmp_path / "models", "pixels", pixels_model(*shape), config=BATCHING_CONFIG)
    with local_service(tmp_path / "models", "aio") as service, Client(service.address) as client:
        contents = [path.read_bytes() for path in files]
        results = client.classify("pixels", contents, top_k=int(np.prod(shape)), fit="resize")
    for path, image, result in zip(files, trained, results, strict=False):
        assert not result.error.message, path.name
        served = np.zeros(image.size, np.uint8)
        for found in result.classes:
            served[found.class_id] = found.probability
        np.testing.assert_array_equal(served.reshape(shape), image, path.name)
