"""Overload: an open loop at ten times the capacity of the service, for a minute.

A slow model makes the capacity small, so that a load generator on the same machine can exceed it tenfold without taking
CPU time from the service. The capacity is the throughput of a closed loop with as many callers as the queue has rows.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from onnx import TensorProto, helper, numpy_helper

from service.pb import inference_pb2 as pb
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.soaks.load import Outcome, channel, report
from tests.support.models import add_version
from tests.support.processes import ServiceProcess
from tests.support.requests import infer_request

FACTOR = 10
WIDTH, LAYERS = 1024, 500
BATCH, QUEUE = 8, 32
CONFIG = f"max_batch_size: {BATCH} dynamic_batching {{ default_queue_policy {{ max_queue_size: {QUEUE} }} }}"
CAPACITY_SECONDS = 8.0


def main() -> int:
    """Run the soak on the given gRPC servers; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soaks.overload", description=__doc__)
    parser.add_argument("--grpc-server", choices=("native", "aio"), action="append", help="repeatable; default: both")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the overload (%(default)s)")
    parser.add_argument("--deadline", type=float, help="deadline of each call, in seconds; none if not given")
    options = parser.parse_args()
    return max(
        overload(grpc_server, options.seconds, options.deadline)
        for grpc_server in options.grpc_server or ("native", "aio")
    )


def overload(grpc_server: str, seconds: float, deadline: float | None) -> int:
    """Run the soak on one gRPC server; the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        add_version(Path(folder), "slow", slow_model(), config=CONFIG)
        service = ServiceProcess(Path(folder), "--grpc-server", grpc_server, "--device", "cpu")
        process = psutil.Process(service.process.pid)
        capacity = closed_loop(service.address, QUEUE, CAPACITY_SECONDS)
        rate = FACTOR * capacity
        memory: list[float] = []
        outcome, behind = open_loop(service.address, rate, seconds, deadline, lambda: memory.append(resident(process)))
        after = closed_loop(service.address, QUEUE, CAPACITY_SECONDS)
        status = service.stop()
    goodput = outcome.count() / seconds
    bound = 1e3 * (QUEUE + 2 * BATCH) / goodput  # a full queue, the running batch, and the request's own batch
    refused = "RESOURCE_EXHAUSTED" if deadline is None else "DEADLINE_EXCEEDED"
    unexpected = outcome.failed - outcome.count("RESOURCE_EXHAUSTED") - (deadline is not None) * outcome.count(refused)
    growth = memory[-1] - memory[len(memory) // 6]
    for text, count in outcome.texts.most_common(3):
        print(f"  {count} × {text}")
    print(f"\n{grpc_server} server: capacity {capacity:.0f} requests/s; load {rate:.0f} requests/s for {seconds:.0f} s")
    return report(
        grpc_server,
        {
            "calls": (f"{outcome.count() + outcome.failed:,}", True),
            "sent / planned": (f"{(outcome.count() + outcome.failed) / (rate * seconds):.2f}", behind < 0.05),
            "answered per second": (f"{goodput:.0f}", True),
            "goodput / capacity": (f"{goodput / capacity:.2f} (at least 0.9)", goodput >= 0.9 * capacity),
            "p99 of answered calls (ms)": (
                f"{outcome.percentile(99):.0f} (bound {bound:.0f})",
                outcome.percentile(99) <= bound,
            ),
            "p50, p99 of refused calls (ms)": (
                f"{outcome.percentile(50, refused):.1f}, {outcome.percentile(99, refused):.1f}",
                deadline is not None or outcome.percentile(99, refused) < 50,
            ),
            "other failures": (str(unexpected), unexpected == 0),
            "resident memory, growth (MiB)": (f"{memory[-1]:.0f}, {growth:+.1f}", growth < 5),
            "capacity after / before": (f"{after / capacity:.2f}", after > 0.9 * capacity),
            "exit status": (str(status), status == 0),
        },
    )


def slow_model() -> bytes:
    """An ONNX model with LAYERS matrix products, milliseconds per batch: `x` FP32 [N, WIDTH] -> `y` FP32 [N, WIDTH]."""
    weights = numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "w")
    names = ["x", *(f"h{layer}" for layer in range(LAYERS - 1)), "y"]
    nodes = [helper.make_node("MatMul", [source, "w"], [target]) for source, target in pairwise(names)]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", WIDTH])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def request() -> pb.ModelInferRequest:
    return infer_request("slow", x=np.ones((1, WIDTH), np.float32))


def closed_loop(address: str, callers: int, seconds: float) -> float:
    """Responses per second with `callers` callers, each of which calls again at once."""
    count = [0] * callers
    end = time.perf_counter() + seconds
    with channel(address, retry=False) as connection:
        stub = GRPCInferenceServiceStub(connection)

        def call(index: int) -> None:
            message = request()
            while time.perf_counter() < end:
                stub.ModelInfer(message, timeout=60)
                count[index] += 1

        threads = [threading.Thread(target=call, args=(index,)) for index in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(count) / seconds


def open_loop(
    address: str, rate: float, seconds: float, deadline: float | None, every_second: Callable[[], None]
) -> tuple[Outcome, float]:
    """Send `rate` requests per second. Returns the outcome, and the most seconds that the sender fell behind."""
    outcome, message, ended = Outcome(), request(), threading.Semaphore(0)
    sent, behind, next_second = 0, 0.0, 1.0
    with channel(address, retry=False) as connection:
        stub = GRPCInferenceServiceStub(connection)
        started = time.perf_counter()
        while (now := time.perf_counter() - started) < seconds:
            while sent < now * rate:
                due = started + sent / rate
                call = stub.ModelInfer.future(message, timeout=deadline)

                def done(call: Any, due: float = due) -> None:
                    error = call.exception()
                    outcome.add(time.perf_counter() - due, error)
                    ended.release()

                call.add_done_callback(done)
                sent += 1
            behind = max(behind, now - sent / rate)
            if now > next_second:
                every_second()
                next_second += 1.0
            time.sleep(0.002)
        for _ in range(sent):
            ended.acquire()
    return outcome, behind


def resident(process: psutil.Process) -> float:
    """Resident memory in MiB."""
    return float(process.memory_info().rss) / 2**20


if __name__ == "__main__":
    sys.exit(main())
