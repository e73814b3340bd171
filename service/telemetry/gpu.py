"""What NVIDIA's management library says about the GPUs in use: memory and utilisation.

Owns asking NVML, and never failing for it: a driver that is gone is a metric that is missing. Metrics only; whether a
model answers is the engine's to know.
"""

from collections.abc import Iterator, Sequence

import pynvml
import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = structlog.get_logger(__name__)


class GpuCollector(Collector):
    """The metrics of the devices `cuda:N`; nothing for `cpu`, or where there is no NVML.

    CUDA numbers the devices that CUDA_VISIBLE_DEVICES leaves, NVML all there are: they are matched by UUID where that
    variable holds UUIDs, and by its numbers otherwise.
    """

    def __init__(self, devices: Sequence[str], visible: str = "") -> None:
        self._handles: dict[str, object] = {}
        numbers = [device.removeprefix("cuda:") for device in devices if device != "cpu"]
        if not numbers:
            return
        try:
            pynvml.nvmlInit()
            for number in numbers:
                self._handles[f"cuda:{number}"] = _handle(int(number), [name for name in visible.split(",") if name])
        except pynvml.NVMLError as error:
            log.warning("GPU metrics unavailable", reason=str(error))

    def collect(self) -> Iterator[Metric]:
        """Every family once, if there is any GPU."""
        if not self._handles:
            return
        used = GaugeMetricFamily(
            "inference_gpu_memory_used_bytes", "Memory of the GPU in use, by anyone.", labels=["device"]
        )
        total = GaugeMetricFamily("inference_gpu_memory_total_bytes", "Memory of the GPU.", labels=["device"])
        busy = GaugeMetricFamily(
            "inference_gpu_utilization_ratio",
            "Share of the last second or less in which the GPU computed.",
            labels=["device"],
        )
        for device, handle in self._handles.items():
            try:
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                utilization = pynvml.nvmlDeviceGetUtilizationRates(handle)
            except pynvml.NVMLError as error:
                log.warning("GPU metrics unavailable", device=device, reason=str(error))
                continue
            used.add_metric([device], float(memory.used))
            total.add_metric([device], float(memory.total))
            busy.add_metric([device], utilization.gpu / 100)
        yield from (used, total, busy)


def _handle(number: int, visible: Sequence[str]) -> object:
    name = visible[number] if number < len(visible) else str(number)
    if name.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)
