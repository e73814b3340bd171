"""The credentials on disk: tokens and certificates, read when the service starts and again when their files change.

Owns the thread that looks at the files. A change counts once the files were the same in two looks: a file that is
being written, or a certificate whose key follows, is not read half-way. What is invalid changes nothing and is logged
once. Not here: what the files hold (core/auth.py, transport/tls.py).
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from service.app.settings import Settings
from service.app.startup import CannotStart, read_tokens
from service.core.auth import BadTokensFile, read_tokens_file
from service.transport.tls import BadTlsFile, ServerTls, TlsFiles

log = structlog.get_logger(__name__)

# Seconds between looks at the files; a change is in force within about twice as long.
LOOK_SECONDS = 0.5
# Seconds that a stop waits for a look that is in progress: a file system of the network may never answer.
CLOSE_SECONDS = 1.0

# What identifies the content of a file, also behind links, as Kubernetes swaps secrets; None if it is missing.
Signature = tuple[int, ...] | None


class WatchedFiles:
    """Some files, and what to call when they have changed."""

    def __init__(self, paths: Sequence[Path], changed: Callable[[], None]) -> None:
        self._paths = paths
        self._changed = changed
        self._seen = self._acted_on = self._signatures()

    def look(self) -> None:
        """Call `changed` if the files differ from those of its last call, and not from those of the last look."""
        before, self._seen = self._seen, self._signatures()
        if self._seen == before != self._acted_on:
            self._acted_on = self._seen
            self._changed()

    def _signatures(self) -> list[Signature]:
        return [_signature(path) for path in self._paths]


class Credentials:
    """The tokens and the TLS files of the settings; each is None without files.

    Raises:
        CannotStart: a file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._watched: list[WatchedFiles] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="credentials", daemon=True)
        self._tokens_file = settings.tokens_file
        if self._tokens_file:
            self._watched.append(WatchedFiles([self._tokens_file], self._tokens_changed))
        self.tokens = read_tokens(self._tokens_file)
        files = _tls_files(settings)
        if files:
            self._watched.append(WatchedFiles(files.paths, self._tls_changed))
        self.tls = _server_tls(files)

    def look(self) -> None:
        """Look at the files once."""
        for files in self._watched:
            try:
                files.look()
            except Exception:  # the thread must go on: a token may be revoked
                log.exception("credential files not read")

    def watch(self) -> None:
        """Read files again when they change, until `close`."""
        if self._watched:
            self._thread.start()

    def log_doubt(self) -> None:
        """Log why clients will refuse the certificate, if they will."""
        if self.tls and self.tls.doubt:
            log.warning("certificate will be refused by clients", reason=self.tls.doubt)

    def close(self) -> None:
        """Stop to watch."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self.look()

    def _tokens_changed(self) -> None:
        assert self.tokens is not None
        assert self._tokens_file is not None
        try:
            self.tokens.replace(read_tokens_file(self._tokens_file))
        except BadTokensFile as error:
            log.error("tokens file invalid, keeping the old tokens", reason=str(error))
        else:
            log.info("tokens file read again", tokens=len(self.tokens))

    def _tls_changed(self) -> None:
        assert self.tls is not None
        try:
            self.tls.read_again()
        except BadTlsFile as error:
            log.error("certificate invalid, keeping the old one", reason=str(error))
            return
        log.info("certificate read again")
        self.log_doubt()


def _tls_files(settings: Settings) -> TlsFiles | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def _server_tls(files: TlsFiles | None) -> ServerTls | None:
    try:
        return None if files is None else ServerTls(files)
    except BadTlsFile as error:
        raise CannotStart(str(error)) from error


def _signature(path: Path) -> Signature:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
