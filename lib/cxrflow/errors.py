"""The one exception that is the user's to mend, and its exit status."""

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
