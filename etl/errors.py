"""Every error a person can meet, named for what they do next, with its exit code.

    EtlError              70  a bug in this program or in a step: report it
    +-- ConfigError       78  edit the pipeline file, .env or the command line
    +-- DataError         65  look at the source data (or at the rule it broke)
    +-- SourceError       69  the source is down or refuses: try later, check its address
    +-- StorageError      74  the disk or another local resource failed: free some
    +-- RetryLater        75  nothing is wrong that waiting does not mend: run again
    +-- AccessError       77  ask for the permission that the message names

    Stopped      129/130/143  somebody stopped the run (a closed terminal, Ctrl-C, SIGTERM)

The codes are those of BSD's sysexits.h, which schedulers and mail wrappers know.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_NETWORK_LIBRARIES = {"aiohttp", "http", "httpx", "requests", "socket", "ssl", "urllib", "urllib3"}
_NETWORK_ERRNOS = {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH}


class EtlError(Exception):
    """Base of all errors that are shown to a person as one message, without a traceback.

    ``str(error)`` says what happened, where, and what to do about it, in one or two lines.
    ``step`` is filled in by the step that failed.
    """

    exit_code = 70

    def __init__(self, message: str, *, step: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.step = step

    def __str__(self) -> str:
        return f"{self.step}: {self.message}" if self.step else self.message


class ConfigError(EtlError):
    """The pipeline file, the environment or the command line is wrong. Holds every mistake found."""

    exit_code = 78

    def __init__(self, *problems: str, step: str | None = None) -> None:
        super().__init__("\n".join(problems), step=step)
        self.problems = problems


class DataError(EtlError):
    """The source was read, and what it holds cannot be published."""

    exit_code = 65


class SourceError(EtlError):
    """The source could not be reached, or answered with something else than the data."""

    exit_code = 69


class StorageError(EtlError):
    """A local resource failed: disk full, file unreadable, out of memory."""

    exit_code = 74


class RetryLater(EtlError):
    """A passing condition: another run holds the lock, a race was lost, the service throttles."""

    exit_code = 75


class AccessError(EtlError):
    """Credentials are missing, expired or not allowed to do what the message names."""

    exit_code = 77


class Stopped(BaseException):
    """The run was stopped by a signal.

    No Exception, as KeyboardInterrupt is none: botocore would take it for a broken connection, and try again.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number
        self.step: str | None = None

    def __str__(self) -> str:
        said = super().__str__()
        return f"{self.step}: {said}" if self.step else said


@contextmanager
def translated(step: str | None = None) -> Iterator[None]:
    """Let no other error than an EtlError leave the block, and none without the name of the step, if there is one."""
    try:
        yield
    except (EtlError, Stopped) as error:
        error.step = error.step or step
        raise
    except MemoryError as error:
        raise StorageError("out of memory; try a smaller batch_rows", step=step) from error
    except OSError as error:
        what = error.strerror or str(error) or type(error).__name__
        raise StorageError(f"{what}: {error.filename}" if error.filename else what, step=step) from error
    except ModuleNotFoundError as error:
        how = "activate the environment that has it, or: python -m pip install -r requirements.txt"
        raise ConfigError(f"{error.name} is not installed; {how}", step=step) from error
    except Exception as error:
        raise EtlError(f"{type(error).__name__}: {error} (LOG_LEVEL=DEBUG shows where)", step=step) from error


@contextmanager
def network_is_source() -> Iterator[None]:
    """Raise SourceError for an error of the network, whichever library met it; many are OSErrors, as a disk's are."""
    try:
        yield
    except Exception as error:
        if not _is_of_network(error):
            raise
        remedy = "try again later, or check the address of the source and the network"
        raise SourceError(f"{type(error).__name__}: {error}; {remedy}") from error


def _is_of_network(error: Exception) -> bool:
    """Told by the names of the classes: the libraries that define them need not be there."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return not libraries.isdisjoint(_NETWORK_LIBRARIES) or getattr(error, "errno", None) in _NETWORK_ERRNOS
