"""The exceptions whose message is all that a person needs, and their exit status."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: the message says what was expected, what came and what to do.

    A job prints the message alone, without a stack trace, and ends with exit status 2.
    """

    exit_status = 2

    def __init__(self, message: str, result: dict | None = None):
        """``result``: what a job that was asked for a verdict prints as its last line, also where that is bad."""
        super().__init__(message)
        self.result = result


class JobError(RuntimeError):
    """A job that could not do its work, for a reason that its message explains: a full disk, a loss that is not a number.

    The message is printed alone, without a stack trace; exit status 1.
    """


class Stopped(KeyboardInterrupt):
    """A job that was told to stop, and did so in good order; exit status 128 plus the signal's number."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum
