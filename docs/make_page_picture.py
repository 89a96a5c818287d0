"""Photographs the first screen of a comparison's page: docs/comparison.png.

    python docs/make_page_picture.py logs/results/*/accuracy/probe_*

Compares the finished runs in these folders and has Chromium open the page. README shows the linear
probes of `make results`: five seeds of each of three networks.
"""

import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).parent / "comparison.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-sync"
QUIET += " --disable-component-update --no-first-run --hide-scrollbars"
NUM_COLOURS = 256  # enough for charts and text, at a third of the bytes


def photograph(page: Path, width: int, height: int, scale: float = 1) -> bytes:
    """A PNG of the top of a page as it looks in a window of that many pixels, times `scale`."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"none of these browsers is installed: {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "page.png")
        options = [f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        options += [f"--force-device-scale-factor={scale}", f"--screenshot={picture}"]
        command = [browser, *QUIET.split(), *options, page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        with Image.open(picture) as image:
            few = image.convert("RGB").quantize(
                NUM_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
    buffer = BytesIO()
    few.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def main(runs: list[str]) -> None:
    if not runs:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "triptych", "compare", f"runs=[{','.join(runs)}]", f"out={folder}"]
        subprocess.run([sys.executable, *command], check=True)
        PICTURE.write_bytes(photograph(Path(folder, "index.html"), 1280, 800, scale=1.5))


if __name__ == "__main__":
    main(sys.argv[1:])
