"""docs/verdict.schema.json: tests hold verdicts, and what sections say in them, to it."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from triptych.runs.storage import replace_non_finite

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "verdict.schema.json").read_text())


def check_verdict(described: Any, key: str | None = None) -> Any:
    """A verdict, or what it says under one key, as a program reads it; validated where jsonschema
    is installed."""
    content = replace_non_finite(described)
    read = json.loads(json.dumps(content, allow_nan=False, default=lambda value: value.tolist()))
    schema = SCHEMA["properties"][key] | {"$defs": SCHEMA["$defs"]} if key else SCHEMA
    with suppress(ImportError):
        from jsonschema import Draft202012Validator

        Draft202012Validator(schema).validate(read)
    return read
