"""How deep a layer lies in a network: its blocks, in order, of any of torchvision's and timm's."""

from collections.abc import Iterator

from torch import nn
from torchvision.ops import StochasticDepth

from triptych.errors import UserError

SEQUENCES = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def split_by_depth(network: nn.Module, head: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters below a network's head by blocks, from the first to the last.

    A block is a residual or transformer block, an Inception module, a layer with weights that is in
    none. Norm layers belong to the block before them, tokens and positions to the first.
    """
    of_head = {*head.parameters()}
    blocks: list[list[nn.Parameter]] = []
    for block in iterate_blocks(network, head):
        parameters = [p for p in block.parameters() if p not in of_head]
        if blocks and not count_weights(block):
            blocks[-1] += parameters
        elif parameters:
            blocks.append(parameters)
    held = of_head.union(*blocks)
    rest = [p for p in network.parameters() if p not in held]
    return [rest + blocks[0], *blocks[1:]] if blocks else [rest] if rest else []


def iterate_blocks(module: nn.Module, head: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that are no stage of a network, in the order of their names."""
    for child in module.children():
        is_stage = isinstance(child, SEQUENCES) or any(
            map(holds_blocks, [child, *child.children()])
        )
        if is_stage or (head is not child and head in {*child.modules()}):
            yield from iterate_blocks(child, head)
        else:
            yield child


def holds_blocks(module: nn.Module) -> bool:
    """Whether all that it consists of are blocks of one kind, as in a stage."""
    parts = [*module.children()]
    is_uniform = len({type(part) for part in parts}) == 1 and not isinstance(parts[0], SEQUENCES)
    return is_uniform and count_weights(parts[0]) > 1


def count_weights(module: nn.Module) -> int:
    return sum(p.ndim > 1 for p in module.parameters())


def set_drop_path(network: nn.Module, rate: float, name: str) -> None:
    """Have a network leave out its last block for a share of the images, others for less.

    torchvision's networks are built with a rate of theirs, timm's with the one that is asked for.
    Raises UserError where it has no such layers.
    """
    kinds = ("StochasticDepth", "DropPath")
    layers = [layer for layer in network.modules() if type(layer).__name__ in kinds]
    if rate and not layers:
        raise UserError(
            f"model.drop_path={rate:g}: {name} has no stochastic depth; it is in EfficientNet, "
            "ConvNeXt and Swin, and in most networks of timm"
        )
    of_torchvision = [layer for layer in layers if isinstance(layer, StochasticDepth)]
    highest = max((layer.p for layer in of_torchvision), default=1.0)
    for layer in of_torchvision:
        layer.p *= rate / highest
