"""Searches of settings: which of them gave runs their settings.

Whole searches that differ in `sampler_seed` alone are replicates. The networks trained from the
winners of three or more are the trainings of one recipe: the network, tuned by that budget.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from triptych.config import TEXT, Config, Rule, count, find_nodes, number, one_of
from triptych.runs.reader import MEASURED
from triptych.tools.compare.runs import TrainedNetwork
from triptych.tools.statistics.inference import MIN_SEEDS
from triptych.tools.tune.settings import FILE_NAME

# Callbacks that take no notice of validation images; any other may have chosen by them.
BLIND = {*"EMAWeightAveraging GradualUnfreezing LearningRateMonitor SWA".split()}
MAX_EPOCHS, MAX_CANDIDATES = 10**5, 10**1000  # more are counted as so many
ANYTHING = Rule("anything", lambda _: True)
TUNED: dict[str, Rule] = {
    "study": FILE_NAME,
    **dict.fromkeys(("search_hash", "space_hash", "budget", "sampler", "monitor"), TEXT),
    **{"sampler_seed": count(0), "num_trials": count(1), "seconds": MEASURED},
}


class Search(NamedTuple):
    """What a run's config says of the search that gave it its settings: entries of `TUNED`."""

    study: str
    search_hash: str
    space_hash: str
    budget: str  # in words
    sampler: str
    monitor: str
    sampler_seed: int
    num_trials: int
    seconds: float


def find_search(run: TrainedNetwork) -> Search | None:
    """None of a run that was not trained from a search's winner."""
    return read_search(run.config)


def read_search(config: Config) -> Search | None:
    tuned = config.get("tuned")
    if not isinstance(tuned, dict) or not all(r.holds(tuned.get(n)) for n, r in TUNED.items()):
        return None
    return Search(**{name: tuned[name] for name in TUNED})


def count_candidates(config: Config, metadata: Mapping[str, Any]) -> int:
    """Among how many networks validation images chose a run's: epochs, of every trial where a
    search chose its settings. 1 where the last epoch is scored, and no callback may have ended the
    training or averaged its weights by validation."""
    is_last = read_entry(config, "checkpoint", "score", one_of("last"))
    trainer_callbacks = read_entry(config, "trainer", "callbacks", ANYTHING)
    nodes = [node for _, node in find_nodes([config.get("callbacks"), trainer_callbacks])]
    num_epochs = min(metadata["num_epochs"] or 1, MAX_EPOCHS)
    callbacks = {str(node.get("_target_")).rpartition(".")[2]: node for node in nodes}
    if "EarlyStopping" in callbacks:  # it might have ended at any of them
        most = read_entry(config, "trainer", "max_epochs", count(1, MAX_EPOCHS))
        num_epochs = max(num_epochs, most or 1)
    share = read_entry(config, "trainer", "val_check_interval", number(1e-6, 1))
    if share:
        num_epochs = math.ceil(num_epochs / share)
    if is_last and callbacks.keys() <= BLIND:
        num_epochs = 1
    elif "Soup" in callbacks:  # a mean of any so many epochs
        most = read_entry(callbacks, "Soup", "k", count(1))
        num_epochs += math.comb(num_epochs, min(most or 1, num_epochs // 2))
    search = read_search(config)
    return min(num_epochs * (search.num_trials if search else 1), MAX_CANDIDATES)


def read_entry(config: Config, node: str, name: str, rule: Rule) -> Any:
    """An entry of a run's config, anybody's; None where it breaks its rule."""
    entries = config.get(node)
    value = entries.get(name) if isinstance(entries, dict) else None
    return value if rule.holds(value) else None


def find_replicates(runs: Iterable[TrainedNetwork]) -> dict[TrainedNetwork, tuple[object, ...]]:
    """The runs from winners of three whole searches or more, and what those of a recipe share."""
    families: dict[tuple[object, ...], dict[TrainedNetwork, int]] = defaultdict(dict)
    for run in runs:
        if search := find_search(run):
            families[search.search_hash, *run.recipe[1:]][run] = search.sampler_seed
    replicated = {f: seeds for f, seeds in families.items() if len({*seeds.values()}) >= MIN_SEEDS}
    return {run: family for family, seeds in replicated.items() for run in seeds}


def find_repeated_winners(runs: Sequence[TrainedNetwork]) -> Iterator[tuple[TrainedNetwork, str]]:
    """Runs of replicated searches beside another of the same search, which has a lower seed."""
    first: dict[tuple[object, ...], TrainedNetwork] = {}
    families = find_replicates(runs)
    for run in sorted(families, key=lambda run: int(run.metadata["seed"])):
        search = find_search(run)
        assert search
        other = first.setdefault((families[run], search.sampler_seed), run)
        if other is not run:
            what = f"seed {other.metadata['seed']} of the winner of study {search.study}"
            yield run, f"left out: {what} stands for that search, one network each"
