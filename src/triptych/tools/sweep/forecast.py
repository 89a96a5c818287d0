"""How long the jobs of a sweep will take, by what runs of the same recipes took."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from pathlib import Path

from triptych.runs.reader import read_records
from triptych.runs.record import Record, config_hash
from triptych.tools.sweep.jobs import Job


class Forecast:
    """Seconds that a job has left before it is begun, or resumed.

    Known where the folder of the sweep has a finished run that differs in its seed alone.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.recipes = [config_hash(job.config, less=("seed",)) for job in jobs]
        self.whole: dict[str, float] = {}  # of a run, by its recipe: that of the newest
        self._codes = {job.config_hash: job.code for job in jobs}
        self._spent: dict[str, float] = {}  # on a run, by its config_hash; infinite if finished
        records = read_records(Path(jobs[0].config["log_dir"]))
        for record in sorted(records, key=lambda record: str(record.metadata.get("started_at"))):
            self.add(record)

    def add(self, record: Record) -> None:
        """Note what a run took so far, all of its processes together."""
        metadata, seconds = record.metadata, record.seconds_total
        if metadata.get("status") == "finished":
            features = metadata.get("feature_seconds")  # the next probe reads them
            seconds -= features if type(features) is float else 0.0
            self.whole[str(metadata.get("group_hash"))] = seconds
            if metadata.get("code") == self._codes.get(str(metadata.get("config_hash"))):
                self._spent[str(metadata.get("config_hash"))] = inf
        else:
            self._spent[str(metadata.get("config_hash"))] = seconds

    def seconds(self, number: int, whole_runs: Mapping[str, float] | None = None) -> float | None:
        """What a job has left before it is begun, or resumed; None where nobody knows."""
        job, whole = self.jobs[number], (whole_runs or self.whole).get(self.recipes[number])
        spent = 0.0 if job.fresh else self._spent.get(job.config_hash, 0.0)
        return None if whole is None else max(0.0, whole - spent)


def last_end(running: Iterable[float], waiting: Iterable[float], num_jobs: int) -> float:
    """Seconds until all jobs have ended: those that run have so many left each, those that wait
    begin in order, `num_jobs` at a time."""
    ends = sorted(running)
    ends = [0.0] * (num_jobs - len(ends)) + ends  # a heap
    for seconds in waiting:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends, default=0.0)
