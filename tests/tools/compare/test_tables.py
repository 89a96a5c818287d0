import csv
import io
import re
from pathlib import Path

import pytest

from tests.run_folders import change_record, write_run
from triptych.runs.reader import find_run_folders
from triptych.tools.compare.command import compared
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.runs import read_runs
from triptych.tools.compare.tables import as_csv
from triptych.tools.report.markdown import as_markdown

COLUMNS = """
    model weights data seed num_test accuracy accuracy_low accuracy_high f1 precision recall nll ece
    paper_f1 paper_precision paper_recall num_params macs checkpoint_bytes train_images_per_second
    latency_ms_p50 latency_ms_p95 throughput_images_per_second peak_memory_bytes device
    precision_mode folder
""".split()
EVIL = "<script>alert(1)</script>|`*x*`[a](javascript:b)"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two recipes, one under an evil name, and a failed run."""
    root = tmp_path_factory.mktemp("logs")
    write_run(root, "googlenet", num_images=50)
    evil = write_run(root, "evil", num_images=50)
    change_record(evil, model=EVIL, command=f"{EVIL}\n# heading", weights='null,"x"')
    change_record(write_run(root, "vgg11"), status="failed", error=EVIL)
    return compared(*read_runs(find_run_folders([str(root)])))


def test_the_csv_has_the_agreed_columns_and_a_line_a_run(comparison: Comparison) -> None:
    lines = [*csv.DictReader(io.StringIO(as_csv(comparison.rows)))]
    assert list(lines[0]) == COLUMNS
    assert len(lines) == 2
    assert lines[0]["model"] == EVIL
    assert lines[0]["weights"] == 'null,"x"'
    assert lines[1]["weights"] == lines[1]["macs"] == ""
    assert 0 < float(lines[1]["accuracy"]) < 1
    assert float(lines[1]["accuracy_low"]) < float(lines[1]["accuracy"])
    assert Path(lines[1]["folder"], "run.json").exists()


def test_the_text_has_verdict_table_pairs_study_problems_and_commands(
    comparison: Comparison,
) -> None:
    text = as_markdown(comparison)
    headings = re.findall(r"^## (.*)", text, flags=re.MULTILINE)
    assert headings == [
        "In what else the recipes differ",
        "What these figures do not cover",
        "Trained networks",
        "Do the recipes differ, if they are trained again?",
        "Do these trained networks differ on these test images?",
        "The reference study's figures",
        "Left out or incomplete",
        "To reproduce",
    ]
    assert "| googlenet | 91.55 % | 0.7071 | 0.84375 | 0.8333 |" in text
    assert "nothing is said about training again" in text
    assert "    python train.py model=googlenet seed=0" in text


def test_no_string_of_a_run_is_markup_in_the_text(comparison: Comparison) -> None:
    indented_code = re.compile(r"^    .*$", flags=re.MULTILINE)
    text = indented_code.sub("", as_markdown(comparison))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert r"\|\`\*x\*\`\[a\](javascript:b)" in text
    assert not re.search(r"^# heading", text, flags=re.MULTILINE)
    cells = {line.count("|") - line.count(r"\|") for line in text.splitlines() if line[:1] == "|"}
    assert cells == {4, 13, 7, 8, 6}
