"""Networks, and how a file of their weights is told from a name. Imports no torch."""

WEIGHT_SUFFIXES = (".pth", ".pth.tar", ".pt", ".ckpt", ".bin", ".safetensors")


def is_weights_path(weights: str) -> bool:
    """Whether `model.weights` is a path: it ends as a file of weights does, or has a slash."""
    return weights.lower().endswith(WEIGHT_SUFFIXES) or "/" in weights
