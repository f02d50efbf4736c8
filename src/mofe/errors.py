"""The one exception that speaks to the person who runs mofe."""


class MofeError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do, in one line."""
