"""Tokens of callers and an operator, and the lines of a tokens file."""

import hashlib

CALLER, OPERATOR, EXPIRED = "caller-token", "operator-token", "expired-token"
LIMITED = "limited-token"  # for the model `double` alone


def token_line(token: str, rights: str, expiry: str = "") -> str:
    """The line of a tokens file that grants rights to a token."""
    return f"{hashlib.sha256(token.encode()).hexdigest()}  {rights}  {expiry}\n"
