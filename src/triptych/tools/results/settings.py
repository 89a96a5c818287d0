"""The settings of this command, by the keys of its YAML."""

from triptych.config import FLAG, OF_RUNS, PATH, Rule, number

RULES: dict[str, Rule] = {
    "minutes": number(0).or_null(),
    "parts": Rule("auto, cpu, gpu or a YAML file of parts", PATH.holds),
    "log_dir": OF_RUNS,
    "out": PATH.or_null(),
    "trial": FLAG,
}
NO_SWEEP = "goes through its parts by itself"
