"""The settings of this command, by the keys of its YAML."""

from triptych.config import FLAG, NAMES, PATH, Rule, number, one_of

NO_SWEEP = "takes one run; give its command for each"
RULES: dict[str, Rule] = {
    "run": PATH,
    "format": one_of("onnx", "torch"),
    "out": PATH.or_null(),
    "overwrite": FLAG,
    "data_root": PATH.or_null(),
    "time_seconds": number(0, above=True),
    "trusted_targets": NAMES,
}
