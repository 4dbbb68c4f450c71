"""The project's one logger and how it talks on the console."""

import logging
import sys

log = logging.getLogger("memorability")


class _ConsoleHandler(logging.StreamHandler):
    """Writes to standard error without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if "tqdm" in sys.modules:
            sys.modules["tqdm"].tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


class _ConsoleFormatter(logging.Formatter):
    """Plain text for information; the level's name in front of anything worse."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return message if record.levelno <= logging.INFO else f"{record.levelname}: {message}"


def setup_logging() -> None:
    """Send the project's log to the console (idempotent)."""
    if not log.handlers:
        handler = _ConsoleHandler()
        handler.setFormatter(_ConsoleFormatter())
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def in_words(seconds: float) -> str:
    """Return a duration as people say it, e.g. ``2 min 5 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
