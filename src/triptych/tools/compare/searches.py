"""Searches of settings: which of them gave runs their settings.

Whole searches that differ in `sampler_seed` alone are replicates. The networks trained from the
winners of three or more are the trainings of one recipe: the network, tuned by that budget.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from triptych.config import TEXT, Rule, count
from triptych.runs.reader import MEASURED
from triptych.tools.statistics.inference import MIN_SEEDS
from triptych.tools.tune.settings import FILE_NAME

if TYPE_CHECKING:
    from triptych.tools.compare.runs import TrainedNetwork

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


def find_search(run: "TrainedNetwork") -> Search | None:
    """None of a run that was not trained from a search's winner."""
    tuned = run.config.get("tuned")
    if not isinstance(tuned, dict) or not all(r.holds(tuned.get(n)) for n, r in TUNED.items()):
        return None
    return Search(**{name: tuned[name] for name in TUNED})


def find_replicates(runs: Iterable["TrainedNetwork"]) -> dict["TrainedNetwork", tuple[object, ...]]:
    """The runs from winners of three whole searches or more, and what those of a recipe share."""
    searches = {run: search for run in runs if (search := find_search(run))}
    families: dict[tuple[object, ...], list[TrainedNetwork]] = defaultdict(list)
    for run, search in searches.items():
        families[search.search_hash, *run.recipe[1:]].append(run)
    return {
        run: family
        for family, same in families.items()
        for run in same
        if len({searches[each].sampler_seed for each in same}) >= MIN_SEEDS
    }


def find_more_of_search(runs: list["TrainedNetwork"]) -> Iterator[tuple["TrainedNetwork", str]]:
    """Runs of replicated searches for which another run stands, that of the lowest seed."""
    standing: dict[tuple[object, ...], TrainedNetwork] = {}
    families = find_replicates(runs)
    for run in sorted(families, key=lambda run: int(run.metadata["seed"])):
        search = find_search(run)
        assert search
        first = standing.setdefault((*families[run], search.sampler_seed), run)
        if first is not run:
            what = f"seed {first.metadata['seed']} of the winner of study {search.study}"
            yield run, f"left out: {what} stands for that search, one network each"
