"""Image backbones side by side: fine-tune, compare, and say what holds."""


class Refused(ValueError):
    """Input that cannot be used: what came, what was expected, what to do, in three lines at most.

    The program ends with exit code 2 and prints no traceback.
    """
