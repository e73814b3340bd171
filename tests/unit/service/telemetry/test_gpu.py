"""The GPU metrics cover the devices that the service uses, and are absent without a driver."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.telemetry.gpu import GpuCollector
from tests.support.gpu import FakeNvml


def exposed(collector: GpuCollector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def test_gpu_metrics_cover_only_the_devices_in_use(nvml: FakeNvml) -> None:
    text = exposed(GpuCollector(["cuda:1"]))
    assert 'inference_gpu_memory_used_bytes{device="cuda:1"} 2.147483648e+09' in text
    assert 'inference_gpu_utilization_ratio{device="cuda:1"} 0.5' in text
    assert 'device="cuda:0"' not in text


@pytest.mark.parametrize("visible", ["1,0", "GPU-one,GPU-zero"])
def test_gpu_metrics_follow_the_visible_devices(nvml: FakeNvml, visible: str) -> None:
    assert 'inference_gpu_memory_used_bytes{device="cuda:0"} 2.147483648e+09' in exposed(
        GpuCollector(["cuda:0"], visible)
    )


def test_there_are_no_gpu_metrics_on_a_cpu_or_without_a_driver(nvml: FakeNvml) -> None:
    assert exposed(GpuCollector(["cpu"])) == ""
    nvml.broken = True
    assert exposed(GpuCollector(["cuda:0"])) == ""


def test_a_lost_gpu_has_no_metrics(nvml: FakeNvml) -> None:
    collector = GpuCollector(["cuda:0"])
    nvml.broken = True
    assert "device=" not in exposed(collector)
