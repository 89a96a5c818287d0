"""What a machine can do: parts measured in order, as far as time allows, and tables of them.

A part that is done is never run again, one that was cut off goes on; the tables are written after
each, from `docs/results.json`, which holds their figures and a digest of every file they are from.
"""

import json
import logging
import math
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from triptych.cli.arguments import check_writable
from triptych.config import CONFIGS, Config
from triptych.distributed.processes import copy_env, count_cores
from triptych.runs.stopping import SIGNALS, exit_code, signal_handlers
from triptych.runs.storage import atomic_write, lock_run, translate_write_errors
from triptych.tools.results.parts import Part, estimate_minutes, read_parts
from triptych.tools.results.process import run_part
from triptych.tools.results.rows import Device, Row, build_rows, find_changed, merge, read_rows
from triptych.tools.results.tables import MARKER, fill
from triptych.tools.sweep.jobs import visible_gpus

log = logging.getLogger(__name__)
ROOT = CONFIGS.parent
TEXTS = ("README.md", "BENCHMARKS.md")
ROWS, PAGE = Path("docs", "results.json"), Path("docs", "results", "index.html")
LEAST_MINUTES = 0.5  # a part is not begun with less: it would hardly have started
LAST_MINUTES = 0.15  # what the tables and the page take


def results(config: Config, overrides: Sequence[str] = ()) -> None:
    """Measure what is not yet measured, and write the tables.

    Exits with 1 where a part failed or a file has changed; with 130 or 143 at a signal.
    """
    device, is_trial, minutes = find_device(), config["trial"], config["minutes"]
    parts = read_parts(find_list(config["parts"], device), is_trial=is_trial)
    log_dir = Path(config["log_dir"], *["trial"] * is_trial)
    if log_dir.is_relative_to(Path.cwd()):  # as runs and their page then name it
        log_dir = log_dir.relative_to(Path.cwd())
    out = Path(config["out"] or (log_dir if is_trial else ROOT))
    measuring = Measuring(parts, device, log_dir, out)
    check_out(out)
    if minutes != 0:
        with translate_write_errors(f"log_dir={log_dir}"):
            measuring.folder.mkdir(parents=True, exist_ok=True)
        with (
            lock_run(measuring.folder),
            signal_handlers(lambda number, _: measuring.signals.append(number), SIGNALS),
        ):
            measuring.run(minutes)
    measuring.write()
    measuring.write_page()
    for line in [*measuring.problems, f"tables: {', '.join(measuring.written)}"]:
        log.info("%s", line)
    if measuring.signals:
        raise SystemExit(exit_code(measuring.signals[0]))
    if measuring.problems:
        raise SystemExit(1)


def check_out(out: Path) -> None:
    """Raise UserError where the tables could not be written, before hours are spent on them."""
    with translate_write_errors(f"out={out}"):
        (out / ROWS).parent.mkdir(parents=True, exist_ok=True)
    for name in (ROWS, *TEXTS):
        check_writable(f"out={out}", out / name)


def find_list(name: str, device: Device) -> Path:
    """The list of parts that the setting names."""
    path = CONFIGS / "results" / f"{device.kind if name == 'auto' else name}.yaml"
    return path if path.exists() else Path(name)


def find_device() -> Device:
    """The first GPU that may be used, else the processor. Torch, which takes long, is not asked."""
    if gpus := visible_gpus():
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "-i", gpus[0]]
        with suppress(OSError):  # CUDA_VISIBLE_DEVICES may be set where there is no GPU
            answer = subprocess.run(query, capture_output=True, text=True)
            return Device("gpu", answer.stdout.strip() if answer.returncode == 0 else "NVIDIA GPU")
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    named = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    name = named[1].strip() if named else platform.processor() or platform.machine()
    if (sys.platform, platform.machine()) == ("darwin", "arm64"):
        name += " and its GPU"  # which a run takes by itself
    return Device("cpu", f"{count_cores()} cores of {name}")


