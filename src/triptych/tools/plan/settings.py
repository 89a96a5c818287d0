"""The settings of this command, besides those of a training."""

from triptych.config import FLAG, PATH, Rule, count, number, one_of

EXTENDS_TRAINING = True
FIRST_LOOK = 3  # seeds: two say too little of their scatter
PERCENT = number(0, 100, above=True)


LOOKS = Rule(
    f"numbers of seeds that ascend, of at least {FIRST_LOOK}: [3,5,10]",
    lambda v: (
        (type(v) is list and v != [] and all(map(count(FIRST_LOOK).holds, v))) and sorted({*v}) == v
    ),
)
RULES: dict[str, Rule] = {
    "metric": one_of("accuracy", "f1", "nll", "brier"),
    **dict.fromkeys(("difference", "margin", "churn", "disagreement"), PERCENT.or_null()),
    "skill_sd": number(0, 100).or_null(),
    "looks": LOOKS.or_null(),
    "num_images": count(2).or_null(),
    "out": PATH.or_null(),
    "overwrite": FLAG,
}


def expand_arguments(arguments: list[str]) -> list[str]:
    """Commas mean several recipes and seeds, as in the sweep that is planned."""
    is_shown = any(argument.startswith(("--cfg", "-c", "--info")) for argument in arguments)
    return arguments if is_shown else ["-m", *arguments]
