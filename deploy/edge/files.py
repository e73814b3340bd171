"""Files that are replaced whole, which is what Envoy looks for. Not here: what is in them."""

from pathlib import Path


def replace(path: Path, text: str) -> None:
    """Write the file whole or not at all, readable for this user alone."""
    new = path.with_name(f".{path.name}")
    new.unlink(missing_ok=True)
    new.touch(0o600)
    new.write_text(text)
    new.rename(path)
