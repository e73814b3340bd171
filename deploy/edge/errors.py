"""The edge's error."""


class WrongSetting(Exception):
    """The environment or a file is wrong; the message says which, what was expected and what came."""
