"""Small networks that tests train, and the settings that choose them."""

from torch import nn


class Tiny(nn.Sequential):
    """All that a run can get wrong, in few numbers: statistics, dropout, a head."""

    def __init__(self, num_classes: int) -> None:
        layers = [nn.Conv2d(3, 8, 8, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
        super().__init__(*layers, nn.Dropout(0.5), nn.Linear(8 * 7 * 7, num_classes))


class Learner(nn.Sequential):
    """Learns the built-in drawings within seconds."""

    def __init__(self, num_classes: int) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, num_classes))


def choose(network: type[nn.Module]) -> list[str]:
    """The overrides that choose a network of this file."""
    return [
        *("~model", "+model._target_=triptych.models.custom.CustomModel", "+model.weights=null"),
        *(f"+model.name={network.__name__.lower()}", "+model.input_size=32", "+model.freeze=none"),
        f"+model.network={{_target_: tests.networks.{network.__name__}, _partial_: true}}",
    ]
