"""Configs out of run folders that may be somebody else's."""

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.composing import composed
from tests.run_folders import change_record
from triptych.config import CONFIGS, Config, find_targets
from triptych.errors import UserError
from triptych.runs import trust
from triptych.runs.record import Record
from triptych.runs.resume_request import check_request
from triptych.runs.trust import check_untrusted_config, is_signed, localize_source, read_key


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


@pytest.mark.parametrize(
    ("hidden", "what"),
    [("${oc.create:{_target_: builtins.print}}", "interpolation"), ("a\0b", "NUL")],
)
def test_an_interpolation_and_the_end_of_a_name_are_refused(hidden: str, what: str) -> None:
    config = foreign(callbacks=[{"_target_": STOPPING, "device": hidden}])
    with pytest.raises(UserError, match=what):
        check_untrusted_config(config)


LOGGER = {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "save_dir": "/nowhere"}
ADAM = {"_target_": "torch.optim.Adam"}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model", LOGGER),
        ("model.network", ADAM),
        ("data.source", LOGGER),
        ("data.source", {"_target_": "hydra_plugins.triptych.launchers.ProcessLauncher"}),
        ("optim.optimizer", LOGGER),
        ("trainer.logger", [ADAM]),
        ("trainer.callbacks", LOGGER),
        ("trainer.plugins", ADAM),
        ("optim.optimizer.betas", [[ADAM]]),
        ("pruner", {"_target_": "optuna.pruners.MedianPruner"}),
        ("data.source._partial_", True),
        ("data.source._args_", ["/nowhere"]),
        ("model._recursive_", False),
        ("optim.optimizer._convert_", "none"),
        ("model.mean", {"_partial_": True}),
        *[("model._target_", value) for value in (5, ["os.system"], {"os": "system"}, None, "")],
    ],
)
def test_a_target_that_is_no_text_or_installed_for_another_purpose_is_refused(
    place: str, value: Any
) -> None:
    config = foreign("data=shapes")
    node: Any = config
    *path, last = place.split(".")
    for name in path:
        node = node[name]
    node[last] = value
    with pytest.raises(UserError, match="_target_="):
        check_untrusted_config(config)


def test_a_default_of_the_command_that_resumes_vouches_for_no_other_place(tmp_path: Path) -> None:
    config = composed("train", "data=shapes", log_dir=str(tmp_path))
    config["model"] = LOGGER | {"name": "x"}
    folder = Record.create(config, []).folder
    with pytest.raises(UserError, match=r"TensorBoardLogger: .* not as model"):
        check_request(composed("train", resume=str(folder)), [])


def begin(log_dir: Path, *overrides: str, foreign: bool = True, **source: Any) -> Record:
    """The record of a run, by default one that somebody else has begun."""
    config = composed("train", *overrides, "model.weights=null", log_dir=str(log_dir))
    config["data"]["source"] |= source
    record = Record.create(config, [*overrides])
    record.update(status="interrupted", **({"signature": "0" * 64} if foreign else {}))
    return record


def localize(record: Record, *trusted: str) -> tuple[dict[str, Any], list[str]]:
    if is_own(record):
        return record.config["data"]["source"], []
    return localize_source(record.config, trusted)


def is_own(record: Record) -> bool:
    return is_signed(record.folder, record.metadata.get("signature"))


