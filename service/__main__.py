"""`python -m service`: serve a model repository; `python -m service check MODEL_DIR`: verify a model (app/check.py).

Exit status: 0 stopped by a signal with every pending call answered; 1 `check` refused the model; 2 a setting is invalid
or not available here; 3 an engine broke, restart the service.
"""

import os
import signal
import sys
from argparse import ArgumentParser
from importlib.metadata import version
from importlib.util import find_spec

from pydantic import ValidationError
from pydantic_settings import CliApp, CliSettingsSource, SettingsError

from service.app.settings import Settings


def main() -> None:
    """Run the command and exit."""
    if sys.argv[1:2] == ["check"]:
        _require_onnx_runtime()
        from service.app import check

        sys.exit(check.main(sys.argv[2:]))
    try:
        settings = _read_settings()
    except (ValidationError, SettingsError) as error:
        sys.exit(_report_invalid(error))

    _require_onnx_runtime()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the service handles it: its first scan sees every change
    # gRPC logs in a format of its own; what matters in those lines also arrives as an error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported here because ONNX Runtime and gRPC load slowly, and --help and invalid settings need neither.
    from service.app import process
    from service.core import logs

    logs.configure(settings.log_format)
    if settings.workers > 1:
        from service.app import supervisor

        sys.exit(supervisor.serve(settings))
    process.leave(process.serve(settings))


def _read_settings() -> Settings:
    """The settings of the command line and the environment; --help and --version end the process."""
    command_line: CliSettingsSource[ArgumentParser] = CliSettingsSource(Settings)
    command_line.root_parser.add_argument(
        "--version", action="version", version=f"simplecnn {version('simplecnn')}", help="print the version and exit"
    )
    return CliApp.run(Settings, cli_settings_source=command_line)


def _require_onnx_runtime() -> None:
    """Exit with status 2 and a line that says what to install, if ONNX Runtime is missing."""
    if find_spec("onnxruntime") is None:
        print(
            "error: ONNX Runtime is not installed: pip install '.[service,cpu]' or '.[service,gpu]' in a checkout",
            file=sys.stderr,
        )
        sys.exit(2)


def _report_invalid(error: ValidationError | SettingsError) -> int:
    """Print a line for each invalid setting and return the exit status."""
    if isinstance(error, SettingsError):
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in error.errors():
        flag = "".join(f"--{part} ".replace("_", "-") for part in problem["loc"])
        value = f"{problem['input']!r}: " if flag else ""
        print(f"error: {flag}{value}{problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
