"""Every error a user can cause, each with the exit code that the command line gives it."""

import difflib
from collections.abc import Iterable
from os import PathLike
from reprlib import Repr

LONGEST_MESSAGE = 300
LONGEST_NAME = 200
LONGEST_VALUE = 60
N_NAMES = 8
"""Most names that an error lists."""


class _Quoting(Repr):
    """``repr`` that stays short, whatever it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = LONGEST_VALUE
        self.maxlevel = 3

    def repr_int(self, value: int, level: int) -> str:
        """Return the digits; Python refuses to write out very long numbers."""
        return repr(value) if value.bit_length() < 200 else f"<{value.bit_length()} bits>"

    def repr_str(self, value: str, level: int) -> str:
        """Return the text in quotes, its middle left out."""
        return repr(shortened(value, LONGEST_VALUE))


def quoted(value: object) -> str:
    """Return a value as an error quotes it: as Python writes it, but short."""
    return shortened(_Quoting().repr(value), 2 * LONGEST_VALUE)


def shortened(text: str, longest: int) -> str:
    """Return a text with its middle left out if it is too long."""
    half = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"


def shown(text: str | PathLike[str], longest: int = LONGEST_NAME) -> str:
    """Return a path or a text as a sentence can hold it: on one line, printable, not too long."""
    found = shortened(str(text), longest).encode("utf-8", "backslashreplace").decode()
    found = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in found)
    return shortened(found, longest)


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a ``"; did you mean 'x'?"`` clause, or what is valid when nothing is near."""
    known = sorted(valid)
    close = difflib.get_close_matches(name[:LONGEST_VALUE], known, n=1, cutoff=0.55)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = f" and {len(known) - N_NAMES} more" if len(known) > N_NAMES else ""
    return f"; valid: {', '.join(known[:N_NAMES])}{more}" if known else ""


def told(error: BaseException) -> str:
    """Return a stranger's exception in one line, whatever its own text does."""
    try:
        text = " ".join(str(error).split())
    except (Exception, SystemExit):
        text = ""
    kind = type(error).__name__
    return f"{kind}: {text[:200]}" if text else kind


class TokenredError(Exception):
    """Base of all errors raised on purpose. ``exit_code`` is what the command line returns.

    The message is kept to one line of at most 300 characters.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(shown(" ".join(message.splitlines()), LONGEST_MESSAGE))


class ConfigError(TokenredError, ValueError):
    """A configuration that cannot be accepted.

    Attributes
    ----------
    path : dotted place of the fault
    where : file and line that it stands in, as far as known
    """

    exit_code = 2

    def __init__(self, message: str, path: Iterable[str | int] = (), where: str = "") -> None:
        self.message = message
        self.path = tuple(str(part) for part in path)
        self.where = where
        places = [where, shown(".".join(self.path), LONGEST_NAME // 2)]
        super().__init__(": ".join([*filter(None, places), message]))

    def below(self, path: Iterable[str | int]) -> "ConfigError":
        """Return the same error, seen from further out."""
        return ConfigError(self.message, (*path, *self.path), self.where)

    def at(self, where: str) -> "ConfigError":
        """Return the same error with the file, or the line, that it stands in."""
        return ConfigError(self.message, self.path, ", ".join(filter(None, [where, self.where])))


class BudgetError(TokenredError, ValueError):
    """A token budget that cannot be met; the message names the nearest one that can."""

    exit_code = 3


class BudgetWarning(UserWarning):
    """A pipeline that keeps another share of the tokens than it was asked for."""


class CapabilityError(TokenredError):
    """A pipeline asks for something that the model at hand cannot give."""

    exit_code = 2


class PluginError(TokenredError):
    """A plugin that is broken, mistyped or collides with another."""

    exit_code = 2


class StrategyError(TokenredError):
    """A strategy that raised something, or gave an answer that its role does not allow."""


class InputError(TokenredError, ValueError):
    """Data that cannot be used: a corrupt video, features with NaN, a wrong shape."""

    exit_code = 1
