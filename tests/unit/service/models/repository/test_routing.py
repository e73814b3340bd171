"""Routing by label, and the canary's share of the requests."""

from pathlib import Path

import pytest

from service.core.errors import NotReady
from service.models.engine_settings import EngineOptions
from service.models.loader import load
from service.models.reconciler import Reconciler
from service.models.registry import Registry, State
from service.models.repository.routing import Routing
from tests.support.models import BATCHING_CONFIG, routing_config


def reconcile(repository: Path, registry: Registry) -> None:
    Reconciler(
        repository, registry, lambda folder, version: load(folder, version, EngineOptions(["cpu"], 1))
    ).reconcile()


def route(repository: Path, **values: object) -> Registry:
    (repository / "double" / "config.pbtxt").write_text(routing_config(**values))
    registry = Registry(repository)
    reconcile(repository, registry)
    return registry


def test_labels_route_to_versions_and_only_labelled_versions_are_loaded(three_versions: Path) -> None:
    registry = route(three_versions, stable=1, canary=2)
    assert [registry.get("double", version).spec.version for version in ("", "stable", "canary", "2")] == [1, 1, 2, 2]
    assert [(status.version, status.state) for status in registry.index()] == [(1, State.READY), (2, State.READY)]


def test_with_only_a_canary_label_the_newest_other_version_is_the_default(three_versions: Path) -> None:
    registry = route(three_versions, canary=3)
    assert registry.get("double").spec.version == 2
    assert registry.get("double", "canary").spec.version == 3


def test_a_refused_canary_reports_its_reason_and_the_stable_version_serves(three_versions: Path) -> None:
    (three_versions / "double" / "2" / "model.onnx").write_bytes(b"no graph")
    registry = route(three_versions, stable=1, canary=2, canary_percent=50)
    with pytest.raises(NotReady, match=r"version 2 is unavailable: model\.onnx cannot be opened"):
        registry.get("double", "canary")
    assert {registry.get("double", "", str(key)).spec.version for key in range(50)} == {1}
    assert route(three_versions, stable=2, canary=1).get("double").spec.version == 3, (
        "the default is the newest version other than the canary"
    )


def test_a_change_of_routing_or_version_policy_reloads_nothing(three_versions: Path) -> None:
    registry = route(three_versions, stable=1, canary=2, canary_percent=10)
    before = registry.get("double", "stable"), registry.get("double", "canary")
    (three_versions / "double" / "config.pbtxt").write_text(
        routing_config(stable=2, canary=1, canary_percent=20) + " version_policy { all { } }"
    )
    reconcile(three_versions, registry)
    assert (registry.get("double", "canary"), registry.get("double", "stable")) == before
    assert registry.get("double").spec.version == 2
    (three_versions / "double" / "config.pbtxt").write_text(BATCHING_CONFIG.replace("8", "4"))
    reconcile(three_versions, registry)
    assert registry.get("double").spec.max_batch_size == 4, "a change of max_batch_size must reload the version"


@pytest.mark.parametrize("percent", [0.0, 0.5, 10.0, 100.0])
def test_the_canary_gets_its_percentage_with_and_without_keys(percent: float) -> None:
    routing = Routing({"canary": 2}, percent)
    keyed = sum(routing.takes_canary("m", str(key)) for key in range(20_000))
    assert abs(keyed / 200 - percent) < 0.5
    unkeyed = sum(routing.takes_canary("m", "") for _ in range(20_000))
    assert abs(unkeyed / 200 - percent) < 2


def test_a_key_always_gets_the_same_version_and_keeps_the_canary_as_its_share_grows() -> None:
    before, after = Routing({}, 10), Routing({}, 30)
    for key in map(str, range(1000)):
        assert before.takes_canary("m", key) == before.takes_canary("m", key)
        assert after.takes_canary("m", key) or not before.takes_canary("m", key)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stable": "newest"}, "stable expected a version, such as 3, got 'newest'"),
        ({"canary": 2, "canary_percent": "many"}, "expected a number from 0 to 100, got 'many'"),
        ({"canary": 2, "canary_percent": "101"}, "got '101'"),
        ({"canary": 2, "canary_percent": "nan"}, "got 'nan'"),
        ({"canary_percent": 5}, "needs the parameter canary"),
    ],
)
def test_invalid_routing_is_refused(three_versions: Path, values: dict[str, object], message: str) -> None:
    registry = route(three_versions, **values)
    assert message in registry.index()[0].reason
