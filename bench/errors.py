"""The one kind of error that is the user's to mend."""


class UsageError(ValueError):
    """Something asked for cannot be done as asked: one line that says what is wrong and what would be right.

    The command line prints it without a traceback and ends with exit code 2.
    """
