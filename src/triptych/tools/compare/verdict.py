"""`verdict.json`: what a page says, for programs. docs/verdict.md describes each key.

Fractions, never percent; null in place of NaN; the same runs give the same bytes, times apart.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from triptych.runs.reader import sanitize
from triptych.runs.storage import replace_non_finite
from triptych.tools.compare.claims import Answer
from triptych.tools.compare.content import BaseComparison
from triptych.tools.compare.recipes import Recipe
from triptych.tools.statistics.inference import LEVEL

SCHEMA = 1  # another once a key is gone or means something else; a new key changes nothing
# The keys of sections, by the sections' names.
SECTIONS = {
    **{"ranks": "ranks", "components": "uncertainty", "scores": "scores", "tuning": "tuning"},
    **{"suspects": "suspects", "shifts": "shifts"},
    **{"abstention": "abstention", "deployments": "deployments"},
}


def write_verdict(comparison: BaseComparison, answers: Sequence[Answer] = ()) -> str:
    content = replace_non_finite(describe_comparison(comparison, answers))
    # Sections may describe themselves in numpy's numbers.
    text = json.dumps(content, indent=1, allow_nan=False, default=lambda value: value.tolist())
    return f"{text}\n"


def write_outcomes(comparison: BaseComparison) -> str:
    """Which test images each network got right, a bit each in the order of their index, from the
    highest bit of a byte; and which images belong together, by number."""
    networks, groups = [], list[list[int]]()
    for recipe in comparison.recipes:
        for network in recipe.networks:
            own = network.test.groups
            numbers = None if own is None else np.unique(own, return_inverse=True)[1].tolist()
            groups += [numbers] if numbers and numbers not in groups else []
            described = {
                **{"name": network.label, "recipe": recipe.label},
                **{"seed": network.metadata["seed"], "num_images": network.num_test},
                "groups": groups.index(numbers) if numbers else None,
                "correct": base64.b64encode(np.packbits(network.test.correct).tobytes()).decode(),
            }
            networks.append(described)
    return json.dumps({"networks": networks, "groups": groups})


def describe_comparison(comparison: BaseComparison, answers: Sequence[Answer]) -> dict[str, Any]:
    question = comparison.question
    described = {name: section.describe() for name, section in comparison.sections.items()}
    return {
        "schema": SCHEMA,
        "made_at": comparison.made_at,
        "version": comparison.version,
        "command": comparison.command,
        "settings": comparison.settings,
        "question": comparison.asked,
        "plan": described.get("plan"),
        "level": LEVEL,
        "metric": question.metric,
        "margin": question.margin,
        "runs": [each for recipe in comparison.recipes for each in list_runs(recipe, comparison)],
        "pairs": [*list_pairs(comparison)],
        **{key: described.get(name) for key, name in SECTIONS.items()},
        "claims": [answer.describe() for answer in answers],
        "sentences": list(comparison.verdict),
        "limits": [
            *filter(None, [comparison.banner]),
            *comparison.cautions,
            *(f"{problem.folder}: {problem.what}" for problem in comparison.problems),
        ],
    }


def list_runs(recipe: Recipe, comparison: BaseComparison) -> Iterator[dict[str, Any]]:
    for network in recipe.networks:
        yield {
            "name": network.label,
            "recipe": recipe.label,
            "seed": network.metadata["seed"],
            "digest": network.digest,
            "folder": sanitize(str(network.folder)),
            "num_images": network.num_test,
            "num_groups": network.num_groups,
            "value": comparison.score(network),
        }


def list_pairs(comparison: BaseComparison) -> Iterator[dict[str, Any]]:
    """Of recipes, then of networks."""
    tables = {"recipes": comparison.recipe_pairs, "networks": comparison.network_pairs}
    for kind, table in tables.items():
        yield from ({"kind": kind, **pair.describe()} for pair in table.pairs)