def test_official_images_lie_where_this_machine_says_and_nowhere_else(tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    theirs, own = (begin(tmp_path, f"data.root={elsewhere}", foreign=f) for f in (True, False))
    assert localize(theirs)[0]["root"] == os.environ["DATA_DIR"]
    assert localize(own) == (own.config["data"]["source"], [])
    assert own.config["data"]["source"]["root"] == elsewhere
    check_request(composed("train", resume=str(theirs.folder)), [])


PHOTOS = ("data=folder", "optim.backbone_lr=1e-4")


def test_photos_are_read_where_their_owner_or_who_resumes_has_typed(tmp_path: Path) -> None:
    root, table = str(tmp_path), str(tmp_path / "labels.csv")
    typed = [*PHOTOS, f"data.root={root}", f"data.labels={table}", "data.fit=pad"]
    theirs = begin(tmp_path, *typed)
    settings, unknown = localize(theirs)
    assert (settings, unknown) == (theirs.config["data"]["source"], ["root", "labels"])
    assert localize(begin(tmp_path, *typed, foreign=False))[1] == []
    assert localize(theirs, settings["_target_"])[1] == []
    resumed = {"resume": str(theirs.folder)}
    with pytest.raises(UserError, match=rf"add data\.root={root} data\.labels={table}$"):
        check_request(composed("train", **resumed), [])
    check_request(composed("train", *typed, **resumed), typed)
    inside = begin(tmp_path, *PHOTOS, f"data.root={os.environ['DATA_DIR']}/photos")
    assert localize(inside)[1] == []


@pytest.mark.parametrize(
    "settings",
    [
        {"urls": ["http://127.0.0.1/x"]},
        {"root": ["/"]},
        {"size": 10**9},
        {"fit": "../up"},
        {"splits": {"train": "../.."}},
        {"splits": {"train": "/etc"}},
        {"labels": {"a": 1}},
    ],
)
def test_arguments_of_a_source_that_no_data_set_has_are_refused(
    tmp_path: Path, settings: Any
) -> None:
    with pytest.raises(UserError, match=rf"data\.source\.{next(iter(settings))}="):
        localize(begin(tmp_path, *PHOTOS, f"data.root={tmp_path}", **settings))


def test_weights_in_a_file_are_read_for_who_typed_it(tmp_path: Path) -> None:
    config = composed("train", "data=shapes", "model.weights=/a/file.pth", log_dir=str(tmp_path))
    record = Record.create(config, [])
    resumed = {"resume": str(record.folder)}
    check_request(composed("train", **resumed), [])
    change_record(record.folder, signature=None)
    with pytest.raises(UserError, match=r"add model\.weights=/a/file\.pth"):
        check_request(composed("train", **resumed), [])
    check_request(composed("train", "model.weights=/a/file.pth", **resumed), [])


def test_a_data_set_that_was_added_to_the_configs_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = Path(shutil.copytree(CONFIGS, tmp_path / "configs"))
    text = (configs / "data" / "shapes.yaml").read_text()
    node = "source: {_target_: mine.Birds, urls: [https://a, https://b], at: '${oc.env:DATA_DIR}'}"
    (configs / "data" / "birds.yaml").write_text(f"{text.partition('source:')[0]}{node}\n")
    for cached in (trust.installed_nodes, trust.compose_data):
        monkeypatch.setattr(trust, cached.__name__, cached.__wrapped__)
    monkeypatch.setattr(trust, "CONFIGS", configs)
    source = {"_target_": "mine.Birds", "urls": ["https://a", "https://b"], "at": "/theirs"}
    record = begin(tmp_path, "data=shapes")
    config = record.config
    config["data"]["source"] = source
    check_untrusted_config(config)
    assert localize_source(config, []) == (source | {"at": os.environ["DATA_DIR"]}, [])
    config["data"]["source"] = source | {"cache": "/anywhere"}
    with pytest.raises(UserError, match=r"trusted_targets=\[mine\.Birds\]"):
        localize_source(config, [])
    assert localize_source(config, ["mine.Birds"])[0]["cache"] == "/anywhere"


def test_a_signature_holds_for_its_user_and_an_unchanged_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    record = begin(tmp_path, *PHOTOS, f"data.root={tmp_path}", foreign=False)
    key = tmp_path / "state" / "triptych" / "key"
    assert (key.stat().st_mode & 0o777, key.stat().st_size) == (0o600, 32)
    assert [*key.parent.iterdir()] == [key]
    assert is_own(Record.open(record.folder))
    moved = Record.open(Path(shutil.copytree(record.folder, tmp_path / "moved")))
    assert is_own(moved)
    config = moved.folder / "config.yaml"
    config.write_text(config.read_text().replace("fit: crop", "fit: pad"))
    assert not is_own(moved)
    key.chmod(0o640)
    assert not is_own(record), "others could have signed it"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert not is_own(record)
    assert not (tmp_path / "other").exists(), "to read a folder makes no key"


@pytest.mark.parametrize("signature", ["\u00e4", "\ud800", "", 5, None, ["a"]])
def test_a_signature_that_is_none_is_no_error(tmp_path: Path, signature: Any) -> None:
    record = begin(tmp_path, *PHOTOS, f"data.root={tmp_path}")
    record.update(signature=signature)
    assert not is_own(record)


def make_key(state: str) -> bytes | None:
    os.environ["XDG_STATE_HOME"] = state
    return read_key(make=True)


def test_processes_that_make_a_key_at_once_agree_and_without_a_home_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProcessPoolExecutor(4) as pool:
        keys = {*pool.map(make_key, [str(tmp_path / str(n // 4)) for n in range(40)])}
    assert len(keys - {None}) == 10
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert read_key(make=True) is None
    record = begin(tmp_path, *PHOTOS, f"data.root={tmp_path}", foreign=False)
    assert localize(record)[1] == ["root"]
