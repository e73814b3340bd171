"""Every setting of the service: a flag, an environment variable `SERVICE_…`, and a line in the README's table."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]

Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?(,cuda:\d+)*)$")]
Threads = Annotated[int, Field(ge=1, le=1024)]


class Settings(BaseSettings):
    """Serve the models of a repository over gRPC; `python -m service check MODEL_DIR` tries one without serving it."""

    model_config = SettingsConfigDict(
        env_prefix="SERVICE_",
        cli_parse_args=True,
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_show_env_vars=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    repository: Path = Path("models")
    """Model repository to serve."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of this machine's."""
    grpc_port: Port = 8001
    """Port of the gRPC services; 0 picks a free one."""
    metrics_port: Port = 8002
    """Port of /metrics, /livez and /readyz; 0 picks a free one."""
    front: Literal["auto", "native", "grpcio"] = "auto"
    """What speaks HTTP/2: native is fast, grpcio is always there, auto takes native where it is installed."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that share the gRPC port, each with engines of its own: one for each core that is to serve."""
    device: Device = "auto"
    """Where models run: auto, cpu, cuda, or a list such as cuda:0,cuda:1, with one engine a device."""
    threads: Threads = 1
    """Threads of each engine on the CPU."""
    gpu_memory_bytes: Annotated[int, Field(ge=0)] = 2 * 2**30
    """Most that each engine's arena may take of a GPU's memory; 0 is no bound."""
    cuda_graphs: bool = False
    """Capture a CUDA graph for each batch size and replay it: less work a batch for the CPU, more GPU memory."""
    tensorrt_cache: Path | None = None
    """Run on GPUs with TensorRT, and keep the engines that it builds in this folder; without it, with CUDA alone."""
    fp16: bool = False
    """Let TensorRT compute in half precision; golden answers may then be off by 0.01."""
    max_message_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 64 * 2**20
    """Largest request that is taken, in bytes."""
    credentials: Path | None = None
    """File of the tokens that callers must bring, by their hashes and rights; without it everybody may call."""
    allow_control: bool = False
    """Take RepositoryModelLoad, RepositoryModelUnload and changes by LogSettings from whoever reaches the port."""
    poll_seconds: Seconds = 0.0
    """How often to look for new, changed and removed versions; 0 is only at the start and on SIGHUP."""
    reuse_port: bool = False
    """Share the gRPC port with other services on this machine; it is opened once models answer."""
    connection_seconds: Seconds = 10.0
    """Age at which the grpcio front has clients connect anew: load spreads, and a stop loses no call; 0 is never."""
    drain_seconds: Seconds = 5.0
    """How long to serve on after SIGTERM, while balancers learn of it from the health service."""
    grace_seconds: Seconds = 30.0
    """How long calls in flight may take to end after that."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """Of the log on standard error; auto is text in a terminal and JSON elsewhere."""

    @model_validator(mode="after")
    def _check_ports(self) -> "Settings":
        if self.grpc_port == self.metrics_port != 0:
            raise ValueError(f"--grpc-port and --metrics-port are both {self.grpc_port}; they must differ")
        return self

    @model_validator(mode="after")
    def _check_workers(self) -> "Settings":
        if self.workers > 1 and self.allow_control:
            raise ValueError("--allow-control with --workers: a call reaches one worker of several; use --poll-seconds")
        return self

    @model_validator(mode="after")
    def _check_precision(self) -> "Settings":
        if self.fp16 and self.tensorrt_cache is None:
            raise ValueError("--fp16 is done by TensorRT; give --tensorrt-cache FOLDER too")
        return self
