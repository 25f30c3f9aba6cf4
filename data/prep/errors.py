"""The one error type whose text the user sees, as one line, exit status 2."""


class UserError(Exception):
    """What the user gave cannot be used; the text says what would be right."""
