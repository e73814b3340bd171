"""Which devices engines run on."""

import onnxruntime

from service.core.errors import DeviceUnavailable
from service.runtime import cuda


def choose_devices(wanted: str) -> list[str]:
    """The devices to put engines on: `auto` is every CUDA device, or the CPU where there is none.

    Raises:
        DeviceUnavailable: CUDA was asked for by name and is not to be had.
    """
    if wanted == "cpu":
        return ["cpu"]
    count = cuda.device_count() if cuda.CUDA in onnxruntime.get_available_providers() else 0
    if wanted == "auto":
        return [f"cuda:{index}" for index in range(count)] or ["cpu"]
    if cuda.CUDA not in onnxruntime.get_available_providers():
        raise DeviceUnavailable(f"--device {wanted}: this ONNX Runtime has no CUDA; install onnxruntime-gpu")
    devices = [device if ":" in device else f"{device}:0" for device in wanted.split(",")]
    missing = [device for device in devices if int(device.removeprefix("cuda:")) >= count]
    if missing:
        raise DeviceUnavailable(
            f"--device {wanted}: {', '.join(missing)} not found, the driver shows {count} CUDA devices; "
            "use --device cpu or auto to run without"
        )
    return devices
