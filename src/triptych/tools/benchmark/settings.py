"""The settings of this command, besides those of a training."""

from triptych.config import FLAG, MAX_PROCESSES, PATH, Rule, count, number

EXTENDS_TRAINING = True
RULES: dict[str, Rule] = {
    "rounds": count(1),
    "block_seconds": number(0, above=True),
    "warm_up_steps": count(1),
    "usual": FLAG,
    "usual_workers": count(0, MAX_PROCESSES).or_null(),
    "out": PATH.or_null(),
}
