"""What was declared before the runs: `plan.yaml`, with a digest that an edit by hand breaks."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from triptych.config import NAMES, TEXT, Rule, count
from triptych.errors import UserError
from triptych.runs.reader import FINITE, MAPPING, check_entries
from triptych.runs.record import read_yaml
from triptych.runs.storage import atomic_write
from triptych.tools.plan.settings import FIRST_LOOK, LOOKS
from triptych.tools.plan.settings import RULES as SETTINGS

FILE = "plan.yaml"  # as it is called in the folders of its runs
HEAD = "# Declared before its runs; python train.py -m plan={} follows it. An edit shows.\n"
RECIPE = {"label": TEXT, "overrides": NAMES, "group_hash": TEXT}
RULES: dict[str, Rule] = {  # by the fields of a plan
    **{name: SETTINGS[name] for name in ("metric", "difference", "margin")},
    **dict.fromkeys(("question", "data", "written_at", "digest"), TEXT),
    "looks": LOOKS,
    "seeds": Rule(
        f"at least {FIRST_LOOK} seeds, all different",
        lambda v: type(v) is list and all(map(count(0).holds, v)) and len({*v}) >= FIRST_LOOK,
    ),
    "recipes": Rule(
        "two recipes or more",
        lambda v: type(v) is list and len(v) > 1 and all(map(MAPPING.holds, v)),
    ),
    "num_images": count(2),
    **dict.fromkeys(("split_hash", "test_hash"), TEXT.or_null()),
    "promised": Rule(
        "figures by what is assumed",
        lambda v: (
            (type(v) is dict and all(map(MAPPING.holds, v.values())))
            and all(FINITE.or_null().holds(each) for known in v.values() for each in known.values())
        ),
    ),
    "noted": MAPPING,
}


@dataclass(frozen=True)
class PlannedRecipe:
    label: str
    overrides: list[str]
    group_hash: str  # of its runs


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A question about recipes, and how it will be answered; points, as typed."""

    question: str
    metric: str
    margin: float | None
    difference: float | None
    looks: list[int]  # seeds of each recipe
    seeds: list[int]  # in the order in which they count
    recipes: list[PlannedRecipe]
    data: str
    num_images: int
    split_hash: str | None  # None: not known before the first run
    test_hash: str | None
    promised: dict[str, Any]  # by what is assumed, as it was printed: fractions, numbers of seeds
    written_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    digest: str = ""  # of all the above
    noted: dict[str, Any] = field(default_factory=dict)  # the hashes, at the first runs

    @property
    def declared(self) -> dict[str, Any]:
        return {n: v for n, v in asdict(self).items() if n not in ("digest", "noted")}

    def compute_digest(self) -> str:
        return hashlib.sha256(json.dumps(self.declared, sort_keys=True).encode()).hexdigest()

    @property
    def is_intact(self) -> bool:
        """Whether nobody edited it."""
        return self.digest == self.compute_digest()

    @property
    def group_hashes(self) -> set[str]:
        return {recipe.group_hash for recipe in self.recipes}

    def find_changed_data(self, split_hash: str, test_hash: str) -> str:
        """In what runs are of other data, as words; empty where they are of the plan's."""
        now = {"split_hash": split_hash, "test_hash": test_hash}
        known = {name: getattr(self, name) or self.noted.get(name) for name in now}
        changed = [name for name, value in known.items() if value not in (None, now[name])]
        return ", ".join(f"{name} is {now[name]}, {known[name]} was planned" for name in changed)


def read_plan(path: Path) -> Plan:
    """The plan in a file; raises UserError where it is none."""
    if not path.exists():
        raise UserError(f"plan={path}: no such file; triptych plan writes one")
    content = read_yaml(path)
    check_entries(path, content, RULES)
    for recipe in content["recipes"]:
        check_entries(path, recipe, RECIPE)
    if len(content["seeds"]) < content["looks"][-1]:
        raise UserError(f"{path}: seeds must be as many as the last look, {content['looks'][-1]}")
    recipes = [PlannedRecipe(**{n: recipe[n] for n in RECIPE}) for recipe in content["recipes"]]
    known: dict[str, Any] = {name: content.get(name) for name in RULES}
    return Plan(**known | {"recipes": recipes})


def write_plan(plan: Plan, path: Path) -> None:
    """Write it with its digest, whole."""
    content = plan.declared | {"digest": plan.digest or plan.compute_digest(), "noted": plan.noted}
    with atomic_write(path) as temporary:
        temporary.write_text(HEAD.format(path.name) + OmegaConf.to_yaml(content), encoding="utf-8")
