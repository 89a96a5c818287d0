"""The settings of this command, by the keys of its YAML."""

from triptych.config import FLAG, FOLDERS, PATH, Rule, number, one_of

RULES: dict[str, Rule] = {
    "runs": FOLDERS,
    "out": PATH.or_null(),
    "allow_mixed": FLAG,
    "metric": one_of("accuracy", "f1", "nll", "brier"),
    "margin": number(0, 100, above=True).or_null(),
    "suspects": PATH.or_null(),
}
