"""verdict.json: as docs/verdict.schema.json has it, the page's numbers, and always the same."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.run_folders import write_run
from tests.test_multilabel import write_multilabel_run
from tests.tools.compare.test_claims import answer
from tests.verdict_schema import SCHEMA, check_verdict
from triptych.runs.reader import find_run_folders
from triptych.tools.compare import labels
from triptych.tools.compare.command import build_comparison
from triptych.tools.compare.content import BaseComparison, Comparison, Question
from triptych.tools.compare.runs import read_runs
from triptych.tools.compare.verdict import describe_comparison, write_verdict
from triptych.tools.statistics.inference import WithInterval, bonferroni_level

PAGE = Path(__file__).parents[3] / "docs" / "verdict.md"


def check(comparison: BaseComparison, *claims: str) -> dict[str, Any]:
    """The verdict as a program reads it, by the schema."""
    answers = answer(comparison, *claims) if isinstance(comparison, Comparison) else ()
    verdict: dict[str, Any] = check_verdict(json.loads(write_verdict(comparison, answers)))
    return verdict


@pytest.fixture(scope="module")
def asked(root: Path) -> Comparison:
    """The same runs, by their NLL and within a margin."""
    return build_comparison(*read_runs(find_run_folders(str(root))), Question("nll", 0.02))


def test_verdicts_are_as_their_schema_has_them(comparison: Comparison, asked: Comparison) -> None:
    verdict = check(comparison, "googlenet not_inferior alexnet margin=1")
    assert {*verdict["claims"][0]} == {*SCHEMA["$defs"]["claim"]["properties"]}
    assert (verdict["schema"], verdict["metric"], verdict["margin"]) == (1, "accuracy", None)
    assert [run["seed"] for run in verdict["runs"]] == [5, 0, 1, 2, 0, 1, 2]  # best first
    assert [pair["kind"] for pair in verdict["pairs"]] == ["recipes", *["networks"] * 3]
    verdict = check(asked)
    assert (verdict["metric"], verdict["margin"]) == ("nll", 0.02)
    assert verdict["pairs"][0]["verdict"] == "b_better"  # the lower loss
    assert verdict["pairs"][0]["difference"] > 0


def test_the_schema_is_one_and_refuses_what_is_not_as_it_says(comparison: Comparison) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    verdict = check(comparison)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for wrong in ({"level": 95}, {"schema": 2}, {"pairs": [{}]}, {"margin": "0.5"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(verdict | wrong, SCHEMA)


def test_keys_are_those_of_the_schema_and_of_its_description(comparison: Comparison) -> None:
    verdict, parts = describe_comparison(comparison, ()), SCHEMA["$defs"]
    assert list(verdict) == list(SCHEMA["properties"]) == SCHEMA["required"]
    assert {*verdict["pairs"][0]} == {*parts["pair"]["properties"]}
    assert {*verdict["runs"][0]} == {*parts["run"]["properties"]}
    assert {*verdict["scores"]["pairs"][0]} == {*parts["score_pair"]["properties"]}
    assert {*verdict["scores"]["values"][0]} == {*parts["value"]["properties"]}
    named = {*re.findall(r"`([a-z_]+)`", PAGE.read_text())}
    keys = {
        *SCHEMA["properties"],
        *(key for part in parts.values() for key in part.get("properties", ())),
    }
    assert keys <= named


def test_its_numbers_are_those_of_the_page_and_of_the_files(comparison: Comparison) -> None:
    verdict = check(comparison)
    for run, network in zip(verdict["runs"], comparison.networks, strict=True):
        data = (Path(run["folder"]) / "predictions" / "test.npz").read_bytes()
        assert run["digest"] == hashlib.sha256(data).hexdigest()
        assert run["value"] == network.accuracy.value
    for table, kind in (
        (comparison.recipe_pairs, "recipes"),
        (comparison.network_pairs, "networks"),
    ):
        same = [pair for pair in verdict["pairs"] if pair["kind"] == kind]
        for row, pair in zip(same, table.pairs, strict=True):
            assert (row["difference"], row["low"], row["high"]) == pair.difference
            assert (row["p"], row["p_adjusted"]) == (pair.p, pair.p_holm)
            assert row["level"] == bonferroni_level(len(table.pairs))
    assert verdict["sentences"] == list(comparison.verdict)
    assert verdict["limits"] == list(comparison.cautions)


def test_the_same_runs_give_the_same_bytes(
    root: Path, comparison: Comparison, compare_below: Callable[[Path], Comparison]
) -> None:
    other = replace(compare_below(root), made_at=comparison.made_at)
    assert write_verdict(other) == write_verdict(comparison)


def test_what_is_not_a_number_is_null_and_numpy_s_numbers_are_numbers(
    comparison: Comparison,
) -> None:
    [pair] = comparison.recipe_pairs.pairs
    pair = replace(pair, difference=WithInterval(0.25), p=np.float32(0.5), num_images=np.int64(200))
    table = comparison.recipe_pairs._replace(pairs=(pair,))
    row = check(replace(comparison, recipe_pairs=table))["pairs"][0]
    assert (row["low"], row["high"], row["p"], row["num_images"]) == (None, None, 0.5, 200)


def test_runs_of_several_labels_an_image_have_a_verdict_too(tmp_path: Path) -> None:
    for model, skill in (("good", 2.0), ("poor", 0.3)):
        for seed in range(2 if model == "poor" else 3):
            write_multilabel_run(tmp_path, model, seed, skill)
    networks, problems = read_runs(find_run_folders(str(tmp_path)), labels.read_run)
    verdict = check(labels.build_comparison(networks, problems))
    assert verdict["metric"] == "ap"
    assert verdict["runs"][0]["value"] == networks[0].scores.values["ap"]
    assert verdict["pairs"][0]["verdict"] == "a_better"
    assert verdict["scores"] is None


def test_what_could_not_be_used_is_among_the_limits(
    tmp_path: Path, compare_below: Callable[[Path], Comparison]
) -> None:
    write_run(tmp_path, "alexnet")
    write_run(tmp_path, "vgg11", status="running")
    verdict = check(compare_below(tmp_path))
    assert verdict["pairs"] == []
    assert "status is running" in verdict["limits"][-1]
