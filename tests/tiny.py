"""A network and a training that are as small as they can be and still go wrong as large ones do."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from triptych.callbacks import figures

TARGETS = ("tests.tiny.Tiny", "triptych.models.custom.CustomModel")  # not in the installed configs


def choose(network: str) -> list[str]:
    """The overrides that choose a network of this file by its class's name."""
    return [
        *("~model", f"+model._target_={TARGETS[1]}", f"+model.name={network.lower()}"),
        *("+model.weights=null", "+model.input_size=32"),
        f"+model.network={{_target_: tests.tiny.{network}, _partial_: true}}",
    ]


TINY = (
    *("data=shapes", "data.source.num_train=60", "data.source.num_test=30", "data.num_train=40"),
    *("data.num_val=20", "data.num_test=25", "data.batch_size=8", "data.augment=standard"),
    *choose("Tiny"),
    *("optim.lr=0.01", "++trainer.max_epochs=3", "++trainer.accelerator=cpu"),
    *("++trainer.log_every_n_steps=2", "++trainer.precision=32-true"),  # on every CPU the same
)
StartRun = Callable[..., dict[str, Any]]  # what the fixture `start_run` gives


def draw_nothing(replace: Callable[..., object] = setattr) -> None:
    """Replace what draws a run's figures."""
    for name in ("image_grid", "confusion_matrix"):
        replace(figures, name, lambda *_: None)
    replace(figures, "save", lambda *_: np.zeros((3, 2, 2), np.uint8))


class Tiny(nn.Sequential):
    """A convolution, BatchNorm's statistics, dropout's random numbers, a head."""

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
