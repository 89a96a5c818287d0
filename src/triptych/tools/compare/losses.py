"""Which of two networks loses more accuracy on image types: described, not tested."""

from collections.abc import Sequence

import numpy as np

from triptych.runs.reader import sanitize
from triptych.tools.compare.exhibits import ImageTypes, Losses, LostMore
from triptych.tools.compare.groups import Group
from triptych.tools.compare.pairs import chosen, of_all
from triptych.tools.compare.sentences import MAX_SENTENCES, loses_more, some
from triptych.tools.evaluate.degradation import OVERALL, degradation_differences


def losses(groups: Sequence[Group], tried: Sequence[ImageTypes]) -> Losses:
    """Pairs of the networks `tried`, chosen as those of the verdict are, on the same images."""
    of = {
        group: each
        for group in groups
        for each in tried
        if each.outcomes and each.label in [network.label for network in group.networks]
    }
    pairs = []
    for a, b in chosen([*of], of_all):
        one, other = of[a].outcomes, of[b].outcomes
        if one and other and np.array_equal(one.index, other.index):
            by_type = sanitize(degradation_differences(one, other))
            if by_type:
                pairs.append(LostMore(of[a].label, of[b].label, len(one.index), by_type))
    return Losses((*_said(pairs), *_apart([*of.values()])), tuple(pairs))


def _said(pairs: Sequence[LostMore]) -> list[str]:
    if len(pairs) <= MAX_SENTENCES:
        return [loses_more(pair) for pair in pairs]
    overall = [pair.by_type[OVERALL] for pair in pairs]
    apart = sum(lost.low > 0 or lost.high < 0 for lost in overall)
    return [
        f"Of {len(pairs)} pairs of networks tried on the same images, {apart} have a bootstrap "
        "interval of the difference in mean loss without 0 in it, each at 95 % and untested."
    ]


def _apart(tried: Sequence[ImageTypes]) -> list[str]:
    """That networks were tried on other images, where they were."""
    images = {each.label: each.outcomes.index for each in tried if each.outcomes}
    if len({index.tobytes() for index in images.values()}) < 2:
        return []
    counts = some([f"{label} on {len(index):,}" for label, index in images.items()])
    return [
        f"Not all networks were tried on the same images ({counts}); their losses are compared "
        "only where they were. Evaluate them with the same image_types.num_images."
    ]
