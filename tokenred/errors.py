"""Every error a user can cause, each with the exit code that the command line gives it."""

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a ``"; did you mean 'x'?"`` clause, or what is valid when nothing is near."""
    known = sorted(valid)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.55)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(known)}" if known else ""


def told(error: BaseException) -> str:
    """Return a stranger's exception in one line, whatever its own text does."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    kind = type(error).__name__
    return f"{kind}: {text[:200]}" if text else kind


class TokenredError(Exception):
    """Base of all errors raised on purpose. ``exit_code`` is what the command line returns."""

    exit_code = 1


class ConfigError(TokenredError, ValueError):
    """A configuration that cannot be accepted; ``path`` is the dotted place of the fault."""

    exit_code = 2

    def __init__(self, message: str, path: Iterable[str | int] = ()) -> None:
        self.message = message
        self.path = tuple(str(part) for part in path)
        super().__init__(f"{'.'.join(self.path)}: {message}" if self.path else message)

    def below(self, path: Iterable[str | int]) -> "ConfigError":
        """Return the same error, seen from further out."""
        return ConfigError(self.message, (*path, *self.path))


class BudgetError(TokenredError, ValueError):
    """A token budget that cannot be met; the message names the nearest one that can."""

    exit_code = 3


class CapabilityError(TokenredError):
    """A pipeline asks for something that the model at hand cannot give."""

    exit_code = 2


class PluginError(TokenredError):
    """A plugin that is broken, mistyped or collides with another."""

    exit_code = 2


class StrategyError(PluginError):
    """A strategy that raised something, or gave an answer that its role does not allow."""

    exit_code = 1


class InputError(TokenredError, ValueError):
    """Data that cannot be used: a corrupt video, features with NaN, a wrong shape."""

    exit_code = 1
