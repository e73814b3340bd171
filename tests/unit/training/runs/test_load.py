"""`training.load`: the classifier of a run with all that it needs, or an error that says what is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import training
from service.pictures.fit import Fit
from tests.support.paths import ROOT
from tests.support.training import NETWORK, SAMPLE, pins, short_recipe, train
from training.errors import TrainingError, UnknownNetwork
from training.networks.classifier import Classifier, predict
from training.networks.registry import NETWORKS
from training.runs.pins import PinnedCheckpoints
from training.runs.run_folder import RunFolder, create_run_folder

DIGITS = [str(digit) for digit in range(10)]
IMAGES = SAMPLE.test.images[:100]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Classifier]:
    """The folder of a run of one epoch, and its classifier."""
    folder = create_run_folder(tmp_path_factory.mktemp("runs"), "m", {"seed": 0})
    model, _ = train(short_recipe(), checkpoints=PinnedCheckpoints(folder.checkpoints, pins(labels=DIGITS), print))
    return folder, model


def test_a_loaded_classifier_answers_as_the_trained_one(trained: tuple[RunFolder, Classifier]) -> None:
    folder, model = trained
    loaded = training.load(str(folder.path))
    assert torch.equal(predict(loaded, IMAGES), predict(model, IMAGES)) and not loaded.training
    assert (loaded.labels, loaded.fit) == (tuple(DIGITS), Fit("drawing"))
    assert (loaded.scale, loaded.shift) == (model.scale, model.shift)


def test_weights_without_their_normalization_do_not_load(trained: tuple[RunFolder, Classifier]) -> None:
    state = trained[0].checkpoints.load()
    assert state is not None
    model = NETWORK.classifier()
    model.load_state_dict(state["weights"])
    assert torch.equal(predict(model, IMAGES), predict(trained[1], IMAGES))
    del state["weights"]["scale"], state["weights"]["shift"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"scale", "shift"'):
        NETWORK.classifier().load_state_dict(state["weights"])


def copy_of(folder: RunFolder, to: Path) -> Path:
    """A copy of the run folder's settings and checkpoint."""
    for name in ("settings.json", "checkpoint.pt"):
        (to / name).write_bytes((folder.path / name).read_bytes())
    return to


def test_the_temperature_divides_the_logits(trained: tuple[RunFolder, Classifier], tmp_path: Path) -> None:
    path = copy_of(trained[0], tmp_path)
    (path / "calibration.json").write_text('{"temperature": 2}')
    loaded = training.load(path)
    expected = torch.softmax(predict(trained[1], IMAGES).log() / 2, dim=1)
    torch.testing.assert_close(predict(loaded, IMAGES), expected)


@pytest.mark.parametrize(
    "content", ["", "{}", '{"temperature": null}', '{"temperature": 0}', '{"temperature": NaN}', "[]"]
)
def test_a_damaged_calibration_is_refused(trained: tuple[RunFolder, Classifier], tmp_path: Path, content: str) -> None:
    path = copy_of(trained[0], tmp_path)
    (path / "calibration.json").write_text(content)
    with pytest.raises(TrainingError, match=r"calibration\.json"):
        training.load(path)


def test_a_folder_that_is_no_run_is_refused_by_name(trained: tuple[RunFolder, Classifier], tmp_path: Path) -> None:
    runs, name = trained[0].path.parent, trained[0].path.name
    with pytest.raises(TrainingError, match="nowhere is no run folder: it is no folder"):
        training.load("nowhere")
    with pytest.raises(TrainingError, match=rf"no settings\.json; it holds run folders: give one, such as .*{name}"):
        training.load(runs)
    with pytest.raises(TrainingError, match=r"is no run folder: it has no settings\.json$"):
        training.load(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(
        TrainingError, match="has no checkpoint: a run saves the first one at the end of its first epoch"
    ):
        training.load(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 1000, -5000])
def test_a_checkpoint_that_was_cut_off_is_refused_with_its_size_and_without_dangerous_advice(
    trained: tuple[RunFolder, Classifier], tmp_path: Path, size: int
) -> None:
    path = copy_of(trained[0], tmp_path) / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:size])
    expected = (
        rf"checkpoint\.pt cannot be read: its {path.stat().st_size:,} bytes are no whole checkpoint \(\w+\); delete"
    )
    with pytest.raises(TrainingError, match=expected):
        training.load(tmp_path)


def test_a_network_that_is_not_registered_is_named(
    trained: tuple[RunFolder, Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(NETWORKS, NETWORK.name)
    with pytest.raises(UnknownNetwork, match="'mnist-simplecnn', which is not registered; import what adds it"):
        training.load(trained[0].path)


def test_a_network_that_was_changed_since_is_refused(
    trained: tuple[RunFolder, Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, NETWORK.name, NETWORKS["cifar10-lenet"])
    with pytest.raises(TrainingError, match="does not fit the network mnist-simplecnn of this code"):
        training.load(trained[0].path)


def test_importing_training_does_not_import_torch() -> None:
    code = "import sys, training, json; print(json.dumps(sorted({'torch', 'numpy'} & set(sys.modules))))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == []
