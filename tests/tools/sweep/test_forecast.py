"""How long the jobs of a sweep take, by runs that are there."""

from hypothesis import given
from hypothesis import strategies as st

from triptych.tools.sweep.forecast import last_end

SECONDS = st.lists(st.integers(0, 9), max_size=6)


@given(running=st.lists(st.integers(0, 9), max_size=3), waiting=SECONDS, spare=st.integers(0, 2))
def test_the_last_end_is_that_of_a_clock_that_ticks(
    running: list[int], waiting: list[int], spare: int
) -> None:
    num_jobs, queue, at_work, now = len(running) + spare or 1, [*waiting], [*running], 0
    while True:
        at_work = [left for left in at_work if left > 0]
        while queue and len(at_work) < num_jobs:
            at_work += [left] if (left := queue.pop(0)) else []
        if not at_work:
            break
        now, at_work = now + 1, [left - 1 for left in at_work]
    assert last_end(running, waiting, num_jobs) == now
