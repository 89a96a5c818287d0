"""Networks that torchvision or timm builds from a name, for weights without our code."""

from collections.abc import Callable
from typing import Any

from torch import nn

from triptych.errors import UserError
from triptych.tools.evaluate.rebuild import RebuiltRun

Arguments = dict[str, Any]


def torchvision_arguments(network: nn.Module, input_size: int) -> Arguments:
    if hasattr(network, "transform_input"):  # googlenet, inception_v3; not in the state dict
        fixed = {"aux_logits": False, "init_weights": False}
        return fixed | {"transform_input": network.transform_input}
    return {"image_size": network.image_size} if hasattr(network, "image_size") else {}


def timm_arguments(network: nn.Module, input_size: int) -> Arguments:
    config: Any = network.pretrained_cfg
    return {"img_size": input_size} if config["fixed_input_size"] else {}


# By the class that built it: the library, what the name begins with there, and the arguments.
PLAIN: dict[str, tuple[str, str, Callable[[nn.Module, int], Arguments]]] = {
    "triptych.models.torchvision_models.TorchvisionModel": (
        *("torchvision", ""),
        torchvision_arguments,
    ),
    "triptych.models.timm_models.TimmModel": ("timm", "", timm_arguments),
    "triptych.models.efficientnet_lite.EfficientNetLite": ("timm", "tf_", timm_arguments),
}


def plain_architecture(run: RebuiltRun) -> dict[str, Any] | None:
    """How the network's own library builds it; None of a network of the user's own."""
    model, backbone = run.config["model"], run.backbone
    if model["_target_"] not in PLAIN:
        return None
    library, prefix, arguments = PLAIN[model["_target_"]]
    own = arguments(backbone.network, backbone.preprocessing.input_size)
    return {
        "library": library,
        "architecture": prefix + model["name"],
        "arguments": {"num_classes": len(run.classes), **own},
    }


def check_plain(run: RebuiltRun) -> None:
    """Raise UserError where a library alone does not answer as the run does."""
    if plain_architecture(run) is None or run.task not in (None, "multilabel"):
        raise UserError(
            f"format=safetensors: holds weights for a network of torchvision's or timm's, with "
            f"one label an image or several; {run.config['model']['name']} of this run is none\n"
            "format=onnx needs neither"
        )
