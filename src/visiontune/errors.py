"""The one exception that means: what the user wrote or gave is wrong, and nothing was started."""


class UserError(Exception):
    """The config or the data is wrong: exit code 2, one message, no traceback.

    The message says what is wrong, where, and what to write instead (a valid example).
    """
