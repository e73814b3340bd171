"""Replicas behind the edge, under load, in real containers: balance, stop, kill, scale, upgrade."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soaks.load import ConstantLoad, once_ready
from tests.support.containers import MODEL, Stack, call, changed_image, docker, healthy, inspect, upgrade

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

REPLICAS = 3


@pytest.fixture(scope="module")
def fleet(images: dict[str, str], repository: Path) -> Iterator[Stack]:
    """Three replicas behind the edge."""
    fleet = Stack(repository, **images)
    try:
        fleet.up("--scale", f"service={REPLICAS}", "service", "edge")
        once_all_answer(fleet)
        yield fleet
    finally:
        fleet.down()


def once_all_answer(fleet: Stack) -> None:
    """Wait until every running replica has answered a call of the edge."""
    before = counts(fleet)

    def every_replica_answers() -> bool:
        for _ in range(4 * len(before)):
            call(fleet.address, wait=True)
        return all(now > before[container] for container, now in counts(fleet).items())

    once_ready(every_replica_answers, "the edge sends calls to every replica")


def counts(fleet: Stack) -> dict[str, float]:
    """Answered rows by running replica."""
    running = [container for container in fleet.containers() if inspect(container)["State"]["Running"]]
    return {container: fleet.metric(container, "inference_rows_total") for container in running}


def test_the_calls_of_one_connection_go_to_every_replica(fleet: Stack) -> None:
    containers = fleet.containers()
    before = [fleet.metric(container, "inference_requests_total") for container in containers]
    with ConstantLoad(fleet.address, 1, rate=100) as load:  # one connection
        time.sleep(3)
    after = [fleet.metric(container, "inference_requests_total") for container in containers]
    shares = [(now - then) / load.outcome.count() for now, then in zip(after, before, strict=True)]
    assert load.outcome.failed == 0 and sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.12), "least request of two replicas drawn at random"


def test_our_client_balances_over_the_addresses_of_a_name(fleet: Stack) -> None:
    before = list(counts(fleet).values())
    code = (
        "import numpy as np; from service.client import Client\n"
        "with Client('service:8001') as client:\n"
        f"    for _ in range(300): client.predict('{MODEL}', np.zeros((1, 28, 28, 1), np.uint8))\n"
    )
    docker("exec", fleet.containers()[0], "python", "-c", code)
    assert [now - then for now, then in zip(counts(fleet).values(), before, strict=True)] == pytest.approx(
        [100] * 3, abs=30
    )


def test_stopping_a_replica_fails_no_call_of_clients_without_retries(fleet: Stack) -> None:
    leaving = fleet.containers()[0]
    with ConstantLoad(fleet.address, 4, rate=50) as load:
        time.sleep(1)
        docker("stop", leaving)
        time.sleep(1)
    assert load.outcome.failed == 0, load.outcome.texts
    assert load.outcome.count() > 500 and inspect(leaving)["State"]["ExitCode"] == 0
    docker("start", leaving)
    once_ready(lambda: healthy(leaving), "the replica is healthy again")
    once_all_answer(fleet)


def test_killing_a_replica_fails_no_call_of_clients_with_the_retry_policy(fleet: Stack) -> None:
    killed = fleet.containers()[1]
    with ConstantLoad(fleet.address, 8, retry=True) as load:
        time.sleep(1)
        docker("kill", killed)
        time.sleep(4)
    assert load.outcome.failed == 0, load.outcome.texts
    assert load.outcome.count() > 1000
    assert set(counts(fleet)) == set(fleet.containers()) - {killed}


def test_scaling_in_and_out_under_load_fails_no_call_of_clients_without_retries(fleet: Stack) -> None:
    with ConstantLoad(fleet.address, 4, rate=50) as load:
        for replicas in (1, REPLICAS):
            fleet.up("--no-recreate", "--scale", f"service={replicas}", "service")
            once_all_answer(fleet)
            assert len(counts(fleet)) == replicas
    assert load.outcome.failed == 0, load.outcome.texts


def test_an_upgrade_under_load_replaces_every_replica_and_fails_no_call(
    fleet: Stack, images: dict[str, str], tmp_path: Path
) -> None:
    image, old = changed_image(images["SERVICE_IMAGE"], tmp_path), set(fleet.containers())
    with ConstantLoad(fleet.address, 4, rate=50) as load:
        done = upgrade(fleet, image)
        assert done.returncode == 0, done.stdout + done.stderr
        time.sleep(1)
    assert load.outcome.failed == 0, load.outcome.texts
    new = set(fleet.containers())
    assert len(new) == len(old) == REPLICAS and not new & old
    assert {inspect(container)["Config"]["Image"] for container in new} == {image}


def test_an_upgrade_to_an_image_that_does_not_start_keeps_the_replicas_and_fails(
    fleet: Stack, images: dict[str, str], tmp_path: Path
) -> None:
    image, old = changed_image(images["SERVICE_IMAGE"], tmp_path, 'CMD ["--device", "cuda"]'), set(fleet.containers())
    with ConstantLoad(fleet.address, 4, rate=50) as load:
        done = upgrade(fleet, image)
    assert done.returncode == 1
    assert "error: --device cuda" in done.stderr and "error: a new replica is" in done.stderr
    assert load.outcome.failed == 0, load.outcome.texts
    assert set(fleet.containers()) == old and set(counts(fleet)) == old


def test_an_upgrade_of_a_stack_that_does_not_run_says_how_to_start_it(images: dict[str, str], repository: Path) -> None:
    done = upgrade(Stack(repository, **images), images["SERVICE_IMAGE"])
    assert done.returncode == 1 and "docker compose up --wait" in done.stderr
