"""Films `make demo`: docs/demo.svg, which moves without a script.

    pip install pyte
    python docs/make_demo_picture.py [RECORDING]

Runs the demo in a terminal of 100 columns, which needs a clone without logs/demo, and draws what
it shows, sped up as the title says, and last the page that it wrote. The recording is left in
logs/demo as an asciicast (version 2), from which the film can be drawn again.
"""

import base64
import json
import os
import pty
import sys
import time
from itertools import groupby, pairwise
from pathlib import Path

import pyte
from jinja2 import Environment, FileSystemLoader
from make_page_picture import photograph

DOCS = Path(__file__).parent
DEMO = DOCS.parent / "logs" / "demo"
COLUMNS, ROWS = 100, 24
LETTER, LINE, MARGIN = 8.4, 18, 16  # pixels
WIDTH, HEIGHT = 2 * MARGIN + int(COLUMNS * LETTER), MARGIN + ROWS * LINE
RUN, END, PAGE = 14, 3, 5  # seconds of the film: the demo, its last lines, its page
FRAME = 0.12  # seconds of the film that a picture stays, at least

Row = tuple[tuple[int, str, str], ...]  # column, text and style of what it holds
Frame = tuple[float, list[tuple[int, Row]]]  # when it begins in the film, and its rows by place


def record(path: Path) -> None:
    if DEMO.exists():
        raise SystemExit("logs/demo: move these runs away, or name their recording")
    os.chdir(DOCS.parent)
    start, events = time.monotonic(), [(0.0, "o", "$ make demo\r\n")]

    def read(terminal: int) -> bytes:
        data = os.read(terminal, 2**16)
        text = data.decode(errors="replace").replace(os.getcwd(), "/home/you/triptych")
        events.append((round(time.monotonic() - start, 3), "o", text))
        return data

    if pty.spawn(["sh", "-c", f"stty cols {COLUMNS} rows {ROWS} && make demo"], read):
        raise SystemExit("make demo failed")
    lines = [{"version": 2, "width": COLUMNS, "height": ROWS}, *events]
    path.write_text("\n".join(map(json.dumps, lines)))


def replay(path: Path) -> tuple[float, list[Frame]]:
    """The seconds that the demo took, and the pictures of the film."""
    events = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    terminal, frames, seconds = pyte.Screen(COLUMNS, ROWS), list[Frame](), events[-1][0]
    stream = pyte.Stream(terminal)
    for (at, _, text), (following, *_) in pairwise([*events, (2 * seconds,)]):
        stream.feed(text)
        last = frames[-1][0] if frames else -FRAME
        if following / seconds * RUN >= last + FRAME:
            rows = [(y, read_row(terminal.buffer[y])) for y in range(ROWS)]
            frames.append((at / seconds * RUN, [(y, row) for y, row in rows if row]))
    return seconds, frames


def read_row(cells: dict[int, pyte.screens.Char]) -> Row:
    texts = []
    row = [(x, cells[x]) for x in range(COLUMNS)]
    for style, group in groupby(row, lambda cell: f"{cell[1].fg}{' bold' * cell[1].bold}"):
        letters = list(group)
        text = "".join(cell.data for _, cell in letters)
        x = letters[0][0] + len(text) - len(text.lstrip())
        texts += [(x, text.strip(), style)] if text.strip() else []
    return tuple(texts)


def draw(path: Path) -> str:
    seconds, frames = replay(path)
    distinct = dict.fromkeys(row for _, rows in frames for _, row in rows)
    [page] = DEMO.rglob("index.html")
    template = Environment(loader=FileSystemLoader(DOCS), autoescape=True, trim_blocks=True)
    return template.get_template("demo.svg.jinja").render(
        title=f"make demo, shown {seconds / RUN:.0f} times faster",
        frames=frames,
        names={row: f"r{n}" for n, row in enumerate(distinct)},
        film=RUN + END + PAGE,
        page_start=RUN + END,
        page=base64.b64encode(photograph(page, 1280, 1280 * HEIGHT // WIDTH)).decode(),
        **{"width": WIDTH, "height": HEIGHT, "title_height": 32},
        **{"letter": LETTER, "line": LINE, "margin": MARGIN},
    )


if __name__ == "__main__":
    recording = Path(sys.argv[1]) if sys.argv[1:] else DEMO / "demo.cast"
    if not sys.argv[1:]:
        record(recording)
    (DOCS / "demo.svg").write_text(draw(recording))
