"""A version's fit is the manifest's record, else the graph's; unknown and contradictory records are refused."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.core.load_errors import FilesError
from service.models.repository.fit_record import KEY, recorded_fit
from service.models.repository.manifest import Manifest
from service.pictures.fit import DRAWING, RESIZE, Fit
from tests.support.loading import load_only, refusal
from tests.support.models import add_version, doubling_model

FOLDER = Path("models/m/1")


def manifest(fit: Fit | None) -> Manifest:
    return Manifest.model_validate(
        {"model": "m", "sha256": "", "golden": {"tolerance": 0}, "fit": fit.record() if fit else None}
    )


def metadata(fit: Fit) -> dict[str, str]:
    return {KEY: json.dumps(fit.record())}


def test_the_manifests_record_comes_first_then_the_graphs_then_none() -> None:
    drawing, resize = Fit(DRAWING, share=0.5), Fit(RESIZE)
    assert recorded_fit(FOLDER, manifest(drawing), metadata(drawing)) == drawing
    assert recorded_fit(FOLDER, manifest(drawing), {}) == drawing
    assert recorded_fit(FOLDER, manifest(None), metadata(resize)) == resize
    assert recorded_fit(FOLDER, None, metadata(resize)) == resize
    assert recorded_fit(FOLDER, manifest(None), {}) is None and recorded_fit(FOLDER, None, {}) is None


@pytest.mark.parametrize("other", [Fit(RESIZE), Fit(DRAWING, share=0.5)], ids=str)
def test_a_manifest_and_a_graph_that_disagree_are_refused(other: Fit) -> None:
    with pytest.raises(FilesError, match=r"manifest.json records the fit drawing .*, the graph the fit .*publish it"):
        recorded_fit(FOLDER, manifest(Fit(DRAWING)), metadata(other))


@pytest.mark.parametrize("record", [{"method": "outline", "version": 1}, {"method": "resize", "version": 9}])
def test_a_fit_that_this_service_does_not_know_is_refused_with_the_advice_to_update_it(
    record: dict[str, object],
) -> None:
    newer = manifest(None).model_copy(update={"fit": record})
    with pytest.raises(FilesError, match=r"models/m/1/manifest.json records .*update the service"):
        recorded_fit(FOLDER, newer, {})
    with pytest.raises(FilesError, match=r"the graph in models/m/1 records .*update the service"):
        recorded_fit(FOLDER, None, {KEY: json.dumps(record)})


@pytest.mark.parametrize("text", ["", "yes", "[1]", "{}", '{"kernel": 3}', "[" * 100_000])
def test_metadata_of_a_strangers_graph_under_the_same_key_is_no_record(text: str) -> None:
    assert recorded_fit(FOLDER, None, {KEY: text}) is None


def doubling_with(text: str) -> bytes:
    graph = onnx.load_from_string(doubling_model())
    graph.metadata_props.add(key=KEY, value=text)
    return graph.SerializeToString()


def test_a_version_without_a_manifest_has_the_fit_of_its_graph(tmp_path: Path) -> None:
    add_version(tmp_path, "m", doubling_with(json.dumps(Fit(RESIZE).record())))
    assert load_only(tmp_path).fit == Fit(RESIZE)


def test_a_graph_whose_metadata_is_no_text_is_served_without_a_fit(tmp_path: Path) -> None:
    add_version(tmp_path, "m", doubling_with("xxxx").replace(b"xxxx", b"\xff\xfe\xfdx"))
    assert load_only(tmp_path).fit is None


def test_a_version_whose_manifest_records_an_unknown_fit_is_refused(tmp_path: Path) -> None:
    model = doubling_model()
    folder = add_version(tmp_path, "m", model)
    record = {"model": "m", "sha256": hashlib.sha256(model).hexdigest(), "golden": {"tolerance": 1e-4}}
    np.savez(folder / "golden.npz", x=np.ones((1, 4), np.float32), y=np.full((1, 4), 2, np.float32))
    (folder / "manifest.json").write_text(json.dumps(record | {"fit": {"method": "resize", "version": 2}}))
    assert "the fit resize expected version 1, got 2; update the service" in refusal(tmp_path)
    (folder / "manifest.json").write_text(json.dumps(record))
    assert load_only(tmp_path).fit is None, "an older manifest"


def test_a_key_of_another_tool_is_no_record() -> None:
    assert recorded_fit(FOLDER, None, {"fit": '{"method": "lbfgs"}'}) is None
