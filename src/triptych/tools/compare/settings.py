"""The settings of this command, by the keys of its YAML."""

import glob
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from triptych.config import CONFIGS, FLAG, FOLDERS, PATH, Config, Rule, number, one_of
from triptych.errors import UserError, closest_matches

MARGIN = number(0, 100, above=True)  # in points
RELATIONS = ("better", "not_inferior", "equivalent")
SENTENCE = re.compile(
    rf"\s*(?P<a>\S.*?)\s+(?P<relation>{'|'.join(RELATIONS)})\s+(?P<b>.*?\S)"
    r"(?:\s+margin=(?P<margin>\S+))?\s*"
)


class Claim(NamedTuple):
    """What `require` says of two recipes or trained networks, by their labels."""

    a: str
    relation: str  # one of RELATIONS
    b: str
    margin: float | None  # points

    def __str__(self) -> str:
        margin = "" if self.margin is None else f" margin={self.margin:g}"
        return f"{self.a} {self.relation} {self.b}{margin}"


def parse_claim(sentence: Any) -> Claim | None:
    """`a not_inferior b margin=0.5`, quotes around labels or none; None where it is no such."""
    found = SENTENCE.fullmatch(sentence) if isinstance(sentence, str) else None
    if not found:
        return None
    try:
        margin = None if found["margin"] is None else float(found["margin"])
    except ValueError:
        return None
    if margin is not None and not MARGIN.holds(margin):
        return None
    a, b = (re.sub(r"""^(["'])(.+)\1$""", r"\2", found[name]) for name in "ab")
    return Claim(a, found["relation"], b, margin)


def parse_claims(require: str | list[str] | None) -> list[Claim | None]:
    sentences = [require] if isinstance(require, str) else require or []
    return [parse_claim(sentence) for sentence in sentences]


CLAIMS = Rule(
    f"<label> {'|'.join(RELATIONS)} <label> margin=<points above 0>, or a list of such claims",
    lambda value: type(value) in (str, list) and value != [] and all(parse_claims(value)),
)
RULES: dict[str, Rule] = {
    "runs": FOLDERS.or_null(),
    "predictions": FOLDERS._replace(says="a file, a folder, a glob in quotes, or a list").or_null(),
    "labels": PATH.or_null(),
    "out": PATH.or_null(),
    "allow_mixed": FLAG,
    "metric": one_of("accuracy", "f1", "nll", "brier"),
    "margin": MARGIN.or_null(),
    **dict.fromkeys(("coverage", "risk"), number(0, 1, above=True)),
    "require": CLAIMS.or_null(),
    "require_log": PATH.or_null(),
    **dict.fromkeys(("suspects", "plan", "verify"), PATH.or_null()),
}
# Beside `verify` these have no say, by their defaults: the comparison has its own.
OF_ITS_FILE = {"metric": "accuracy", "allow_mixed": False, "coverage": 0.95, "risk": 0.05}
OF_ITS_FILE |= dict.fromkeys(("margin", "require", "require_log", "out"))


def expand_arguments(arguments: list[str]) -> list[str]:
    """`verify=<file>` for `--verify <file>`; where predictions, or a file to verify, are named and
    runs are not, no run stands beside them."""
    if arguments[-1:] == ["--verify"]:
        raise UserError("--verify: must be followed by the index.html or verdict.json to check")
    if "--verify" in arguments:
        place = arguments.index("--verify")
        arguments = [
            *arguments[:place],
            f"--verify={arguments[place + 1]}",
            *arguments[place + 2 :],
        ]
    arguments = [re.sub("^--verify=", "verify=", argument) for argument in arguments]
    names = {argument.partition("=")[0] for argument in arguments}
    alone = {"predictions", "verify"} & names and "runs" not in names
    return [*arguments, *(["runs=null"] if alone else [])]


def find_contradictions(config: Config) -> Iterator[str]:
    """What no setting shows by itself; whether the files that it names are there."""
    places, labels, verify = (config[name] for name in ("predictions", "labels", "verify"))
    if verify is not None:
        yield from find_ignored(config)
    elif config["runs"] is None and places is None:
        yield "runs=null: runs= or predictions= must be given"
    for place in [places] if isinstance(places, str) else places or ():
        if not os.path.exists(place) and not glob.glob(place, recursive=True):
            yield f"predictions={place}: no such file or folder"
    if labels is not None:
        if places is None and verify is None:
            yield f"labels={labels}: of predictions=; runs have their own"
        sets = [path.stem for path in sorted((CONFIGS / "data").glob("*.yaml"))]
        if not os.path.exists(labels) and labels not in sets:
            known = f"nor a data set; nearest: {closest_matches(labels, sets)}"
            yield f"labels={labels}: no such file, {known}"
    yield from find_unclear_claims(config)


def find_ignored(config: Config) -> Iterator[str]:
    """What is typed beside a file to verify, which has it already."""
    for name, usual in OF_ITS_FILE.items():
        if config[name] != usual:
            yield f"{name}={config[name]}: verify= takes that of its file; leave out {name}="


def find_unclear_claims(config: Config) -> Iterator[str]:
    claims = [claim for claim in parse_claims(config["require"]) if claim]
    for claim in claims:
        if claim.relation != "better" and (claim.margin or config["margin"]) is None:
            yield f"require={claim}: {claim.relation} by how much? add margin=<points>"
    if config["require_log"] and not claims:
        yield f"require_log={config['require_log']}: require=<a claim> must then be given"
