"""Configs out of run folders that may be somebody else's."""

from typing import Any

import pytest

from tests.composing import composed
from triptych.config import Config, find_targets
from triptych.errors import UserError
from triptych.runs.trust import check_untrusted_config


def foreign(*overrides: str, **trainer: Any) -> Config:
    """A config as it comes out of a run folder, with other settings of the Trainer."""
    config = composed("train", *overrides)
    config["trainer"] |= trainer
    return config


STOPPING = "lightning.pytorch.callbacks.EMAWeightAveraging"


@pytest.mark.parametrize("recipe", ["paper", "probe"])
def test_what_the_installed_configs_name_is_trusted(recipe: str) -> None:
    config = foreign(f"experiment={recipe}")
    assert len(list(find_targets(config))) >= 4
    check_untrusted_config(config)


EVIL = {"_target_": "torch.hub.load", "repo": "somebody/else"}


@pytest.mark.parametrize(
    "callbacks",
    [
        [{"_target_": STOPPING}, EVIL],
        [{"_target_": STOPPING, "device": EVIL}],
        [{"_target_": STOPPING, "x": [[1, EVIL]]}],
    ],
)
def test_a_target_that_is_not_installed_is_refused_wherever_it_is_nested(callbacks: Any) -> None:
    with pytest.raises(UserError, match=r"^_target_=torch\.hub\.load: not in the installed"):
        check_untrusted_config(foreign(callbacks=callbacks))
    with pytest.raises(UserError, match=r"^_target_=torch\.hub\.load: not in the installed"):
        check_untrusted_config(foreign() | {"per_model": EVIL})


@pytest.mark.parametrize("target", [["os.system"], {"os": "system"}, None, ""])
def test_a_target_that_is_no_text_is_refused(target: Any) -> None:
    with pytest.raises(UserError):
        check_untrusted_config(foreign(callbacks=[{"_target_": target}]))


def test_an_interpolation_that_would_make_a_target_is_refused() -> None:
    hidden = "${oc.create:{_target_: builtins.print}}"
    config = foreign(callbacks=[{"_target_": STOPPING, "device": hidden}])
    with pytest.raises(UserError, match="interpolation"):
        check_untrusted_config(config)
