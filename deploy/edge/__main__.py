"""`python -m edge`: the commands. Exit status: 0 done; 1 not serving, or Envoy's; 2 the settings are wrong."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from . import __doc__ as usage
from .configuration import render
from .errors import WrongSetting
from .health import health
from .process import Edge
from .settings import Settings

CANNOT_START = 2


def main(arguments: list[str]) -> int:
    """Run a command and return the exit status."""
    try:
        settings = Settings.from_environment(os.environ)
        match arguments:
            case [] | ["check"]:
                envoy = shutil.which("envoy")
                if envoy is None:
                    raise WrongSetting("no program `envoy` on the PATH")
                with tempfile.TemporaryDirectory(prefix="edge-") as folder:
                    edge = Edge(settings, envoy, Path(folder))
                    if not arguments:
                        return edge.run()
                    edge.configure()
                    return 0
            case ["health"]:
                reason = health(settings)
                print(reason or "serving")
                return 1 if reason else 0
            case ["render", folder]:
                render(settings, Path(folder))
                return 0
            case _:
                print(usage, file=sys.stderr)
                return CANNOT_START
    except WrongSetting as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_START


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
