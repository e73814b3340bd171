"""`python -m service`: serve a model repository; `python -m service check MODEL_DIR`: verify a model (app/check.py).

Exit status: 0 stopped by a signal with every pending call answered; 1 `check` refused the model; 2 a setting is invalid
or not available here; 3 an engine broke, restart the service.
"""

import os
import sys
from importlib.metadata import version

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from service.app.settings import Settings


def main() -> None:
    """Run the command and exit."""
    if sys.argv[1:] == ["--version"]:
        print(f"simplecnn {version('simplecnn')}")
        sys.exit(0)
    if sys.argv[1:2] == ["check"]:
        from service.app import check

        sys.exit(check.main(sys.argv[2:]))
    try:
        settings = CliApp.run(Settings)
    except (ValidationError, SettingsError) as error:
        sys.exit(_report_invalid(error))

    # gRPC logs in a format of its own; what matters in those lines also arrives as an error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported here because ONNX Runtime and gRPC load slowly, and --help and invalid settings need neither.
    from service.app import server
    from service.core import logs

    logs.configure(settings.log_format)
    if settings.workers > 1:
        from service.app import supervisor

        sys.exit(supervisor.serve(settings))
    sys.exit(server.serve(settings))


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
