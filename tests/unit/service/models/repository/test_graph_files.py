"""The files of a graph: weights through links and no further, and content that is no graph."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx.backend.test
import pytest
from onnx import TensorProto, helper
from onnx.external_data_helper import _get_all_tensors, uses_external_data

from service.core.load_errors import FilesError
from service.models.loader import load
from service.models.repository.graph_files import external_locations, open_weights
from service.models.repository.scan import read_model_folder
from service.runtime.session import Engine
from tests.support.graphs import external, graph, weighted_model
from tests.support.loading import CPU, load_only, refusal
from tests.support.publishing import publish_brightness

X = np.ones((1, 3), np.float32)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n"


def serves(repository: Path) -> bool:
    """Whether the only model answers with the weights of weighted_model()."""
    folder = read_model_folder(next(path for path in repository.iterdir() if not path.name.startswith(".")))
    model = load(folder, 1, CPU)
    model.batcher.close()
    return model.spec.name == folder.name


def write(folder: Path, names: tuple[str, str] = ("model.onnx", "model.onnx_data")) -> None:
    """Write the weighted model and its weights under these names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(names, weighted_model(), strict=True):
        (folder / name).write_bytes(content)


def version(repository: Path) -> Path:
    folder = repository / "m" / "1"
    folder.mkdir(parents=True)
    return folder


# --- through links ---


def test_weights_are_found_in_a_folder_of_blobs_of_the_repository(tmp_path: Path) -> None:
    """As the Hugging Face hub's cache has it: both files are links into a folder of blobs."""
    write(tmp_path / "models" / ".blobs", ("aa11", "bb22"))
    folder = version(tmp_path / "models")
    (folder / "model.onnx").symlink_to("../../.blobs/aa11")
    (folder / "model.onnx_data").symlink_to("../../.blobs/bb22")
    assert serves(tmp_path / "models")


def test_the_text_of_a_link_is_followed_as_the_link(tmp_path: Path) -> None:
    """Git writes links as text where symbolic links are turned off, as on Windows."""
    write(tmp_path / "models" / ".blobs", ("aa11", "bb22"))
    folder = version(tmp_path / "models")
    (folder / "model.onnx").write_text("../../.blobs/aa11")
    (folder / "model.onnx_data").write_text("../../.blobs/bb22")
    assert serves(tmp_path / "models")


def test_weights_are_found_through_a_version_that_links_to_a_snapshot_of_the_hub(tmp_path: Path) -> None:
    """The snapshot's files are links too; the blobs lie where the link of the graph leads."""
    write(tmp_path / "hub" / "blobs", ("aa11", "bb22"))
    snapshot = tmp_path / "hub" / "snapshots" / "abc" / "onnx"
    snapshot.mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to("../../../blobs/aa11")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/bb22")
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "1").symlink_to(snapshot)
    assert serves(tmp_path / "models")


def test_weights_are_found_beside_any_file_that_the_graphs_link_leads_through(tmp_path: Path) -> None:
    """The repository links the graph alone, to a snapshot whose files are links to blobs."""
    write(tmp_path / "hub" / "blobs", ("aa11", "bb22"))
    snapshot = tmp_path / "hub" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to("../../blobs/aa11")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/bb22")
    (version(tmp_path / "models") / "model.onnx").symlink_to(snapshot / "model.onnx")
    assert serves(tmp_path / "models")


@pytest.mark.parametrize("linked", ["m", "m/1", "m/1/model.onnx"])
def test_weights_are_found_in_a_folder_of_releases(tmp_path: Path, linked: str) -> None:
    write(tmp_path / "releases" / "m" / "1")
    link = tmp_path / "models" / linked
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "releases" / linked)
    assert serves(tmp_path / "models")


def test_weights_may_lie_in_a_folder_below_the_graph(tmp_path: Path) -> None:
    model, weights = weighted_model("data/./w.bin")
    folder = version(tmp_path)
    (folder / "data").mkdir()
    (folder / "model.onnx").write_bytes(model)
    (folder / "data" / "w.bin").write_bytes(weights)
    assert serves(tmp_path)


def test_the_weights_of_the_link_are_the_ones_that_answer(tmp_path: Path) -> None:
    write(tmp_path / "blobs")
    folder = version(tmp_path / "models")
    (folder / "model.onnx").symlink_to("../../../blobs/model.onnx")
    (folder / "model.onnx_data").write_bytes(np.full(3, 7, np.float32).tobytes())  # beside the link: first
    content = (folder / "model.onnx").read_bytes()
    weights = {"model.onnx_data": (folder / "model.onnx_data").read_bytes()}
    engine = Engine(content, device="cpu", intra_op_threads=1, folder=folder, weights=weights)
    assert engine.run((X,))[0].tolist() == [[7, 7, 7]]
    assert serves(tmp_path / "models")


# --- and no further ---


def refusal_of(repository: Path, location: str = "model.onnx_data") -> str:
    (repository / "m" / "1" / "model.onnx").write_bytes(weighted_model(location)[0])
    return refusal(repository)


def test_a_link_out_of_what_the_operator_gave_is_refused_and_the_message_says_where_it_leads(tmp_path: Path) -> None:
    folder = version(tmp_path)
    (folder / "model.onnx_data").symlink_to("/etc/passwd")
    message = refusal_of(tmp_path)
    assert f"{folder / 'model.onnx_data'} leads to /etc/passwd, outside the repository" in message


