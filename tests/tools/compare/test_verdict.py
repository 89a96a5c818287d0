import json
from pathlib import Path

from tests.run_folders import change_record, write_run
from triptych.runs.reader import find_run_folders
from triptych.tools.compare.command import compared
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.runs import read_runs


def compare_below(root: Path) -> Comparison:
    return compared(*read_runs(find_run_folders([str(root)])))


def test_recipes_of_three_seeds_are_told_apart_as_recipes_and_others_as_networks(
    tmp_path: Path,
) -> None:
    for model, skill in (("alexnet", 0.5), ("googlenet", 4.0), ("vgg11", 2.0)):
        for seed in range(1 if model == "vgg11" else 3):
            write_run(tmp_path, model, seed, skill=skill)
    said = compare_below(tmp_path).verdict
    assert said[0] == (
        "7 trained networks of 3 recipes answered for 200 test images, every image counted once."
    )
    assert "the mean of 3 seeds (95 % t interval" in said[1]
    assert "one seed; 95 % Wilson interval" in said[3]
    assert said[4].startswith("googlenet is better than alexnet: ")
    pairs = [sentence for sentence in said[5:] if "This trained" in sentence]
    assert len(pairs) == 2
    assert all("vgg11 seed 0" in sentence for sentence in pairs)


def test_of_many_recipes_the_verdict_gives_numbers_instead_of_a_list(tmp_path: Path) -> None:
    for n in range(12):
        write_run(tmp_path, settings={"optim.lr": n + 1}, num_images=30, skill=n / 3)
    said = compare_below(tmp_path).verdict
    assert len(said) == 3
    assert "Accuracies go from " in said[1]
    assert "Of 11 pairs of trained networks, " in said[2]


def test_costs_are_told_without_a_test_and_only_where_measured_alike(tmp_path: Path) -> None:
    devices = {"alexnet": "cpu", "googlenet": "cpu", "vgg11": "cpu"}
    for n, (model, device) in enumerate(devices.items()):
        folder = write_run(tmp_path, model, num_images=30)
        cost = {"device": device, "latency_ms_p50": 5.0 - n, "macs": 2_000_000}
        (folder / "cost.json").write_text(json.dumps(cost))
    [sentence] = [s for s in compare_below(tmp_path).verdict if s.startswith("Descriptively")]
    assert "with no test behind it" in sentence
    assert "fewest parameters, vgg11 (1,005)" in sentence
    assert "shortest median latency at batch 1, vgg11 (3.0 ms)" in sentence
    assert "multiply-accumulates" not in sentence  # all need the same

    change_record(folder, device="NVIDIA H200")
    [sentence] = [s for s in compare_below(tmp_path).verdict if s.startswith("Descriptively")]
    assert "latency" in sentence, "where a network was trained is not where it was measured"

    cost = json.loads((folder / "cost.json").read_text()) | {"device": "NVIDIA H200"}
    (folder / "cost.json").write_text(json.dumps(cost))
    [sentence] = [s for s in compare_below(tmp_path).verdict if s.startswith("Descriptively")]
    assert "latency" not in sentence


def test_what_the_figures_do_not_cover_is_said(tmp_path: Path) -> None:
    write_run(tmp_path, "alexnet", settings={"optim.lr": 0.1})
    write_run(tmp_path, "googlenet", settings={"optim.lr": 0.2})
    said = " ".join(compare_below(tmp_path).cautions)
    assert "One split and one test set" in said
    assert "differ besides the network in optim.lr: " in said
    assert "2 of 2 recipes with fewer than 3 seeds" in said


def test_all_that_share_the_highest_accuracy_are_named_unless_all_do(tmp_path: Path) -> None:
    for model in ("alexnet", "googlenet"):
        write_run(tmp_path, model, num_images=30, skill=99)
    [sentence] = [s for s in compare_below(tmp_path).verdict if s.startswith("Descriptively")]
    assert "highest accuracy" not in sentence
    write_run(tmp_path, "vgg11", num_images=30, skill=0)
    [sentence] = [s for s in compare_below(tmp_path).verdict if s.startswith("Descriptively")]
    assert "highest accuracy, alexnet and googlenet (100.00 %)" in sentence


def test_three_seeds_on_one_image_are_not_called_too_few(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, seed=seed, num_images=1, skill=99)
    found = compare_below(tmp_path)
    said = "the mean of 3 seeds, without an interval: that takes 3 seeds and two images."
    assert said in found.verdict[1]
    assert "fewer than 3 seeds" not in " ".join(found.cautions)


def test_of_many_recipes_that_all_tie_one_figure_is_given(tmp_path: Path) -> None:
    for n in range(11):
        write_run(tmp_path, settings={"optim.lr": n + 1}, num_images=20, skill=99)
    assert compare_below(tmp_path).verdict[1] == "All recipes get 100.00 % of their images right."
