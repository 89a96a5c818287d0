"""Stands in for a part's process: leaves what a sweep, a benchmark or an export leaves, at once.

Jobs that are finished are passed over, as a sweep does. A job with `optim.lr=1` waits for ever.
"""

import json
import sys
import time
from pathlib import Path

from triptych import cli
from triptych.tools.results import process
from triptych.tools.results.parts import find_finished

SPREAD = {"median": 20.0, "min": 19.0, "max": 21.0}
MEASURED = {
    **{"batch_size": 64, "input_size": 32, "compile": "none", "precision": "32-true"},
    **{"images_per_second": {"bound": SPREAD, "ours": SPREAD, "usual": SPREAD}},
    **{"ratios": {"ours/bound": SPREAD, "ours/usual": SPREAD}},
    **{"peak_memory_bytes": {"bound": 10**9, "ours": 10**9}, "git_commit": None},
    **{"versions": {"triptych": "0", "torch": "2"}, "measured_at": "2026-01-02T00:00:00+00:00"},
}


def imitate(program: str) -> None:
    settings = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    if program == "export":
        from tests.deployed_files import write_deployment

        for name in settings["format"].split(","):
            write_deployment(Path(settings["run"]), name, num_other=2 * (name != "onnx"))
        return
    place = Path(settings["log_dir"])
    with (place / "starts").open("a") as file:
        file.write("started\n")
    if program == "benchmark":
        measured = MEASURED | {"model": settings["model"]}
        Path(settings["out"]).write_text(json.dumps(measured))
        return
    from tests.run_folders import write_run  # it imports scipy

    for seed in map(int, settings.get("seed", "0").split(",")):
        if not find_finished(place / "shapes" / settings["model"] / f"seed{seed}"):
            while seed and settings.get("optim.lr") == "1" and not (place / "go").exists():
                time.sleep(0.05)
            versions = {"triptych": "0", "torch": "2"}
            write_run(place, settings["model"], seed, num_images=50, versions=versions)


PROGRAM = [sys.executable, "-m", "tests.tools.results.imitation"]
if __name__ == "__main__":
    if sys.argv[1] == "results":
        from triptych.tools.results import command

        process.PROGRAM = PROGRAM
        command.results(json.loads(sys.argv[2]))
    else:
        cli.main = imitate
        process.main()
