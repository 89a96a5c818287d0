"""The settings of this command, by the keys of its YAML."""

from triptych.config import FLAG, FOLDERS, PATH, Rule

NO_SWEEP = "takes a folder with many runs below it, or a list of folders"
RULES: dict[str, Rule] = {"runs": FOLDERS, "out": PATH.or_null(), "allow_mixed": FLAG}
