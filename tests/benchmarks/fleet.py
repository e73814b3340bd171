"""Simulates a fleet of replicas: throughput, latency and refusals under batching, load balancing and overload.

`python -m tests.benchmarks.fleet --help`; SCALING.md beside this file has the conclusions. A replica is a bounded queue
and an engine. The engine takes all queued requests, up to the largest batch, and computes them in a time that grows
with the number of rows, as the service's batcher does.
`make bench-scaling` measures the costs on a real service and compares the one-replica case with it.
"""

import argparse
import random
from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import simpy

Event = simpy.events.Event
Process = Generator[Event, Any, None]


@dataclass(frozen=True)
class Costs:
    """Measured costs of a service, in seconds."""

    curve: Sequence[tuple[int, float]]  # engine thread time by rows per batch, ascending, interpolated linearly
    outside: float = 0.0  # client and network per request, serialised
    delay: float = 0.0  # client and network per request, in parallel: mostly thread wake-ups
    largest_batch: int = 64
    queue_rows: int = 1024

    @property
    def capacity(self) -> float:
        """Rows per second in full batches."""
        return self.largest_batch / self.service(self.largest_batch)

    def service(self, rows: int) -> float:
        """Engine time of a batch."""
        place = min(max(bisect_left(self.curve, (rows, 0.0)), 1), len(self.curve) - 1)
        (low, at_low), (high, at_high) = self.curve[place - 1], self.curve[place]
        return at_low + (at_high - at_low) * (rows - low) / (high - low)


@dataclass
class Outcome:
    """Results of the requests that were sent in the simulated time."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    batches: list[int] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds

    @property
    def mean_batch(self) -> float:
        """Mean rows per batch."""
        return sum(self.batches) / len(self.batches) if self.batches else 0.0

    def percentile(self, percent: int) -> float:
        """Percentile of the latency, in seconds."""
        return quantiles(self.latencies, n=100)[percent - 1] if len(self.latencies) > 1 else float("nan")


class Replica:
    """One process of the service."""

    def __init__(self, env: simpy.Environment, costs: Costs, outcome: Outcome) -> None:
        self._env = env
        self._costs = costs
        self._outcome = outcome
        self._waiting: list[Event] = []
        self._arrival = env.event()
        self.load = 0  # requests in flight
        env.process(self._work())

    def submit(self) -> Event | None:
        """The event of the answer, or None if the queue is full."""
        if len(self._waiting) >= self._costs.queue_rows:
            return None
        answered = self._env.event()
        self._waiting.append(answered)
        self.load += 1
        if not self._arrival.triggered:
            self._arrival.succeed()
        return answered

    def _work(self) -> Process:
        while True:
            if not self._waiting:
                self._arrival = self._env.event()
                yield self._arrival
            batch, self._waiting = (
                self._waiting[: self._costs.largest_batch],
                self._waiting[self._costs.largest_batch :],
            )
            yield self._env.timeout(self._costs.service(len(batch)))
            self._outcome.batches.append(len(batch))
            self.load -= len(batch)
            for answered in batch:
                answered.succeed()


def closed_loop(costs: Costs, in_flight: int, *, seconds: float = 2.0) -> Outcome:
    """`in_flight` clients of one replica, each with one request at a time; clients and network share one CPU core."""
    env = simpy.Environment()
    outcome = Outcome(seconds)
    replica = Replica(env, costs, outcome)
    outside = simpy.Resource(env, capacity=1)

    def caller() -> Process:
        while True:
            began = env.now
            with outside.request() as turn:
                yield turn
                yield env.timeout(costs.outside)
            yield env.timeout(costs.delay)
            answered = replica.submit()
            assert answered is not None, "clients with one request each cannot fill the queue"
            yield answered
            outcome.latencies.append(env.now - began)

    for _ in range(in_flight):
        env.process(caller())
    env.run(until=seconds)
    return outcome


# Each policy picks the replica for the next request.
Balance = Callable[[Sequence[Replica], random.Random, int], Replica]
BALANCES: dict[str, Balance] = {
    "random": lambda replicas, chance, _: chance.choice(replicas),
    "round-robin": lambda replicas, _, number: replicas[number % len(replicas)],
    "least-loaded": lambda replicas, _, __: min(replicas, key=lambda replica: replica.load),
    "best-of-two": lambda replicas, chance, _: min(
        chance.sample(replicas, min(2, len(replicas))), key=lambda replica: replica.load
    ),
}


def open_loop(
    costs: Costs, replicas: int, rate: float, *, balance: str = "random", seconds: float = 2.0, seed: int = 0
) -> Outcome:
    """Poisson arrivals, `rate` per second, at a fleet behind a load balancer."""
    env = simpy.Environment()
    outcome = Outcome(seconds)
    fleet = [Replica(env, costs, outcome) for _ in range(replicas)]
    chance = random.Random(seed)  # noqa: S311 # a simulation, not cryptography

    def wait_for(answered: Event) -> Process:
        began = env.now
        yield answered
        outcome.latencies.append(env.now - began)

    def arrivals() -> Process:
        number = 0
        while True:
            yield env.timeout(chance.expovariate(rate))
            answered = BALANCES[balance](fleet, chance, number).submit()
            number += 1
            if answered is None:
                outcome.refused += 1
            else:
                env.process(wait_for(answered))

    env.process(arrivals())
    env.run(until=seconds)
    return outcome


def main() -> None:
    """Print throughput, refusals and latency of fleets, by load and balancing policy."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--batch-us", type=float, default=86.0, help="engine time per batch")
    parser.add_argument("--row-us", type=float, default=74.0, help="engine time per row")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument(
        "--loads", type=float, nargs="+", default=[0.5, 0.7, 0.9, 1.5], help="shares of the fleet's capacity"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="simulated time")
    arguments: Any = parser.parse_args()
    batch, row = arguments.batch_us * 1e-6, arguments.row_us * 1e-6
    costs = Costs([(0, batch), (64, batch + 64 * row)])
    print(f"capacity of a replica: {costs.capacity:,.0f} requests a second")
    print("replicas   load  balance         answered/s   refused   p50 ms   p99 ms  rows a batch")
    for replicas in arguments.replicas:
        for load in arguments.loads:
            for balance in BALANCES if replicas > 1 else ["random"]:
                rate = load * replicas * costs.capacity
                outcome = open_loop(costs, replicas, rate, balance=balance, seconds=arguments.seconds)
                sent = len(outcome.latencies) + outcome.refused
                print(
                    f"{replicas:8}  {load:5.2f}  {balance:14} {outcome.throughput:11,.0f} "
                    f"{outcome.refused / max(sent, 1):8.1%} {outcome.percentile(50) * 1e3:8.2f} "
                    f"{outcome.percentile(99) * 1e3:8.2f} {outcome.mean_batch:13.1f}"
                )


if __name__ == "__main__":
    main()
