"""The log of a process: one line of JSON for each event on stderr, or text in colours where stderr is a terminal.

Events come from the standard library's `logging`, ours and those of others. What an exception says is kept only where
it is one of ours: the text of any other may hold a caller's values or an address with its password.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import traceback
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from types import ModuleType, TracebackType
from typing import Any, Final

import msgspec

from registry.errors import PereneError
from registry.line_writer import LineWriter
from registry.redaction import redacted

OURS: Final = "perene"
_FRAMES: Final = 12
_MOST_TEXT: Final = 300

Event = MutableMapping[str, Any]


def configure(*, level: int = logging.INFO) -> LineWriter:
    """Send every log record of this process through one renderer to stderr; returns who writes, for more lines.

    Called once by a program when it starts, never by a library.
    """
    structlog = _structlog()
    writer = LineWriter(sys.stderr.fileno(), lost=_lost)
    renderer = structlog.dev.ConsoleRenderer() if writer.terminal else _json
    before = [
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        _without_values,
    ]
    handler = _Handler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    structlog.configure(
        processors=[*before[1:], structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _hook("process.failed")
    threading.excepthook = lambda args: _hook("thread.failed")(args.exc_type, args.exc_value, args.exc_traceback)
    atexit.register(writer.close)
    return writer


def told(error: BaseException) -> dict[str, Any]:
    """What a log says of an exception: its type, where it was raised, and its text where it is one of ours."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    found: dict[str, Any] = {"type": type(error).__name__}
    if isinstance(error, PereneError | ImportError | SyntaxError | NameError | AttributeError | TypeError):
        found["message"] = str(error)  # ours, or of names and types
    elif isinstance(error, OSError) and error.strerror:
        found["message"] = error.strerror
    found["frames"] = [f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        found["cause"] = type(cause).__name__
    return found


def _without_values(_logger: object, _method: str, event: Event) -> Event:
    """Exceptions as `told`; of what others log only the first line: what follows may quote what they failed on."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["exception"] = told(error)
    event.pop("stack_info", None)
    if not str(event.get("logger", "")).startswith(OURS):
        event["event"] = _first_line(str(event.get("event", "")))
    return event


def _first_line(text: str) -> str:
    """The first line of what others log; of a traceback that is a text, where it was and of what type."""
    lines = text.splitlines() or [""]
    if lines[0].startswith("Traceback "):
        kind = next((line.partition(":")[0] for line in reversed(lines) if line and line[0] not in " |+"), "")
        places = [line.split(",") for line in lines if line.startswith('  File "')]
        shown = "; ".join(_short(p[0].strip()[6:-1]) + ":" + p[1].split()[-1] for p in places[-3:] if len(p) > 1)
        return f"{kind} at {shown}"[:_MOST_TEXT]
    return lines[0][:_MOST_TEXT]


def _json(_logger: object, _method: str, event: Event) -> str:
    first = {name: event.pop(name, "") for name in ("event", "at", "level", "logger")}
    return msgspec.json.encode({**first, **event}, enc_hook=str).decode()


def _lost(count: int) -> bytes:
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return msgspec.json.encode({"event": "log.lost", "at": at, "level": "warning", "lines": count}) + b"\n"


def _short(path: str) -> str:
    """A source file without the folders of this machine."""
    parts = path.replace("\\", "/").split("/")
    return "/".join(parts[-2:])


def _hook(
    event: str,
) -> Callable[[type[BaseException], BaseException | None, TracebackType | None], None]:
    def hook(kind: type[BaseException], error: BaseException | None, _trace: TracebackType | None) -> None:
        if error is not None and not issubclass(kind, KeyboardInterrupt | SystemExit):
            logging.getLogger(OURS).critical(event, exc_info=error)

    return hook


class _Handler(logging.Handler):
    """Hands formatted records to the writer."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put(redacted(self.format(record)).encode("utf-8", "backslashreplace") + b"\n")
        except Exception:  # a record that cannot be said must not end what it speaks of, nor be quoted
            self._writer.put(b'{"event":"log.unreadable","logger":"%b"}\n' % record.name.encode("ascii", "replace"))


def _structlog() -> ModuleType:
    """structlog without rich, which it loads for tracebacks where it is found: 4 MB that a server has no use for."""
    kept = sys.modules.get("rich")
    if kept is None:
        sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog

        return structlog
    finally:
        if kept is None:
            del sys.modules["rich"]
