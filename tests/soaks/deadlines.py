"""Many callers with short deadlines on `mnist-simplecnn`: goodput under expiring calls, and recovery afterwards.

1,024 callers share one connection, and each calls again at once: first without deadlines, which measures the capacity,
then with deadlines. Then 32 callers with deadlines check that the service has recovered.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc

from tests.soaks.load import mixed_requests, report
from tests.support.processes import ServiceProcess

MANY_CALLERS, FEW_CALLERS = 1024, 32


def main() -> int:
    """Run the soak on the given gRPC servers; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soaks.deadlines", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("models"), help="repository with mnist-simplecnn")
    parser.add_argument("--grpc-server", choices=("native", "aio"), action="append", help="repeatable; default: both")
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of each of the three phases (%(default)s)")
    parser.add_argument("--deadline", type=float, default=0.1, help="deadline of each call, in seconds (%(default)s)")
    options = parser.parse_args()
    grpc_servers = options.grpc_server or ("native", "aio")
    return max(
        run_soak(options.repository, grpc_server, options.seconds, options.deadline) for grpc_server in grpc_servers
    )


def run_soak(repository: Path, grpc_server: str, seconds: float, deadline: float) -> int:
    """Run the soak on one gRPC server; the exit status is 0 if the service recovers, whatever its goodput."""
    service = ServiceProcess(repository, "--grpc-server", grpc_server, "--device", "cpu")
    capacity, _ = asyncio.run(call(service.address, MANY_CALLERS, seconds, None))
    goodput, codes = asyncio.run(call(service.address, MANY_CALLERS, seconds, deadline))
    recovered, codes_after = asyncio.run(call(service.address, FEW_CALLERS, seconds, deadline))
    status = service.stop()
    print(f"\n{grpc_server} server: {MANY_CALLERS} callers, deadlines of {1e3 * deadline:.0f} ms")
    unexpected = set(codes) - {"OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    return report(
        grpc_server,
        {
            "answered per second, without deadlines": (f"{capacity:,.0f}", True),
            "answered per second, in time": (f"{goodput:,.0f}", True),
            "other statuses": (str(sorted(unexpected)), not unexpected),
            f"answered per second, {FEW_CALLERS} callers afterwards": (f"{recovered:,.0f}", set(codes_after) == {"OK"}),
            "exit status": (str(status), status == 0),
        },
    )


async def call(address: str, callers: int, seconds: float, deadline: float | None) -> tuple[float, Counter[str]]:
    """Responses per second, and the number of calls by status name."""
    payload = mixed_requests()[0].SerializeToString()
    codes: Counter[str] = Counter()
    started = time.perf_counter()
    async with grpc.aio.insecure_channel(address) as channel:
        infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def caller() -> None:
            while time.perf_counter() - started < seconds:
                codes[(await infer(payload, timeout=deadline).code()).name] += 1

        await asyncio.gather(*(caller() for _ in range(callers)))
    return codes["OK"] / (time.perf_counter() - started), codes


if __name__ == "__main__":
    sys.exit(main())
