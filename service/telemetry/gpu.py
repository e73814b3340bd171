"""GPU memory and utilisation, from NVIDIA's management library (NVML).

Owns reading NVML. An NVML error leaves the metrics out and is logged; it never fails a scrape or the service. Not here:
whether a GPU can still run models (runtime/).
"""

from collections.abc import Iterator, Sequence

import pynvml
import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = structlog.get_logger(__name__)


class GpuCollector(Collector):
    """The metrics of the devices `cuda:N`; no metrics for `cpu`, or without NVML.

    CUDA numbers only the devices that CUDA_VISIBLE_DEVICES (`visible`) leaves, NVML numbers all. If the variable holds
    UUIDs, devices are matched by UUID, else by the numbers in it.
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
        """Every metric once; nothing without a GPU."""
        if not self._handles:
            return
        used = GaugeMetricFamily(
            "inference_gpu_memory_used_bytes", "GPU memory in use, by all processes.", labels=["device"]
        )
        total = GaugeMetricFamily("inference_gpu_memory_total_bytes", "GPU memory in total.", labels=["device"])
        utilization = GaugeMetricFamily(
            "inference_gpu_utilization_ratio",
            "Share of NVML's last sampling period, at most one second, in which the GPU was busy.",
            labels=["device"],
        )
        for device, handle in self._handles.items():
            try:
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
            except pynvml.NVMLError as error:
                log.warning("GPU metrics unavailable", device=device, reason=str(error))
                continue
            used.add_metric([device], float(memory.used))
            total.add_metric([device], float(memory.total))
            utilization.add_metric([device], rates.gpu / 100)
        yield from (used, total, utilization)


def _handle(number: int, visible: Sequence[str]) -> object:
    """NVML's handle of the CUDA device with that number."""
    name = visible[number] if number < len(visible) else str(number)
    if name.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)
