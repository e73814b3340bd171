"""The simulated fleet obeys queueing theory."""

import pytest

from tests.benchmarks.fleet import BALANCES, Costs, closed_loop, open_loop

COSTS = Costs([(0, 100e-6), (64, 100e-6 + 64 * 50e-6)])


def test_batch_costs_are_interpolated_between_measured_points() -> None:
    assert COSTS.service(0) == pytest.approx(100e-6)
    assert COSTS.service(8) == pytest.approx(500e-6)
    bent = Costs([(1, 1.0), (2, 3.0), (4, 4.0)])
    assert [bent.service(rows) for rows in (1, 2, 3, 4)] == [1.0, 3.0, 3.5, 4.0]


def test_one_client_waits_for_network_and_a_batch_of_one() -> None:
    costs = Costs(COSTS.curve, outside=40e-6, delay=60e-6)
    outcome = closed_loop(costs, 1)
    assert outcome.throughput == pytest.approx(1 / 250e-6, rel=0.01)
    assert outcome.mean_batch == 1


def test_many_clients_are_limited_by_full_batches_or_by_the_network() -> None:
    assert closed_loop(COSTS, 512).throughput == pytest.approx(COSTS.capacity, rel=0.02)
    slow_network = Costs(COSTS.curve, outside=200e-6)
    assert closed_loop(slow_network, 512).throughput == pytest.approx(5000, rel=0.02)


def test_low_load_is_answered_completely_and_fast() -> None:
    outcome = open_loop(COSTS, 1, 0.1 * COSTS.capacity)
    assert outcome.refused == 0
    assert outcome.throughput == pytest.approx(0.1 * COSTS.capacity, rel=0.05)
    assert 150e-6 <= outcome.percentile(50) < 300e-6


def test_overload_is_answered_at_capacity_with_latency_bounded_by_the_queue() -> None:
    outcome = open_loop(COSTS, 1, 2 * COSTS.capacity)
    assert outcome.throughput == pytest.approx(COSTS.capacity, rel=0.05)
    assert outcome.refused / (outcome.refused + len(outcome.latencies)) == pytest.approx(0.5, abs=0.06)
    assert outcome.percentile(99) < (COSTS.queue_rows / COSTS.capacity + 2 * COSTS.service(64)) * 1.01


def test_capacity_scales_with_replicas_under_every_balancing_policy() -> None:
    for balance in BALANCES:
        outcome = open_loop(COSTS, 4, 2 * 4 * COSTS.capacity, balance=balance, seconds=0.5)
        assert outcome.throughput == pytest.approx(4 * COSTS.capacity, rel=0.08)


def test_best_of_two_has_a_lower_p99_than_random_choice() -> None:
    p99 = {
        balance: open_loop(COSTS, 8, 0.9 * 8 * COSTS.capacity, balance=balance).percentile(99)
        for balance in ("random", "best-of-two")
    }
    assert p99["best-of-two"] < 0.8 * p99["random"]
