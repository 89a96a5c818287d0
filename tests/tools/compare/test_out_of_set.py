"""Images of other classes on the page, as `evaluate` leaves them, computed once more by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from tests.run_folders import write_run
from tests.verdict_schema import check_verdict
from triptych.runs.predictions import read_predictions
from triptych.tools.compare.abstention import Abstention
from triptych.tools.compare.content import Comparison
from triptych.tools.report.page import render_markdown, render_page

NUM = 80
SIZES = {"alexnet": 1, "googlenet": 2}  # seeds


def write_strange(folder: Path, seed: int, **about: Any) -> None:
    """What `evaluate` leaves of a set."""
    logits = np.random.default_rng(seed).normal(size=(NUM, 4)).astype(np.float32)
    (folder / "ood").mkdir(exist_ok=True)
    document = {"name": "digits", "num_images": NUM, "digest": "a"} | about
    (folder / "ood" / "digits.json").write_text(json.dumps(document))
    np.savez(folder / "ood" / "digits.npz", logits=logits)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for model, num_seeds in SIZES.items():
        for seed in range(num_seeds):
            folder = write_run(tmp_path, model, seed, skill=4.0)
            write_strange(folder, 10 * num_seeds + seed)
    return tmp_path


def find_section(comparison: Comparison) -> Abstention:
    section = comparison.sections["abstention"]
    assert isinstance(section, Abstention)
    return section


def test_rows_are_of_first_networks_with_the_aurocs_of_all_seeds(
    root: Path, compare_below: Callable[[Path], Comparison]
) -> None:
    comparison = compare_below(root)
    section = find_section(comparison)
    described = check_verdict(section.describe(), "abstention")["out_of_set"]
    [strange] = section.strange_sets
    assert (strange.name, strange.num_images) == ("digits", NUM)
    for row in strange.rows:
        aurocs = []
        for folder in sorted(root.glob(f"*/{row.recipe}/seed*/*")):
            own = read_predictions(folder / "predictions" / "test.npz").logits
            other = np.load(folder / "ood" / "digits.npz")["logits"]
            p = np.r_[softmax(own, axis=1), softmax(other, axis=1)].max(axis=1)
            aurocs.append(roc_auc_score(np.arange(len(p)) < len(own), p))
        assert [each[0] for each in row.aurocs] == pytest.approx(aurocs, abs=1e-6)
        assert row.measured.separations[0].auroc.value == pytest.approx(aurocs[0], abs=1e-6)
    networks = {each["recipe"]: each["network"] for each in described[0]["recipes"]}
    assert networks == {recipe.label: recipe.first.label for recipe in comparison.recipes}


def test_page_text_and_verdict_say_how_many_would_be_answered(
    root: Path, compare_below: Callable[[Path], Comparison]
) -> None:
    for seed, folder in enumerate(root.glob("*/*/seed*/*")):
        write_strange(folder, seed, name="<script>digits")
    comparison = compare_below(root)
    [strange] = find_section(comparison).strange_sets
    page, text = render_page(comparison), render_markdown(comparison)
    for row in strange.rows:
        _, auroc, kept, accepted = row.measured.separations[1]
        for shown in (page, text):
            assert all(f"{x:.3f}" in shown for x in auroc)
            assert all(f"{100 * share.value:.1f}" in shown for share in (kept, accepted))
    [sentence] = [each for each in comparison.verdict if "AUROC" in each]
    assert f"{NUM} images of <script>digits" in sentence
    assert "&lt;script&gt;digits" in page
    assert "<script>digits" not in page + text


def test_a_set_whose_images_differ_is_of_the_networks_that_most_share(
    root: Path, compare_below: Callable[[Path], Comparison]
) -> None:
    [folder] = root.glob("*/alexnet/seed0/*")
    write_strange(folder, 0, digest="another")
    comparison = compare_below(root)
    [strange] = find_section(comparison).strange_sets
    assert [row.recipe for row in strange.rows] == ["googlenet"]
    assert any("digits" in problem.what for problem in comparison.problems)


@pytest.mark.parametrize(
    "damage", [{"num_images": NUM + 1}, {"digest": 3}, {"name": ""}, {"num_images": "many"}]
)
def test_a_broken_file_is_a_problem_and_no_more(
    root: Path, compare_below: Callable[[Path], Comparison], damage: dict[str, Any]
) -> None:
    for folder in root.glob("*/*/seed*/*"):
        write_strange(folder, 1, **damage)
    comparison = compare_below(root)
    assert find_section(comparison).strange_sets == []
    assert "digits.json" in comparison.problems[0].what


@pytest.mark.parametrize("kind", ["U8", "complex64", "longdouble"])
def test_what_are_no_logits_is_a_problem_and_no_more(
    root: Path, compare_below: Callable[[Path], Comparison], kind: str
) -> None:
    for folder in root.glob("*/*/seed*/*"):
        np.savez(folder / "ood" / "digits.npz", logits=np.ones((NUM, 4)).astype(kind))
    comparison = compare_below(root)
    assert find_section(comparison).strange_sets == []
    assert "digits.json" in comparison.problems[0].what


def test_without_such_images_nothing_is_said(
    tmp_path: Path, compare_below: Callable[[Path], Comparison]
) -> None:
    write_run(tmp_path)
    comparison = compare_below(tmp_path)
    assert find_section(comparison).strange_sets == []
    assert "AUROC is" not in render_markdown(comparison)
