"""Every setting of the service: a flag, an environment variable `SERVICE_…`, and a line of the table in README.md."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]

Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?(,cuda:\d+)*)$")]
Threads = Annotated[int, Field(ge=1, le=1024)]


class Settings(BaseSettings):
    """Serve a model repository over gRPC. `python -m service check MODEL_DIR` verifies one model without serving it."""

    model_config = SettingsConfigDict(
        env_prefix="SERVICE_",
        env_ignore_empty=True,  # Compose passes a variable that the user did not set as an empty one
        cli_parse_args=True,
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_show_env_vars=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),  # model_repository is a setting, not pydantic's
    )

    model_repository: Path = Path("models")
    """Model repository to serve."""
    require_manifest: bool = False
    """Serve only versions with a manifest, whose hash and golden answers are verified; refuse the others."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all addresses of this machine."""
    grpc_port: Port = 8001
    """Port of the gRPC services; 0 picks a free port."""
    metrics_host: str | None = None
    """Address of the metrics port; without it, the address of --host."""
    metrics_port: Port = 8002
    """Port of /metrics, /livez and /readyz; 0 picks a free port."""
    behind_edge: bool = False
    """Strangers reach this service only through an edge that bounds messages, such as Envoy of deploy/edge."""
    insecure: bool = False
    """Serve without TLS on an address that strangers may reach, without an edge."""
    tls_certificate: Path | None = None
    """PEM file of the certificate, with its chain, for TLS on the gRPC port and the metrics port."""
    tls_key: Path | None = None
    """PEM file of the certificate's private key."""
    tls_client_ca: Path | None = None
    """PEM file of the CA whose certificates callers must present (mTLS)."""
    grpc_server: Literal["auto", "native", "aio"] = "auto"
    """gRPC server: native is fast, aio is complete; auto takes native where strangers cannot exhaust its memory."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that share the gRPC port, each with its own engines; one for each core that should serve."""
    device: Device = "auto"
    """Where models run: auto, cpu, cuda, or a list such as cuda:0,cuda:1, with one engine for each device."""
    intra_op_threads: Threads = 1
    """Threads of each engine on the CPU."""
    gpu_memory_bytes: Annotated[int, Field(ge=0)] = 2 * 2**30
    """Maximum GPU memory of each engine's arena, in bytes; 0 for no limit."""
    cuda_graphs: bool = False
    """Capture a CUDA graph for each batch size and replay it: less CPU time for a batch, more GPU memory."""
    tensorrt_cache: Path | None = None
    """Run on GPUs with TensorRT, and keep the engines that it builds in this folder; without it, run with CUDA."""
    fp16: bool = False
    """Let TensorRT compute in half precision; the tolerance of golden answers is 0.01 then."""
    max_message_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 64 * 2**20
    """Maximum size of a request, in bytes."""
    decode_memory_bytes: Annotated[int, Field(ge=64 * 2**20)] = 512 * 2**20
    """Memory for decoding pictures, in bytes, in each worker; a picture that alone would take more is refused."""
    tokens_file: Path | None = None
    """File of the tokens that callers must send: hashes, rights and expiry; without it, everybody may call."""
    enable_model_control: bool = False
    """Allow RepositoryModelLoad, RepositoryModelUnload and changes by LogSettings to everybody who reaches the port."""
    repository_poll_seconds: Seconds = 0.0
    """Seconds between scans for new, changed and removed versions; 0 scans only at start and on SIGHUP."""
    strict_readiness: bool = False
    """Be ready only while every model of the repository answers, as Triton; otherwise one model suffices."""
    reuse_port: bool = False
    """Share the gRPC port with other services on this machine; the port is opened once models answer."""
    max_connection_age_seconds: Seconds = 10.0
    """Age at which the aio server makes clients reconnect: load spreads, and a shutdown loses no call; 0 for never."""
    lame_duck_seconds: Seconds = 5.0
    """Seconds to serve after SIGTERM while reporting NOT_SERVING, so that load balancers can remove this server."""
    shutdown_timeout_seconds: Seconds = 30.0
    """Seconds in which pending calls must end after that; calls that take longer are failed."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """Format of the log on standard error; auto is text in a terminal and JSON elsewhere."""

    @model_validator(mode="after")
    def _check_ports(self) -> "Settings":
        if self.grpc_port == self.metrics_port != 0:
            raise ValueError(f"--grpc-port and --metrics-port are both {self.grpc_port}; they must differ")
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> "Settings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("--tls-certificate and --tls-key: give both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("--tls-client-ca needs TLS; give --tls-certificate and --tls-key too")
        return self

    @model_validator(mode="after")
    def _check_workers(self) -> "Settings":
        if self.workers > 1 and self.enable_model_control:
            raise ValueError(
                "--enable-model-control with --workers: a call reaches one worker only; use --repository-poll-seconds"
            )
        return self

    @model_validator(mode="after")
    def _check_precision(self) -> "Settings":
        if self.fp16 and self.tensorrt_cache is None:
            raise ValueError("--fp16 needs TensorRT; give --tensorrt-cache FOLDER too")
        return self
