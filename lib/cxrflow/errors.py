"""The one exception that is the user's to mend, and its exit status."""


class UserError(ValueError):
    """Bad input: the message says what was expected, what came and what to do.

    A job prints the message alone, without a stack trace, and ends with exit status 2.
    """

    exit_status = 2
