"""`python -m service`: serve a model repository; `python -m service check MODEL_DIR`: try a model (check.py).

Exit status: 0 stopped by a signal with every accepted call answered; 2 a setting makes no sense or cannot be had; 3 an
engine broke: start it again.
"""

import os
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from service.settings import Settings


def main() -> None:
    """Run the command and exit."""
    if sys.argv[1:2] == ["check"]:
        from service import check

        sys.exit(check.main(sys.argv[2:]))
    try:
        settings = CliApp.run(Settings)
    except (ValidationError, SettingsError) as error:
        sys.exit(_refuse(error))

    # gRPC's own lines are not of the log's form; what matters in them comes as errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from service import logs, server  # ONNX Runtime and gRPC take a moment; --help and refusals need not wait

    logs.configure(settings.log_format)
    if settings.workers > 1:
        from service import workers

        sys.exit(workers.serve(settings))
    sys.exit(server.serve(settings))


def _refuse(error: ValidationError | SettingsError) -> int:
    """Say in a line each which settings make no sense; the exit status."""
    if isinstance(error, SettingsError):
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in error.errors():
        where = "".join(f"--{part} ".replace("_", "-") for part in problem["loc"])
        got = f"{problem['input']!r}: " if where else ""
        print(f"error: {where}{got}{problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
