"""Which devices a run takes, and how many ranks: of more than one, or where a launcher began it."""

from typing import Any

from triptych.config import Config
from triptych.distributed.ranks import cluster_environment
from triptych.errors import UserError


def parse_devices(config: Config) -> Any:
    """`trainer.devices` as a number, a list of indices or `auto`.

    Raises UserError at indices of a CPU.
    """
    devices = config["trainer"].get("devices", 1)
    if isinstance(devices, str) and "," in devices:
        devices = [int(index) for index in devices.split(",") if index]
    if isinstance(devices, list) and config["trainer"].get("accelerator") == "cpu":
        raise UserError(f"trainer.devices={devices}: indices are of GPUs; of a CPU, say how many")
    return "auto" if devices in (-1, "-1") else devices


def place_ranks(config: Config) -> dict[str, Any]:
    """The Trainer's `devices`; and `num_nodes` where torchrun or srun started several ranks."""
    devices = parse_devices(config)
    if not cluster_environment():
        return {"devices": devices}
    from triptych.distributed import environment

    return environment.place_ranks(devices, config["trainer"].get("num_nodes", 1))


def count_ranks(config: Config, num_gpus: int) -> int:
    """How many ranks are to be started: 1 where one device will do, or where this is a rank.

    `num_gpus`: those that the run may use.
    """
    trainer = config["trainer"]
    devices = parse_devices(config)
    if cluster_environment():
        return 1
    if trainer.get("num_nodes", 1) > 1:
        raise UserError(
            f"trainer.num_nodes={trainer['num_nodes']}: a run on several machines is started on "
            "every one of them, by torchrun, or in a job of SLURM: srun python train.py ..."
        )
    if devices == "auto":
        return max(1, num_gpus)
    return len(devices) if isinstance(devices, list) else int(devices)


def check_ranks(trainer: Any, config: Config) -> None:
    """Raise UserError where the ranks cannot share a batch as asked."""
    if config["trainer"].get("sync_batchnorm") and trainer.strategy.root_device.type == "cpu":
        raise UserError("trainer.sync_batchnorm=true: torch has it for GPUs only")
    check_shares(config, trainer.world_size)


def check_shares(config: Config, num_ranks: int) -> None:
    data = config["data"]
    least = min(data["batch_size"], data["num_train"] or data["batch_size"])
    if least < num_ranks:
        raise UserError(
            f"data.batch_size={data['batch_size']}: of a batch of {least} images "
            f"{num_ranks} devices cannot have one each; take more"
        )
