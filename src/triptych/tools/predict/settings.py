"""The settings of this command, by the keys of its YAML."""

from triptych.config import FLAG, FOLDERS, MAX_BATCH, NAMES, PATH, Rule, count, one_of

RULES: dict[str, Rule] = {
    "run": FOLDERS,
    "images": FOLDERS,
    "out": PATH.or_null(),
    "grid": PATH.or_null(),
    "grid_images": count(1, 600),  # a picture's side has at most 2^16 pixels
    "top_k": count(1),
    "calibrated": FLAG,
    "tta": one_of("none", "flip"),
    "batch_size": count(1, MAX_BATCH),
    "num_threads": count(1, 256).or_null(),
    "max_pixels": count(1, 10**9),
    "device": one_of("auto", "cpu", "cuda"),
    "overwrite": FLAG,
    "trusted_targets": NAMES,
}
