"""The settings of this command, by the keys of its YAML."""

from triptych.config import FOLDERS, NAMES, TEXT, Rule, count, one_of
from triptych.tools.predict.settings import ANSWERS
from triptych.tools.predict.settings import find_contradictions as find_contradictions

RULES: dict[str, Rule] = {
    "runs": FOLDERS,
    "which": one_of("best", "all"),
    "num_networks": count(1),
    "host": TEXT,
    "port": count(0, 65535),
    **ANSWERS,
    "device": one_of("auto", "cpu", "cuda"),
    "max_bytes": count(1, 10**9),
    "max_pixels": count(1, 10**9),
    "trusted_targets": NAMES,
}
