"""The error tree: every failure that modelkin reports on purpose.

    ModelkinError                       .exit_code
      ModelNotFound                     .model  .hidden (missing or private: nobody says which)
      AccessDenied                      .model  .reason (gated | disabled | unauthorized | token)
      TransientError                    .retry_after: the one thing that is worth another try
      BadRequest                        .parameter of an address that the explorer cannot read
      UnsafeRequest                     a redirect, id or path that must not be followed
      BudgetExceeded                    .limit  .actual
      Interrupted                       a signal or a deadline ended the work before its end
      FormatError(ValueError)           .path  .offset
        MalformedFile                   the bytes break their own format
        UnsupportedFormat               understood well enough to say: not decodable here
        LimitExceeded                   .limit  .actual
        TruncatedRead                   fewer bytes came than were promised
        RangeIgnored                    the server answered a range with something else
        FileChanged                     the file changed while it was being read
        UnsafePickle                    .opcode  .name: unpickling it would call foreign code
      NotComparable(ValueError)         "no answer" is never "distance 0"
      ProbeError                        a model could not be run on a prompt set
      RegistryError
        NotInRegistry(LookupError)      .name
        RegistryBusy                    another process holds the store (exit 4)
        SchemaTooNew                    .found  .known
        QueryRefused                    the statement is not a single read-only query

A finding about a model is a value, never an exception.
"""

from __future__ import annotations

from typing import Any


class ModelkinError(Exception):
    """Base of every error raised on purpose; the message says what, where and what to do."""

    exit_code = 2

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are unpickled by calling their class, which here wants more than the message.
        return _again, (type(self), self.args, dict(self.__dict__))


def _again(
    kind: type[ModelkinError], arguments: tuple[Any, ...], values: dict[str, Any]
) -> ModelkinError:
    """An error that was raised in another process."""
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(values)
    return error


class ModelNotFound(ModelkinError):
    """The source has no such model, or hides it from this client (`hidden`: it may be either)."""

    def __init__(self, message: str, *, model: str, hidden: bool = False) -> None:
        super().__init__(message)
        self.model = model
        self.hidden = hidden


class AccessDenied(ModelkinError):
    """The model exists but its files may not be read with this token.

    The reason `token` is no fault of the model: the token itself is refused, whatever is asked.
    """

    def __init__(self, message: str, *, model: str, reason: str) -> None:
        super().__init__(message)
        self.model = model
        self.reason = reason


class TransientError(ModelkinError):
    """A failure that may pass: rate limit, gateway error, dropped connection, slow drip."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRequest(ModelkinError):
    """An address asks the explorer for something that it cannot read."""

    def __init__(self, message: str, *, parameter: str) -> None:
        super().__init__(f"{parameter}: {message}")
        self.parameter = parameter


class UnsafeRequest(ModelkinError):
    """Content asked for something that must not be followed: a foreign host, a crafted id."""


class BudgetExceeded(ModelkinError):
    """A byte or request budget is used up; what was not read is left for the next run."""

    def __init__(self, message: str, *, limit: int, actual: int) -> None:
        super().__init__(message)
        self.limit = limit
        self.actual = actual


class Interrupted(ModelkinError):
    """A signal or a deadline ended the work; what was committed stays, a next run goes on."""


class FormatError(ModelkinError, ValueError):
    """A file does not hold what its name promises."""

    def __init__(self, message: str, *, path: str, offset: int | None = None) -> None:
        where = path if offset is None else f"{path} at byte {offset}"
        super().__init__(f"{where}: {message}")
        self.path = path
        self.offset = offset


class MalformedFile(FormatError):
    """The bytes contradict the file's own format."""


class UnsupportedFormat(FormatError):
    """The format is recognised and cannot be decoded here."""


class LimitExceeded(FormatError):
    """A size in the file is above the bound that keeps a reader safe."""

    def __init__(
        self, message: str, *, path: str, limit: int, actual: int, offset: int | None = None
    ) -> None:
        super().__init__(f"{message} ({actual:,} > {limit:,})", path=path, offset=offset)
        self.limit = limit
        self.actual = actual


class TruncatedRead(FormatError):
    """Fewer bytes arrived than the range or the file size promised."""


class RangeIgnored(FormatError):
    """The server answered a ranged request with other bytes than those asked for."""


class FileChanged(FormatError):
    """The file's ETag or size changed between two reads of it."""


class UnsafePickle(FormatError):
    """Unpickling the file would import or call something that no weights need."""

    def __init__(self, name: str, *, opcode: str, path: str, offset: int) -> None:
        super().__init__(f"unpickling would reach {name} ({opcode})", path=path, offset=offset)
        self.opcode = opcode
        self.name = name


class NotComparable(ModelkinError, ValueError):
    """Two revisions share nothing that could be compared."""


class ProbeError(ModelkinError):
    """A model could not be run on a prompt set."""


class RegistryError(ModelkinError):
    """The store refused or could not answer."""


class NotInRegistry(RegistryError, LookupError):
    """A name that the store does not hold."""

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class RegistryBusy(RegistryError):
    """Another process is writing to this store."""

    exit_code = 4


class SchemaTooNew(RegistryError):
    """The store was written by a newer modelkin."""

    def __init__(self, message: str, *, found: int, known: int) -> None:
        super().__init__(message)
        self.found = found
        self.known = known


class QueryRefused(RegistryError):
    """Only one read-only statement is run at a time."""
