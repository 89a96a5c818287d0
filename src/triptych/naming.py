"""Names that a config makes of its other settings."""

import re
from pathlib import Path


def folder_name(path: str) -> str:
    """The last part of a path, as a name for a folder: letters, digits, - _ and . of it."""
    name = re.sub(r"[^\w.-]+", "_", Path(path).expanduser().absolute().resolve().name)
    return name.lstrip(".") or "folder"
