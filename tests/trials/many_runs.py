"""Does `compare` keep within 20 seconds and 1 GB for 60 runs of 10,000 images and 10 classes?

`python -m tests.trials.many_runs [--recipes 20] [--images 10000] [setting ...]` writes recipes of
three seeds, without training, and compares them, with these settings besides; it exits with 1
beyond the bounds. Seconds are of the processor, which other programs do not lengthen. `--shifts`:
each run was evaluated on a set of 26,032 images of another kind, too.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.run_folders import draw_labels, draw_logits, write_run
from tests.trials.child import run

SECONDS, MEGABYTES = 20, 1000
MODELS = ("alexnet", "googlenet", "resnet50", "vgg11")
NUM_SHIFTED = 26_032  # as SVHN has


def write_runs(
    root: Path, num_recipes: int, num_images: int, num_classes: int, has_shifts: bool
) -> None:
    for number in range(num_recipes):
        settings = {"optim.lr": 0.001 * (1 + number // len(MODELS)), "trainer.max_epochs": 2}
        for seed in range(3):
            folder = write_run(
                *(root, MODELS[number % len(MODELS)], seed),
                skill=2.0 + number / 20,
                num_images=num_images,
                num_classes=num_classes,
                settings=settings,
            )
            if has_shifts:
                labels = draw_labels(NUM_SHIFTED, num_classes)
                (folder / "shifts").mkdir()
                np.savez(
                    folder / "shifts" / "svhn.npz",
                    logits=draw_logits(labels, 1.0 + number / 20, 100 * number + seed, num_classes),
                    labels=labels,
                    index=np.arange(NUM_SHIFTED),
                    md5=np.array(["0" * 32]),
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipes", type=int, default=20)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--shifts", action="store_true")
    parser.add_argument("settings", nargs="*", help="of compare.py, such as margin=0.5")
    typed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="triptych-many-") as room:
        write_runs(Path(room), typed.recipes, typed.images, typed.classes, typed.shifts)
        ended = run([sys.executable, "compare.py", f"runs={room}", *typed.settings])
    if ended.code not in (0, 1):  # 1: a claim that does not hold
        print(ended.output)
        return ended.code
    print(
        f"{3 * typed.recipes} runs of {typed.images:,} images: {ended.cpu_seconds:.1f} s of the "
        f"processor, {ended.seconds:.1f} s in all, {ended.megabytes:.0f} MB"
    )
    return int(ended.cpu_seconds > SECONDS or ended.megabytes > MEGABYTES)


if __name__ == "__main__":
    sys.exit(main())
