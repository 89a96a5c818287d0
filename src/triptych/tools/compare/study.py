"""What is to be said of the reference study's Table 1 beside figures of ours."""

from collections.abc import Collection

from triptych.tools.compare.exhibits import Study
from triptych.tools.compare.sentences import listed
from triptych.tools.evaluate.paper import (
    LAST_LABELS,
    TABLE_1,
    WHY_THEY_DIFFER,
    last_batch,
    published_matrix,
)
from triptych.tools.statistics.intervals import wilson


def study(num_tests: Collection[int]) -> Study:
    """The finding, beside runs of these numbers of test images."""
    sizes = " or ".join(f"{n:,}" for n in sorted(num_tests))
    scored = " or ".join(map(str, sorted({last_batch(n) for n in num_tests})))
    right = [int(published_matrix(model).trace()) for model in TABLE_1]
    found = [wilson(number, len(LAST_LABELS)) for number in right]
    intervals = [f"{100 * low:.0f} to {100 * high:.0f} %" for low, high in found]
    counts = listed([str(number) for number in right])
    return Study(
        (
            WHY_THEY_DIFFER,
            f"Of those {len(LAST_LABELS)} images {listed([*TABLE_1])} got {counts} right, with "
            f"95 % Wilson intervals of {listed(intervals)}. These overlap almost wholly: the order "
            "that the study reads from its F1, precision and recall has no support in them.",
            "On all 10,000 images its 91.55 % and 88.06 % are no tie between those two trained "
            "networks: both saw the same images, and whatever the overlap of their errors, "
            "McNemar's z lies between 7.7 and 18.7. With one training each that says nothing about "
            "training again.",
            f"Here every metric is over all {sizes} test images of a run; beside it stands the "
            f"study's protocol, applied to the last {scored} of them.",
        ),
    )
