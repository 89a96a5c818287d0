"""Does `compare` keep within 20 seconds and 1 GB for 60 runs of 10,000 images and 10 classes?

`python -m tests.trials.many_runs [--recipes 20] [--images 10000] [setting ...]` writes recipes of
three seeds, without training, and compares them, with these settings besides; it exits with 1
beyond the bounds. Seconds are of the processor, which other programs do not lengthen.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.run_folders import write_run
from tests.trials.child import run

SECONDS, MEGABYTES = 20, 1000
MODELS = ("alexnet", "googlenet", "resnet50", "vgg11")


def write_runs(root: Path, num_recipes: int, num_images: int, num_classes: int) -> None:
    for number in range(num_recipes):
        settings = {"optim.lr": 0.001 * (1 + number // len(MODELS)), "trainer.max_epochs": 2}
        for seed in range(3):
            write_run(
                *(root, MODELS[number % len(MODELS)], seed),
                skill=2.0 + number / 20,
                num_images=num_images,
                num_classes=num_classes,
                settings=settings,
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipes", type=int, default=20)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("settings", nargs="*", help="of compare.py, such as margin=0.5")
    typed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="triptych-many-") as room:
        write_runs(Path(room), typed.recipes, typed.images, typed.classes)
        ended = run([sys.executable, "compare.py", f"runs={room}", *typed.settings])
    assert ended.code == 0, ended.output
    print(
        f"{3 * typed.recipes} runs of {typed.images:,} images: {ended.cpu_seconds:.1f} s of the "
        f"processor, {ended.seconds:.1f} s in all, {ended.megabytes:.0f} MB"
    )
    return int(ended.cpu_seconds > SECONDS or ended.megabytes > MEGABYTES)


if __name__ == "__main__":
    sys.exit(main())
