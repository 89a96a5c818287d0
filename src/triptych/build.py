"""Makes what a config names: data, optimizer, trainer; what they refuse is the user's to mend."""

import inspect
import sys
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.errors import HydraException
from hydra.utils import get_object
from hydra.utils import instantiate as hydra_instantiate
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import Precision
from torch import nn

from triptych.callbacks.progress import ProgressLines
from triptych.config import (
    MONITORS,
    OPTIONAL,
    OPTIONAL_DATA,
    Config,
    as_list,
    find_targets,
    is_plain_trainer,
)
from triptych.data.datamodule import ImageDataModule
from triptych.data.source import ImageSet, Source
from triptych.distributed.ranks import cluster_environment, get_rank, trainer_environment
from triptych.errors import UserError, summarize_error
from triptych.models.backbone import Backbone, BackboneFactory, Preprocessing
from triptych.module import ImageClassifier
from triptych.optim import Optim
from triptych.runs.checkpoint_files import AtomicCheckpointIO
from triptych.runs.record import KNOWN, Record

TENSORBOARD = {  # the logger of configs/trainer/default.yaml
    "_target_": "lightning.pytorch.loggers.TensorBoardLogger",
    **{"name": "", "version": "tensorboard", "default_hp_metric": False},
}
KINDS = {"model": BackboneFactory, "data.source": Source}  # what a node has to make


def instantiate(key: str, node: dict[str, Any], **more: Any) -> Any:
    """What a `_target_` of the config makes; raises UserError where that is not what is needed."""
    try:
        made = hydra_instantiate({"_convert_": "all"} | node, **more)  # lists and dicts of Python
    except HydraException as error:
        from triptych import slots

        slots.check_nodes(key, node)
        reason = summarize_error(error.__cause__ or error)
        raise UserError(f"{key}: {node.get('_target_')} refuses its settings ({reason})") from error
    if key in KINDS and not isinstance(made, KINDS[key]):
        raise UserError(f"{key}: {node.get('_target_')} makes no {KINDS[key].__name__}")
    return made


def check_parts(config: Config) -> None:
    """Raise UserError at a part of a training that is not what its setting takes: before data are
    read, and a folder is made."""
    if not all(map(KNOWN.match, find_targets(config))):
        from triptych import slots

        slots.check_parts(config)


def build_datamodule(
    config: Config, images: ImageSet, preprocessing: Preprocessing
) -> ImageDataModule:
    of_the_source = {"name", "set", "root", "size", "fit", "max_pixels", "source", *OPTIONAL_DATA}
    settings = {key: value for key, value in config["data"].items() if key not in of_the_source}
    if isinstance(node := settings["augment"], dict):
        from triptych import slots

        settings["augment"] = slots.build_augment(node, images.train.images[:8], instantiate)
    if folds := config["data"].get("folds"):
        from triptych.data.folds import hold_out_fold  # for cross-validation alone

        fold, seed = config["data"]["fold"], settings["split_seed"]
        images, held_out = hold_out_fold(images, folds, fold, seed)
        settings[f"num_{held_out}"] = None
    return ImageDataModule(
        image_set=images, preprocessing=preprocessing, seed=config["seed"], **settings
    )


def on_cuda(config: Config) -> bool:
    """Whether the run will use an NVIDIA GPU."""
    accelerator = config["trainer"].get("accelerator", "auto")
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def on_cpu(config: Config) -> bool:
    """Whether the run will use no accelerator at all."""
    accelerator = config["trainer"].get("accelerator", "auto")
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def has_bf16(config: Config) -> bool:
    """Whether the device has instructions for bf16: else it is emulated, slower than fp32."""
    if on_cpu(config):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return on_cuda(config) and torch.cuda.is_bf16_supported(including_emulation=False)


def may_autocast(config: Config) -> bool:
    """Whether the run may compute in half precision by autocast."""
    if precision := config["trainer"].get("precision"):
        return str(precision).endswith("-mixed") or str(precision) in ("16", "bf16")
    return has_bf16(config)


