"""Training beside other load: idle, beside one busy process, and under a quota of a quarter of a processor.

`python -m tests.benchmarks.train_neighbours [--rounds 3] [--seconds 6]`. For each way in which OpenMP's threads may
wait (GNU OpenMP's own, the job's, passively), a process trains the network for some seconds and prints images per
second and processor time per image. All combinations take turns within each round, and ratios are those of medians.

Not here: training time and accuracy (train_speed.py).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median

from training.processors import SPIN_COUNT, available_processors, wait_passively

WAITS = {
    "OpenMP's own": {"GOMP_SPINCOUNT": "300000"},  # GNU OpenMP's default for as many threads as processors
    "the job's": {"GOMP_SPINCOUNT": SPIN_COUNT},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
BUSY = "while True: pass"
QUOTA = 0.25


def worker(name: str, seconds: float, threads: int) -> None:
    """Train for some seconds, and print images per second and microseconds of processor time per image."""
    wait_passively()
    import torch

    from training.data.dataset import Dataset, Split
    from training.networks.registry import NETWORKS
    from training.trainer.device import keep_freed_memory, use_threads
    from training.trainer.distributed import SINGLE_PROCESS
    from training.trainer.loop import Trainer
    from training.trainer.recipe import recipe_for

    use_threads(threads)
    keep_freed_memory()
    count, network = 20_000, NETWORKS[name]
    images = torch.randint(0, 256, (count, *network.image_shape), dtype=torch.uint8)
    split = Split(images, torch.randint(0, 10, (count,)))
    recipe = recipe_for("tuned", network, Dataset(network.dataset, split, split, ()), seed=0)
    trainer = Trainer(network.classifier(), split, split[:1], recipe, torch.device("cpu"), SINGLE_PROCESS)
    trainer.batches.show_view(0)
    for _ in range(5):
        trainer.train_step(torch.randperm(count)[: recipe.batch_size])
    done, started, processor_started = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - started) < seconds:
        trainer.train_step(torch.randperm(count)[: recipe.batch_size])
        done += recipe.batch_size
    print(json.dumps({"rate": done / elapsed, "microseconds": (time.process_time() - processor_started) / done * 1e6}))


@contextmanager
def busy_process() -> Iterator[None]:
    """One process that computes without end."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(
    name: str, seconds: float, wait: dict[str, str], *, threads: int = 0, group: Path | None = None
) -> dict[str, float]:
    """One run of the worker, in a cgroup if one is given."""
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-m", "tests.benchmarks.train_neighbours", "--worker", name]
    command += ["--seconds", str(seconds), "--threads", str(threads)]
    if group:
        command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command]
    output = subprocess.run(command, env=environment | wait, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(output)
    return result


@contextmanager
def quota_group() -> Iterator[Path | None]:
    """A cgroup with a quota of QUOTA processors; None where this user cannot make one."""
    v1 = Path("/sys/fs/cgroup/cpu")
    parent = v1 if v1.is_dir() else Path("/sys/fs/cgroup")
    try:
        group = Path(tempfile.mkdtemp(prefix="bench-train-", dir=parent))
        quota = (
            ("cpu.cfs_quota_us", f"{int(QUOTA * 100_000)}")
            if v1.is_dir()
            else ("cpu.max", f"{int(QUOTA * 100_000)} 100000")
        )
        (group / quota[0]).write_text(quota[1])
    except OSError as error:
        print(f"no quota measured: {error}")
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mnist-simplecnn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.seconds, arguments.threads)
        return
    results: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    with quota_group() as group:
        for _ in range(arguments.rounds):
            for wait, environment in WAITS.items():
                for beside, neighbour in (("idle", nullcontext()), ("one busy process", busy_process())):
                    with neighbour:
                        results[beside, wait].append(measure(arguments.model, arguments.seconds, environment))
            job = WAITS["the job's"]
            results["idle", "one thread"].append(measure(arguments.model, arguments.seconds, job, threads=1))
            if group:
                results[f"quota {QUOTA}", "the job's"].append(
                    measure(arguments.model, 4 * arguments.seconds, job, group=group)
                )
    print(f"{arguments.model}, {available_processors()} processors, medians of {arguments.rounds} rounds")
    print("beside             waiting        images/s   µs of processor time an image")
    middle = {}
    for (beside, wait), runs in results.items():
        middle[beside, wait] = {key: median(run[key] for run in runs) for key in ("rate", "microseconds")}
        print(
            f"{beside:18} {wait:14} {middle[beside, wait]['rate']:8,.0f}   {middle[beside, wait]['microseconds']:8,.0f}"
        )
    idle, own = middle["idle", "the job's"]["rate"], middle["idle", "OpenMP's own"]["rate"]
    busy = middle["one busy process", "the job's"]["rate"]
    print(f"beside one busy process: {busy / idle:.2f} of idle (target 0.45)")
    print(f"idle: {idle / own:.2f} of OpenMP's own waiting (target 0.97)")
    if group:
        ratio = middle[f"quota {QUOTA}", "the job's"]["microseconds"] / middle["idle", "one thread"]["microseconds"]
        print(f"quota of {QUOTA}: {ratio:.2f} of one thread's processor time an image (target 1.15)")


if __name__ == "__main__":
    main()
