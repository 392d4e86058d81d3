"""Exceptions that a job reports by their message alone, without a stack trace, and their exit statuses."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message says what was expected, what was found and what to do. Exit status 2."""

    exit_status = 2

    def __init__(self, message: str, result: dict | None = None):
        """``result``: the JSON object that a job prints as its last line although it failed, such as a verdict."""
        super().__init__(message)
        self.result = result


class JobError(RuntimeError):
    """A job failed for a reason that the message explains, such as a full disk or a NaN loss. Exit status 1."""


class Stopped(KeyboardInterrupt):
    """A signal asked the job to stop, and it stopped cleanly. Exit status 128 plus the signal's number."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum
