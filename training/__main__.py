"""`python -m training`: train a network, judge it once on its test set, export, prove and publish it.

Exit status: 0 published; 1 not published, with the reason in one line; 2 a setting makes no sense; 130 or 143 stopped
by Ctrl-C or SIGTERM, with what was done kept for --resume.
"""

import json
import signal
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from training.settings import CHANGEABLE, Settings
from training.signals import Signals


def main() -> None:
    """Run the command and exit."""
    try:
        settings = _settings()
    except (ValidationError, SettingsError) as error:
        sys.exit(_refuse(error))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    signals = Signals()
    try:
        status = run(settings, signals)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was published", file=sys.stderr)
        status = 128 + (signals.number or signal.SIGINT)
    sys.exit(status)


def run(settings: Settings, signals: Signals) -> int:
    """Do what the settings describe and return the exit status."""
    from training import job, launch, listing  # torch takes seconds to import; --help and refusals need not wait
    from training.errors import Interrupted, TrainingError, UnknownNetwork

    try:
        if settings.list:
            print(listing.networks(settings.repository))
            return 0
        if settings.summary:
            print(listing.summary(settings.model, settings.pool))
            return 0
        if settings.unless_published and (published := job.already_published(settings)):
            print(f"{published} is there; nothing is trained (--unless-published)")
            return 0
        folder = launch.run(settings, signals)
    except Interrupted as error:
        if str(error):
            print(f"\n{error}", file=sys.stderr)
        return 128 + signals.number
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UnknownNetwork) else 1
    except OSError as error:
        print(f"error: cannot write: {error}", file=sys.stderr)
        return 1
    if folder:
        print(f"published {folder}")
    return 0


def _settings() -> Settings:
    """The settings: of the command line and the environment, or of the run that is to go on.

    Raises:
        ValueError: a setting is given that the run has otherwise, or the folder is none of a run.
    """
    given = CliApp.run(Settings)
    if given.resume is None:
        return given
    try:
        saved = json.loads((given.resume / "settings.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"--resume {given.resume}: this is no folder of a run ({error})") from error
    for name in given.model_fields_set - set(CHANGEABLE):
        before, now = saved.get(name), given.model_dump(mode="json")[name]
        if before != now:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} {now}: the run has {before}, and is continued with its own settings")
    changed = {name: getattr(given, name) for name in CHANGEABLE if name in given.model_fields_set}
    return Settings(**saved | changed)


def _refuse(error: "ValidationError | SettingsError") -> int:
    """Say in a line each which settings make no sense; the exit status."""
    if isinstance(error, ValidationError):
        for problem in error.errors():
            flag = "--" + ".".join(str(part) for part in problem["loc"]).replace("_", "-")
            print(f"error: {flag} {problem.get('input')!r}: {problem['msg']}", file=sys.stderr)
    else:
        print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
