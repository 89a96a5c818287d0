"""The settings of this command, by the keys of its YAML."""

from triptych.config import FLAG, FOLDERS, TEXT, Rule

NO_SWEEP = "takes a folder with many runs below it, or a list of folders"
RULES: dict[str, Rule] = {"runs": FOLDERS, "out": TEXT.or_null(), "allow_mixed": FLAG}
