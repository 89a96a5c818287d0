"""What a run needs before it can start: images, and pretrained weights."""

import shlex

from triptych import Refused
from triptych.data.source import Source
from triptych.model.own import Network


def require(needed: list[Source | Network], overrides: list[str]) -> None:
    """Raise Refused unless all that is needed is on disk or can be fetched; fetches nothing."""
    lost = [what for part in needed if (what := part.missing()) and not part.reachable()]
    if lost:
        own = [o for o in overrides if not o.startswith(("model.weights=", "resume="))]
        elsewhere = [o for o in own if not o.startswith(("data=", "data.", "experiment="))]
        drawn = ["data=shapes", "model.weights=null"]
        offers = dict.fromkeys(
            f"\npython train.py {shlex.join(offer)}"
            for offer in ([*own, "model.weights=null"], [*elsewhere, *drawn])
            if sorted(offer) != sorted(overrides)
        )
        raise Refused(
            f"missing, and not to be fetched: {'; '.join(lost)}. These do without:{''.join(offers)}"
        )
