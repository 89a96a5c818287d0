"""How networks share the test images, and the images to look at."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from triptych.tools.compare.exhibits import Agreement, Gallery, Guess, Picture
from triptych.tools.compare.groups import Group

MAX_PICTURES = 24  # a list

Pixels = Mapping[int, NDArray[np.uint8]]


def agreement(groups: Sequence[Group]) -> Agreement | None:
    """Counts over the first network of each group, all on the same images."""
    if len(groups) < 2:
        return None
    correct = np.stack([group.first.test.correct for group in groups])
    alone = correct & (correct.sum(axis=0) == 1)
    return Agreement(
        networks=tuple(group.first.label for group in groups),
        num_images=correct.shape[1],
        num_all_right=int(correct.all(axis=0).sum()),
        num_all_wrong=int((~correct).all(axis=0).sum()),
        num_only_right=tuple(alone.sum(axis=1).tolist()),
    )


def gallery(groups: Sequence[Group], pixels: Pixels, classes: Sequence[str]) -> Gallery | None:
    """What the first networks got wrong, most confident first, of the images that were kept."""
    index = groups[0].first.test.index
    kept = np.flatnonzero(np.isin(index, list(pixels)))
    if not kept.size:
        return None
    tests = [group.first.test for group in groups]
    wrong = np.stack([~test.correct for test in tests])
    confidence = np.stack([test.confidence for test in tests]) * wrong  # (networks, N)

    def picture(place: int, networks: Sequence[int]) -> Picture:
        guesses = tuple(
            Guess(
                groups[n].first.label,
                classes[tests[n].classes[place]],
                float(confidence[n, place]),
            )
            for n in networks
        )
        place_in_set = int(index[place])
        return Picture(place_in_set, pixels[place_in_set], classes[tests[0].labels[place]], guesses)

    everyone = range(len(groups))
    by_all = [*_first(kept[wrong[:, kept].all(axis=0)], confidence.mean(axis=0))]
    surest = confidence.argmax(axis=0)
    by_one = [*_first(kept[wrong[:, kept].any(axis=0)], confidence.max(axis=0))]
    return Gallery(
        all_wrong=tuple(picture(place, everyone) for place in by_all),
        num_all_wrong=int(wrong.all(axis=0).sum()),
        confident_errors=tuple(picture(place, [int(surest[place])]) for place in by_one),
    )


def _first(places: NDArray[np.int64], confidence: NDArray[np.float64]) -> list[int]:
    order = np.argsort(-confidence[places], kind="stable")
    return [int(place) for place in places[order[:MAX_PICTURES]]]
