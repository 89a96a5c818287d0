"""The types of images that a network is tried on, and how much each of three severities does.

Imports no torch. Where it says CIFAR-10-C, these are that benchmark's levels 1, 3 and 5 (Hendrycks
& Dietterich, 2019); the others were chosen by eye, on a sheet of all of them, so that a person
still names almost every object at the last.
"""

from triptych.errors import UserError, closest_matches

LEVELS: dict[str, tuple[float, float, float]] = {
    "small_object_plain": (3 / 4, 1 / 2, 1 / 3),  # of the image's sides
    "small_object_blurred": (3 / 4, 1 / 2, 1 / 3),
    "complex_scene": (16, 48, 144),  # pieces of clutter around the image at 3/4 of its sides
    "occlusion": (1 / 4, 3 / 8, 1 / 2),  # of the sides; the last as DeVries & Taylor (2017)
    "noise": (0.04, 0.08, 0.10),  # standard deviation, of the range: CIFAR-10-C
    "blur": (0.4, 0.7, 1.0),  # standard deviation in pixels where a side has 32: CIFAR-10-C
    "low_contrast": (0.75, 0.4, 0.15),  # of the contrast is left: CIFAR-10-C
    "brightness": (1 / 3, 2 / 3, 1),  # stops up or down
    "jpeg": (80, 58, 40),  # quality: CIFAR-10-C
    "rotation": (15, 30, 45),  # degrees either way
}


def check_types(types: list[str]) -> None:
    """Raise UserError unless every name is one of `LEVELS`, and once."""
    for name in types:
        if name not in LEVELS:
            nearest = closest_matches(name, LEVELS)
            raise UserError(f"image_types.types={name}: no type of images\nnearest: {nearest}")
        if types.count(name) > 1:
            raise UserError(f"image_types.types names {name} more than once")
