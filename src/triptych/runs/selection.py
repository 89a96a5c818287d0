"""How often validation images chose a run's network before they are used for anything else."""

from triptych.config import Config, find_targets

# Callbacks that take no notice of validation images; others may have chosen by them.
BLIND = {*"EMAWeightAveraging GradualUnfreezing LearningRateMonitor SWA".split()}
STOPPING = "EarlyStopping"


def count_candidates(config: Config, num_epochs: int | None) -> int | None:
    """Among how many networks validation images chose that of a run: its epochs, times the trials
    of a search; 1 where they chose nothing. None where that is not known."""
    trainer = config.get("trainer") or {}
    callbacks = {each.rpartition(".")[2] for each in find_targets(trainer.get("callbacks"))}
    if callbacks - BLIND - {STOPPING}:
        return None
    epochs: int | None = 1
    if STOPPING in callbacks or (config.get("checkpoint") or {}).get("score") != "last":
        epochs = trainer.get("max_epochs") if STOPPING in callbacks else num_epochs
        if trainer.get("val_check_interval") is not None:
            return None
    trials = (config.get("tuned") or {}).get("num_trials", 1)
    counts = (epochs, trials)
    return epochs * trials if all(type(n) is int and n > 0 for n in counts) else None