class Measuring:
    """The parts of a list on one device, whose folder lies below log_dir."""

    def __init__(self, parts: Sequence[Part], device: Device, log_dir: Path, out: Path) -> None:
        self.parts, self.device, self.log_dir, self.out = parts, device, log_dir, out
        self.folder = log_dir / re.sub(r"\W+", "-", device.name.lower()).strip("-")
        self.recorded = read_rows(out / ROWS)
        self.signals: list[int] = []
        self.problems: list[str] = []

    def run(self, minutes: float | None) -> None:
        """Go through the parts; what is done is passed over, what does not fit is skipped."""
        ends = math.inf if minutes is None else time.monotonic() + 60 * (minutes - LAST_MINUTES)
        for number, part in enumerate(self.parts, 1):
            place = self.folder / part.place
            expected, left = estimate_minutes(part, place), (ends - time.monotonic()) / 60
            name = f"[{number}/{len(self.parts)}] {part.name}"
            if not expected or self.signals:
                continue
            # A training that is cut off goes on next time; all else would begin anew.
            if left < (LEAST_MINUTES if part.program == "train" else expected):
                about = f"takes about {expected:.1f} min, {max(0, left):.1f} are left"
                log.info("%s: skipped, %s", name, about)
                continue
            log.info("%s, about %.1f min: %s", name, expected, part.command)
            code = run_part(part, place, ends, self.signals)
            if code and not self.signals and time.monotonic() < ends:
                self.problems.append(f"{part.name}: failed with exit code {code}")
            self.write()
        unfinished = [p.name for p in self.parts if estimate_minutes(p, self.folder / p.place)]
        if unfinished:
            log.info("not done: %s; the same command goes on", ", ".join(unfinished))

    def write(self) -> None:
        """Write the rows, and the tables from them."""
        problems: list[str] = []
        rows = build_rows(self.parts, self.device, self.folder, problems)
        changed = find_changed(self.recorded, self.log_dir)
        said = f"has changed since it was read; delete {self.out / ROWS} to read all anew"
        problems += [f"{self.log_dir / name}: {said}" for name in changed]
        self.problems = list(dict.fromkeys([*self.problems, *problems]))
        lists = {kind: read_parts(CONFIGS / "results" / f"{kind}.yaml") for kind in ("cpu", "gpu")}
        rows = merge(self.recorded, rows, changed, lists)
        with translate_write_errors(f"out={self.out}"):
            texts = write_texts(rows, self.out)
            for name, text in texts.items():
                write_file(self.out / name, text)
        self.rows, self.written = rows, [str(self.out / name) for name in texts]

    def write_page(self) -> None:
        """Write the page that compares the runs of the table, if they are all here."""
        names = [n for row in self.rows if row["table"] == "accuracy" for n in row["sources"]]
        runs, place = [self.log_dir / name for name in names], self.log_dir / "comparison"
        if not runs or not all(map(Path.exists, runs)):
            return
        if self.log_dir.is_absolute():
            log.info("no page: it would show the path %s", self.log_dir)
            return
        page, newest = place / "index.html", max(path.stat().st_mtime for path in runs)
        if not page.exists() or page.stat().st_mtime < newest:
            settings = [f"runs={self.log_dir}/*/accuracy", f"out={place}", "allow_mixed=true"]
            command = [sys.executable, "-m", "triptych", "compare", *settings]
            ended = subprocess.run(command, env=copy_env(), capture_output=True, text=True)
            if ended.returncode:
                self.problems.append(f"no page: {ended.stderr.strip()[-300:]}")
                return
        write_file(self.out / PAGE, page.read_text(encoding="utf-8"))


def write_texts(rows: Sequence[Row], out: Path) -> dict[str, str]:
    """The content of each file below `out` that rows and their tables go to: of the texts those
    that have markers, where somebody did not take them away."""
    texts = {str(ROWS): json.dumps({"rows": rows}, indent=1, ensure_ascii=False) + "\n"}
    for name in TEXTS:
        path = out / name if (out / name).exists() else ROOT / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if MARKER in text:
            texts[name] = fill(text, rows)
    return texts


def write_file(path: Path, text: str) -> None:
    """Write a text, whole or not at all, unless the file has it already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
