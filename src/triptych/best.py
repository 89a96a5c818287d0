"""The best epoch's weights and answers, on their way to `best.ckpt` and `predictions/val.npz`.

`last.ckpt` holds them, too, until both are written: they come after it, and again where a run is
resumed that was killed between. So they never belong to an epoch that the record does not name.
"""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from triptych.checkpoint import AtomicCheckpointIO
from triptych.due import accumulates
from triptych.model.weights import within_network
from triptych.record import Record

Chosen = dict[str, Any]  # `val`: logits, labels, index, or None; in a checkpoint also `state_dict`


def weights(state: Mapping[str, Tensor], network: nn.Module) -> OrderedDict[str, Tensor]:
    """The network's part of the task's state, by the network's own names and versions."""
    own = OrderedDict(within_network(state))
    own._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    return own


def include(chosen: Chosen | None, checkpoint: dict[str, Any], network: nn.Module) -> None:
    """Let a checkpoint hold what was chosen, with the weights of that moment."""
    if chosen and "state_dict" not in chosen:
        chosen["state_dict"] = weights(checkpoint["state_dict"], network)
    checkpoint["chosen"] = chosen


def captured(chosen: Chosen, trainer: pl.Trainer) -> Chosen:
    """What was chosen, with the present weights where the next checkpoint will have others."""
    if not accumulates(trainer):
        return chosen
    content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    return copy.deepcopy(content["chosen"])


def keep(chosen: Chosen | None, record: Record, trainer: pl.Trainer) -> None:
    """Write both files, on rank 0; none where nothing was chosen."""
    if chosen is None or not trainer.is_global_zero:
        return
    content = {"state_dict": chosen["state_dict"], "config": record.config_yaml}
    AtomicCheckpointIO().save_checkpoint(content, record.checkpoint_path("best"))
    if chosen["val"] is None:
        record.drop_predictions("val")
        return
    logits, labels, index = (tensor.numpy() for tensor in chosen["val"])
    record.add_predictions("val", logits=logits, labels=labels, index=index)
