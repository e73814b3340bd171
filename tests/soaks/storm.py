"""Many callers with short deadlines at once, on the real network: what is answered in time, and what comes after.

1,024 callers share one connection and call again at once; first without deadlines, which shows the capacity, then with
them, then 32 callers with them, who show whether the storm left anything behind.
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

MANY, FEW = 1024, 32


def main() -> int:
    """Run on one grpc_server, or both."""
    parser = argparse.ArgumentParser(prog="python -m tests.soaks.storm", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--grpc-server", choices=("native", "aio"), action="append")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each part (%(default)s)")
    parser.add_argument("--deadline", type=float, default=0.1, help="of each call, in seconds (%(default)s)")
    options = parser.parse_args()
    grpc_servers = options.grpc_server or ("native", "aio")
    return max(
        storm(options.repository, grpc_server, options.seconds, options.deadline) for grpc_server in grpc_servers
    )


def storm(repository: Path, grpc_server: str, seconds: float, deadline: float) -> int:
    """The exit status: 0 if the service recovers; how it fares meanwhile is a figure."""
    service = ServiceProcess(repository, "--grpc-server", grpc_server, "--device", "cpu")
    capacity, _ = asyncio.run(call(service.address, MANY, seconds, None))
    during, codes = asyncio.run(call(service.address, MANY, seconds, deadline))
    after, rest = asyncio.run(call(service.address, FEW, seconds, deadline))
    status = service.stop()
    print(f"\n{grpc_server}: {MANY} callers, deadlines of {1e3 * deadline:.0f} ms")
    others = set(codes) - {"OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    return report(
        grpc_server,
        {
            "answered a second, without deadlines": (f"{capacity:,.0f}", True),
            "answered a second, in time": (f"{during:,.0f}", True),
            "failed in another way": (str(sorted(others)), not others),
            f"answered a second, {FEW} callers after it": (f"{after:,.0f}", set(rest) == {"OK"}),
            "exit status": (str(status), status == 0),
        },
    )


async def call(address: str, callers: int, seconds: float, deadline: float | None) -> tuple[float, Counter[str]]:
    """Answers a second, and how the calls ended."""
    payload = mixed_requests()[0].SerializeToString()
    codes: Counter[str] = Counter()
    started = time.perf_counter()
    async with grpc.aio.insecure_channel(address) as channel:
        infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def again() -> None:
            while time.perf_counter() - started < seconds:
                codes[(await infer(payload, timeout=deadline).code()).name] += 1

        await asyncio.gather(*(again() for _ in range(callers)))
    return codes["OK"] / (time.perf_counter() - started), codes


if __name__ == "__main__":
    sys.exit(main())