def test_a_folder_that_leads_out_is_refused_too(tmp_path: Path) -> None:
    (version(tmp_path) / "etc").symlink_to("/etc")
    assert "leads to /etc/passwd, outside" in refusal_of(tmp_path, "etc/passwd")


@pytest.mark.parametrize("location", ["/etc/passwd", "../../../../../../etc/passwd", "a/../model.onnx_data", ""])
def test_a_path_in_the_graph_that_does_not_lie_beside_it_is_refused(tmp_path: Path, location: str) -> None:
    folder = version(tmp_path)
    (folder / "a").mkdir()
    (folder / "model.onnx_data").write_bytes(weighted_model()[1])
    assert f"names the weight file {location!r}; weights must lie beside the graph" in refusal_of(tmp_path, location)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.exists, "model.onnx_data does not exist; model.onnx keeps weights there"),
        (lambda path: path.symlink_to("nowhere"), "nowhere, which does not exist"),
        (lambda path: path.symlink_to(path.name), "cannot be read"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: os.mkfifo(path), "is not a file"),
        (lambda path: path.write_bytes(b""), "model.onnx_data is empty"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid x\n"), "run git lfs pull"),
    ],
    ids=["missing", "dangling", "circle", "folder", "pipe", "empty", "pointer"],
)
def test_weights_that_cannot_be_read_are_named(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(version(tmp_path) / "model.onnx_data")
    assert message in refusal_of(tmp_path)


# --- content that is no graph ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "model.onnx is empty"),
        (POINTER, "is a Git LFS pointer, not the file"),
        (b"../../.blobs/ec8eb6", ".blobs/ec8eb6 cannot be read: No such file or directory"),
        (b"../../../secret", "holds the text of a link to"),
        (b"./model.onnx", "holds the text of a link that leads in a circle"),
        (b"not a graph", "cannot be opened"),
    ],
    ids=["empty", "pointer", "dangling", "outside", "circle", "text"],
)
def test_content_that_stands_in_for_a_graph_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (version(tmp_path) / "model.onnx").write_bytes(content)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize("name", ["config.pbtxt", "1/manifest.json", "1/golden.npz", "labels.txt"])
def test_a_pointer_in_place_of_any_file_is_named(tmp_path: Path, name: str) -> None:
    publish_brightness(tmp_path)
    model = tmp_path / "brightness"
    if name == "labels.txt":  # which only a version without a manifest reads
        (model / "1" / "manifest.json").unlink()
    (model / name).write_bytes(POINTER)
    assert f"{name} is a Git LFS pointer, not the file itself; run git lfs pull" in refusal(tmp_path)


def test_a_pipe_in_place_of_a_graph_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(version(tmp_path) / "model.onnx")
    assert "model.onnx cannot be read: it is not a regular file" in refusal(tmp_path)


# --- reading a graph without the onnx package ---


def test_the_weight_files_of_every_kind_of_tensor_are_found() -> None:
    """Constants, sparse constants, attributes, and the graphs and functions inside a graph."""
    one = np.ones(1, np.float32)
    inner = helper.make_graph(
        [helper.make_node("Identity", ["e"], ["z"])],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [external("e", one, "inner.bin")],
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=external("c", one, "attribute.bin")),
        helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner),
    ]
    model = graph(nodes, constants=[external("w", one, "top.bin"), external("v", one, "top.bin")])
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(external("s", one, "sparse.bin"))
    function = model.functions.add(name="f")
    function.node.add(op_type="Constant").attribute.add(name="value", t=external("f", one, "function.bin"))
    hidden = external("h", one, "unused.bin")
    hidden.data_location = TensorProto.DEFAULT
    model.graph.initializer.append(hidden)
    found = external_locations(model.SerializeToString())
    assert found == ["attribute.bin", "function.bin", "inner.bin", "sparse.bin", "top.bin"]


def test_the_same_files_are_found_as_by_the_onnx_package() -> None:
    """In every model that the package ships, of which few have such files, and in one cut short at any byte."""
    for path in sorted((Path(onnx.backend.test.__file__).parent / "data").glob("simple/*/model.onnx")):
        content = path.read_bytes()
        expected = {
            entry.value
            for tensor in _get_all_tensors(onnx.ModelProto.FromString(content))
            if uses_external_data(tensor)
            for entry in tensor.external_data
            if entry.key == "location"
        }
        assert external_locations(content) == sorted(expected)
    model = weighted_model()[0]
    assert all(external_locations(model[:end]) in ([], ["model.onnx_data"]) for end in range(len(model)))


def test_large_weights_are_mapped_and_not_copied(tmp_path: Path) -> None:
    """64 MiB of weights add less than 16 MiB to the memory that belongs to the process alone."""
    weights = np.ones((2**24,), np.float32)
    folder = version(tmp_path)
    model = graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])], shape=("N", 2**24), constants=[external("w", weights, "w.bin")]
    )
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "w.bin").write_bytes(weights.tobytes())
    (folder.parent / "config.pbtxt").write_text("max_batch_size: 0")
    content = (folder / "model.onnx").read_bytes()
    before = private_bytes()
    engine = Engine(
        content,
        device="cpu",
        intra_op_threads=1,
        folder=folder,
        weights=open_weights(folder / "model.onnx", content, [tmp_path]),
    )
    assert engine.signature.inputs[0].shape == (None, 2**24)
    assert private_bytes() - before < 16 * 2**20


def private_bytes() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def test_a_refusal_of_files_has_the_code_files(tmp_path: Path) -> None:
    version(tmp_path)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(weighted_model("/etc/passwd")[0])
    with pytest.raises(FilesError):
        load_only(tmp_path)
