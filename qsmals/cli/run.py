"""A request to an exit code: environment, log, level, and what is said when it goes wrong."""

import errno
import logging
import os
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

from qsmals import __version__
from qsmals.cli.parser import Request
from qsmals.engine.environment import prepare_environment
from qsmals.engine.lock import LockHeld
from qsmals.engine.signals import Interrupted, interruptible

OK, FAILED, USAGE, INVALID, NOTHING, INCOMPLETE, INTERNAL = 0, 1, 2, 3, 4, 5, 70

FULL_OR_FAILING = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
"""What a disk answers that may have room, or work, later: another try is no use of the wrong words."""

log = logging.getLogger("qsmals")


def run(request: Request) -> int:
    """Do what was asked; returns the exit code and never raises but for a bug in the interpreter."""
    settings = request.settings
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}_{uuid.uuid4().hex[:8]}"  # UTC: names are sorted by time
    try:
        Path(settings.output_dir).mkdir(parents=True, exist_ok=True)
        changed = prepare_environment(Path(settings.work_dir))
        start_log(Path(settings.output_dir) / "logs" / f"{run_id}.log", request.verbosity)
    except OSError as error:
        print(f"qsmals: {error}; OUTPUT_DIR and the work folder must be writable", file=sys.stderr)
        return INCOMPLETE if error.errno in FULL_OR_FAILING else USAGE
    log.info("qsmals %s: %s", __version__, " ".join(request.command))
    log.debug("environment: %s", changed)
    try:
        with interruptible():
            return _level(request, run_id)
    except Interrupted as stop:
        log.error("%s; run the same command again to go on from here", stop)
        return stop.exit_code
    except Exception as error:
        if _is_storage(error):
            log.debug("where it happened", exc_info=True)
            log.error("%s; nothing is left half written, and the same command goes on from here", error)
            return INCOMPLETE
        log.exception("internal error; please report it with the log %s", Path(settings.output_dir) / "logs")
        return INTERNAL


def _is_storage(error: Exception) -> bool:
    """Whether a disk is full or failing, a place in OUTPUT_DIR is not ours to write, or the summary stays locked."""
    if isinstance(error, LockHeld):
        return True
    if not isinstance(error, OSError) or isinstance(error, FileNotFoundError):
        return False
    return error.errno is not None and error.errno not in (errno.EMFILE, errno.ENFILE)


def _level(request: Request, run_id: str) -> int:
    from qsmals.bids.errors import InvalidInput, NothingMatched
    from qsmals.engine.plugins_config import UnusablePlugin

    try:
        if request.level == "group":
            from qsmals.cli.group import group

            return group(request.settings)
        from qsmals.cli.participant import participant

        return participant(request, run_id)
    except NothingMatched as error:
        log.error("%s", error)
        return NOTHING
    except UnusablePlugin as error:
        log.error("%s", error)
        return USAGE
    except InvalidInput as error:
        log.error("%s", error)
        return INVALID


def start_log(path: Path, verbosity: int) -> None:
    """Progress and warnings to the terminal, everything to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    logging.getLogger("qsmals").setLevel(logging.DEBUG)  # other libraries' debugging is for nobody
    written = _LogFile(path, encoding="utf-8")
    written.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    shown = _Shown(sys.stdout)
    shown.setFormatter(_Terminal())
    shown.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    shown.addFilter(lambda record: verbosity > 0 or record.name.startswith("qsmals"))
    root.handlers = [written, shown]
    logging.captureWarnings(True)


class _LogFile(logging.FileHandler):
    """Says once that the log cannot be written, where logging would print a traceback for each line.

    A log into which nothing could be written is not left.
    """

    told = False

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            if not self.told:
                raise

    def close(self) -> None:
        with suppress(OSError):  # the last words, once more
            super().close()
        path = Path(self.baseFilename)
        if self.told and path.is_file() and path.stat().st_size == 0:
            path.unlink()

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.told:
            self.told = True
            print(f"qsmals: the log {self.baseFilename} cannot be written: {error}", file=sys.stderr)


class _Shown(logging.StreamHandler):  # type: ignore[type-arg]
    """Goes on in silence when nobody listens any more (``qsmals ... | head``); the log file has it all."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        else:
            super().handleError(record)


class _Terminal(logging.Formatter):
    """The message alone; warnings and errors say what they are."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{time.strftime('%H:%M:%S')} {record.getMessage()}"
        if record.levelno >= logging.WARNING:
            text = f"{time.strftime('%H:%M:%S')} {record.levelname}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text
