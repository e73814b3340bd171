"""`python -m training`: train a network, evaluate it, export it to ONNX and publish it.

`python -m training runs` lists all runs (runs_command.py).

Exit status: 0 published; 1 not published, with the reason in one line; 2 an invalid setting; 130 or 143 stopped by
SIGINT (Ctrl-C) or SIGTERM, after a checkpoint was saved if training had begun.
"""

import json
import signal
import sys
from argparse import ArgumentParser
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import CliApp, CliSettingsSource, SettingsError

from training.processors import wait_passively
from training.settings import RESUME_OVERRIDES, Settings
from training.signals import SignalHandler


def main() -> None:
    """Run the command and exit."""
    if sys.argv[1:2] == ["runs"]:
        from training import runs_command

        sys.exit(runs_command.main(sys.argv[2:]))
    try:
        settings = _read_settings()
    except ValidationError as error:
        for problem in error.errors():
            flag = "--" + ".".join(str(part) for part in problem["loc"]).replace("_", "-")
            print(f"error: {flag} {problem.get('input')!r}: {problem['msg']}", file=sys.stderr)
        sys.exit(2)
    except (SettingsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if find_spec("onnxruntime") is None:
        print(
            "error: ONNX Runtime is not installed: pip install '.[training,cpu]' or '.[training,gpu]' in a checkout",
            file=sys.stderr,
        )
        sys.exit(2)
    signals = SignalHandler()
    try:
        status = _run(settings, signals)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        status = 128 + (signals.signal_number or signal.SIGINT)
    sys.exit(status)


def _run(settings: Settings, signals: SignalHandler) -> int:
    """Do what the settings ask for; the exit status."""
    wait_passively()
    # The import of torch takes seconds: --help does without it.
    from training import comparison, evaluate_version, experiment, pipeline, summary
    from training.errors import Interrupted, TrainingError

    try:
        if settings.list:
            print(summary.network_list(settings.repository))
        elif settings.summary:
            print(summary.network_summary(settings.model, experiment.pooling_from(settings)))
        elif settings.evaluate:
            print(evaluate_version.evaluate_version(settings))
        elif settings.skip_if_published and (published := experiment.published_version(settings)):
            print(f"{published} exists; nothing to do (--skip-if-published)")
        elif comparison.is_comparison(settings):
            comparison.run(settings, signals)
        elif (outcome := pipeline.run(settings, signals)) and not outcome.version:
            print(_how_to_publish(outcome.folder))
    except Interrupted as error:
        if str(error):
            print(f"\n{error}", file=sys.stderr)
        return 128 + signals.signal_number
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"error: cannot write: {error}", file=sys.stderr)
        return 1
    return 0


def _how_to_publish(run: Path) -> str:
    return f"not published (--no-publish); publish with: python -m training --resume {run} --publish"


def _read_settings() -> Settings:
    """The settings of the command line and the environment or, with `--resume`, those of the run.

    Raises:
        ValueError: `--resume` is not a run folder, or a setting contradicts the run's.
    """
    source: CliSettingsSource[ArgumentParser] = CliSettingsSource(Settings)
    source.root_parser.epilog = "python -m training runs lists all runs, with their accuracies and states."
    source.root_parser.add_argument(
        "--version", action="version", version=f"simplecnn {version('simplecnn')}", help="Print the version and exit."
    )
    given = CliApp.run(Settings, cli_settings_source=source)
    if given.resume is None:
        return given
    try:
        saved = json.loads((given.resume / "settings.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"--resume {given.resume}: not a run folder ({error})") from error
    for name in given.model_fields_set - set(RESUME_OVERRIDES):
        before, now = saved.get(name), given.model_dump(mode="json")[name]
        if before != now:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} {now}: the run has {before}, and a resumed run keeps its settings")
    overrides = {name: getattr(given, name) for name in RESUME_OVERRIDES if name in given.model_fields_set}
    return Settings(**saved | overrides)


if __name__ == "__main__":
    main()