def choose_precision(config: Config, record: Record, module: nn.Module | None = None) -> str:
    """Lightning's name of the precision where the config has none.

    It is that of the run so far, where that was on a device of this kind; else bf16 autocast where
    it is faster. On a CPU a module that learns in strided depthwise convolutions is slower so:
    their gradient takes twice as long (NOTES.md, 2026-11-27).
    """
    device, precision = record.metadata.get("device"), record.metadata.get("precision")
    if device and precision and (device == "cpu") == on_cpu(config):
        return str(precision)
    layers = module.modules() if module and on_cpu(config) else ()
    is_faster = has_bf16(config) and not any(map(learns_in_strides, layers))
    return "bf16-mixed" if is_faster else "32-true"


def learns_in_strides(layer: nn.Module) -> bool:
    """Whether a layer is a depthwise convolution that strides, and learns."""
    if not isinstance(layer, nn.Conv2d) or not layer.weight.requires_grad:
        return False
    return 1 < layer.groups == layer.in_channels and max(layer.stride) > 1


def build_module(
    config: Config, backbone: Backbone, num_classes: int, num_per_class: list[int] | None = None
) -> ImageClassifier:
    """The LightningModule, or the subclass that `module` names, with its loss and metrics."""
    optim = config["optim"]
    parts: dict[str, Any] = {
        "backbone": backbone,
        "optim": build_optim(config),
        "num_classes": num_classes,
    }
    if optim["class_weights"] == "none" and not config.keys() & {*OPTIONAL}:
        loss = nn.CrossEntropyLoss(label_smoothing=optim["label_smoothing"])
        return ImageClassifier(**parts, loss=loss)
    from triptych import slots

    return slots.build_module(config, parts, num_per_class, instantiate)


def build_optim(config: Config) -> Optim:
    """The recipe of learning, with the optimizer's fused kernels where it has them."""
    of_others = ("name", "label_smoothing", "class_weights")
    settings = {name: value for name, value in config["optim"].items() if name not in of_others}
    node = settings.pop("optimizer")
    try:
        signature = inspect.signature(get_object(node["_target_"]))
        signature.bind([], **{name: value for name, value in node.items() if name != "_target_"})
    except (ImportError, TypeError, ValueError) as error:
        from triptych import slots

        slots.check_nodes("optim.optimizer", node)
        raise UserError(f"optim.optimizer: {node['_target_']} has {error}") from error
    if isinstance(settings["schedule"], dict):
        from triptych import slots

        settings |= slots.build_schedule(settings["schedule"], instantiate)
    takes_fused = "fused" in signature.parameters and not {"fused", "foreach"} & {*node}
    if config["trainer"].get("gradient_clip_val") and may_autocast(config):
        takes_fused = False  # Lightning refuses to clip what it computes
    if on_cuda(config) and node["_target_"].endswith(".Adagrad"):
        takes_fused = False  # torch 2.11 has that kernel for a CPU alone
    fused = {"fused": True} if takes_fused else {}
    optimizer = instantiate("optim.optimizer", node, **fused, _partial_=True)
    return Optim(optimizer=optimizer, **settings)


def check_step(optim: Optim) -> None:
    """Raise UserError where the optimizer's settings let it make no step: some look at them then.

    On four numbers, without a draw of random ones.
    """
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros(2, 2)
    try:
        optim.optimizer([{"params": [weight], "lr": optim.lr}]).step(lambda: 0.0)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"optim.optimizer: {summarize_error(error)}") from error


