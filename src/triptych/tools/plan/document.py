"""What was declared before the runs: `plan.yaml`, with a digest that an edit by hand breaks."""

import hashlib
import json
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from triptych.config import NAMES, TEXT, Rule, count
from triptych.errors import UserError
from triptych.runs.reader import check_entries
from triptych.runs.storage import atomic_write, check_regular_file
from triptych.tools.plan.settings import FIRST_LOOK, LOOKS
from triptych.tools.plan.settings import RULES as SETTINGS
from triptych.tools.statistics.planning import look_weights

FILE = "plan.yaml"  # as it is called in the folders of its runs
HEAD = "# Declared before its runs; python train.py -m plan={} follows it. An edit shows.\n"
HASH = TEXT.or_null()
RECIPE = {"label": TEXT, "overrides": NAMES, "group_hash": TEXT}
RULES: dict[str, Rule] = {
    **{name: SETTINGS[name] for name in ("metric", "difference", "margin")},
    **dict.fromkeys(("question", "data", "written_at", "digest"), TEXT),
    "looks": LOOKS,
    "seeds": Rule(
        f"at least {FIRST_LOOK} seeds, all different",
        lambda v: type(v) is list and all(map(count(0).holds, v)) and len({*v}) >= FIRST_LOOK,
    ),
    "recipes": Rule(
        "two recipes or more",
        lambda v: type(v) is list and len(v) > 1 and all(type(each) is dict for each in v),
    ),
    "num_images": count(2),
    **dict.fromkeys(("split_hash", "test_hash"), HASH),
    **dict.fromkeys(("promised", "noted"), Rule("a mapping", lambda v: type(v) is dict)),
}


class PlannedRecipe(NamedTuple):
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
    promised: dict[str, Any]  # as it was printed: fractions, numbers of seeds, sentences
    written_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    digest: str = ""  # of all the above
    noted: dict[str, Any] = field(default_factory=dict)  # the hashes, at the first runs

    @property
    def declared(self) -> dict[str, Any]:
        recipes = [recipe._asdict() for recipe in self.recipes]
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        return {n: v for n, v in content.items() if n not in ("digest", "noted")} | {
            "recipes": recipes
        }

    def compute_digest(self) -> str:
        return hashlib.sha256(json.dumps(self.declared, sort_keys=True).encode()).hexdigest()

    @property
    def is_intact(self) -> bool:
        """Whether nobody edited it."""
        return self.digest == self.compute_digest()

    @property
    def group_hashes(self) -> set[str]:
        return {recipe.group_hash for recipe in self.recipes}

    @property
    def num_pairs(self) -> int:
        return len([*combinations(self.recipes, 2)])

    @property
    def weights(self) -> list[float]:
        """The share of the level that each look spends."""
        return [float(weight) for weight in look_weights(self.looks)]

    def find_changed_data(self, split_hash: str, test_hash: str) -> str:
        """In what runs are of other data, as words; empty where they are of the plan's."""
        now = {"split_hash": split_hash, "test_hash": test_hash}
        known = {name: getattr(self, name) or self.noted.get(name) for name in now}
        changed = [name for name, value in known.items() if value not in (None, now[name])]
        return ", ".join(f"{name} is {now[name]}, {known[name]} was planned" for name in changed)


def read_plan(path: Path, setting: str = "plan") -> Plan:
    """The plan in a file that a setting names; raises UserError where it is none."""
    try:
        text = check_regular_file(path).read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("has aliases, which unfold into any size")
        content = yaml.safe_load(text)
        if not isinstance(content, dict):
            raise ValueError("no mapping")
        json.dumps(content, sort_keys=True)  # refuses what no plan has: dates, numbers as names
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{setting}={path}: cannot be read ({reason})") from error
    check_entries(path, content, RULES)
    for recipe in content["recipes"]:
        check_entries(path, recipe, RECIPE)
    if len(content["seeds"]) < content["looks"][-1]:
        raise UserError(f"{path}: seeds must be as many as the last look, {content['looks'][-1]}")
    if unknown := content.keys() - {each.name for each in fields(Plan)}:
        raise UserError(f"{path}: {min(map(str, unknown))}: no such entry of a plan")
    recipes = [PlannedRecipe(**{n: recipe[n] for n in RECIPE}) for recipe in content["recipes"]]
    return Plan(**content | {"recipes": recipes})


def write_plan(plan: Plan, path: Path) -> None:
    """Write it with its digest, whole."""
    content = plan.declared | {"digest": plan.digest or plan.compute_digest(), "noted": plan.noted}
    text = yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
    with atomic_write(path) as temporary:
        temporary.write_text(HEAD.format(path.name) + text, encoding="utf-8")
