"""Chooses the devices that engines run on. Not here: their providers and options (cuda.py)."""

import onnxruntime

from service.core.load_errors import DeviceUnavailable
from service.runtime import cuda


def choose_devices(requested: str) -> list[str]:
    """The devices that --device requests: `auto` is every CUDA device, or the CPU if there is none.

    Raises:
        DeviceUnavailable: a CUDA device was requested by name and is missing.
    """
    if requested == "cpu":
        return ["cpu"]
    count = cuda.device_count() if cuda.CUDA in onnxruntime.get_available_providers() else 0
    if requested == "auto":
        return [f"cuda:{index}" for index in range(count)] or ["cpu"]
    if cuda.CUDA not in onnxruntime.get_available_providers():
        raise DeviceUnavailable(f"--device {requested}: this ONNX Runtime has no CUDA; install onnxruntime-gpu")
    devices = [device if ":" in device else f"{device}:0" for device in requested.split(",")]
    missing = [device for device in devices if int(device.removeprefix("cuda:")) >= count]
    if missing:
        raise DeviceUnavailable(
            f"--device {requested}: {', '.join(missing)} not found, the driver shows {count} CUDA devices; "
            "use --device cpu or --device auto to run without"
        )
    return devices