def move_to_device(module: nn.Module, device: torch.device) -> None:
    """Move a module to a device, laid out and multiplied as suits it."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    # Faster on a CPU, too: NOTES.md, 2026-11-25.
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def device_name(device: torch.device) -> str:
    """As `run.json` has it: a GPU by its product's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def build_trainer(
    config: Config, record: Record, callbacks: list[Callback], module: nn.Module | None = None
) -> pl.Trainer:
    """Lightning's Trainer with the config's callbacks and loggers, and ours after them.

    `module` is what it will train.
    """
    options = {n: v for n, v in config["trainer"].items() if v is not None and n != "on_oom"}
    loggers = [make_logger(node, record) for node in as_list(options.pop("logger", None))]
    monitors = module.monitors if isinstance(module, ImageClassifier) else MONITORS
    configured, plugins = list[Callback](), list[Any]()
    its_callbacks, its_plugins = (as_list(options.pop(n, None)) for n in ("callbacks", "plugins"))
    if not is_plain_trainer(config["trainer"]):
        from triptych.callbacks.configured import build_parts

        configured, plugins = build_parts(
            its_callbacks, its_plugins, options, record.folder, instantiate, monitors
        )
    if "precision" not in options and not any(isinstance(p, Precision) for p in plugins):
        options["precision"] = choose_precision(config, record, module)
    # Sizes are the same in every step: cuDNN's search for the fastest convolutions pays.
    options.setdefault("benchmark", on_cuda(config) and not options.get("deterministic"))
    has_bar = add_progress(configured, options.pop("enable_progress_bar", True))
    ours = {"default_root_dir": record.folder, "use_distributed_sampler": False}  # it would pad
    options = ours | options | place_ranks(config)
    try:
        trainer = pl.Trainer(
            **options,
            callbacks=[*configured, *callbacks],
            logger=loggers,
            plugins=[AtomicCheckpointIO(), *find_environment(plugins), *plugins],
            enable_progress_bar=has_bar,
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        raise UserError(f"trainer: {summarize_error(error)}") from error
    if not takes_one_device(config):
        from triptych.distributed.devices import check_ranks

        check_ranks(trainer, config)
    if config["trainer"].get("callbacks"):
        from triptych.callbacks.configured import check_monitors

        check_monitors(trainer, configured, monitors)
    return trainer


def find_environment(plugins: list[Any]) -> list[ClusterEnvironment]:
    """The plugin that says what started this process, unless the config names one."""
    rank_zero_only.rank = get_rank()  # type: ignore[attr-defined]
    is_named = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    return [] if is_named else [trainer_environment()]


def add_progress(callbacks: list[Callback], is_shown: bool) -> bool:
    """Have rank 0 show its progress, unless a callback does; whether there is a bar of any."""
    is_bar = [isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks]
    if not is_shown or any(is_bar) or get_rank() > 0:
        return is_shown and any(is_bar)
    if not sys.stdout.isatty():
        callbacks.append(ProgressLines())
        return False
    from triptych.callbacks.progress_bar import ProgressBar

    callbacks.append(ProgressBar(refresh_rate=10))
    return True


def place_ranks(config: Config) -> dict[str, Any]:
    """The Trainer's `devices`; and `num_nodes` where torchrun or srun started several ranks."""
    if takes_one_device(config):
        return {"devices": 1}
    from triptych.distributed import devices

    return devices.place_ranks(config)


def takes_one_device(config: Config) -> bool:
    """Whether the run is one process on any one device, as most are."""
    trainer = config["trainer"]
    is_single = trainer.get("devices", 1) == trainer.get("num_nodes", 1) == 1
    return is_single and not trainer.get("sync_batchnorm") and not cluster_environment()


def count_ranks(config: Config) -> int:
    """How many ranks are to be started: 1 where one device will do, or where this is a rank."""
    if takes_one_device(config):
        return 1
    from triptych.distributed import devices

    return devices.count_ranks(config, torch.cuda.device_count() if on_cuda(config) else 1)


def make_logger(node: dict[str, Any], record: Record) -> Any:
    """A logger that writes into the run folder; raises UserError where it cannot."""
    if node == TENSORBOARD:
        return instantiate("trainer.logger", node, save_dir=str(record.folder))
    from triptych.callbacks.loggers import build_logger  # for those of the user's alone

    return build_logger(node, record, instantiate)


def find_parts(
    config: Config, overrides: Sequence[str], *, has_weights: bool = False
) -> tuple[Source, BackboneFactory]:
    """The source of images and the network; raises UserError unless what they need is on disk or
    can be downloaded, weights only where the run has none (`has_weights`). Downloads nothing."""
    check_parts(config)
    source: Source = instantiate("data.source", config["data"]["source"])
    factory: BackboneFactory = instantiate("model", config["model"])
    needed: list[Source | BackboneFactory] = [source] if has_weights else [source, factory]
    missing = [what for part in needed if (what := part.missing()) and not part.can_download()]
    if missing:
        from triptych.cli.help import describe_missing  # and what runs without it

        raise UserError(describe_missing(missing, overrides))
    return source, factory
