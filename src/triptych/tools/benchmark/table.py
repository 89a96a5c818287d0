"""What was measured, as tables on the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

WAYS = {
    "bound": "a bare loop on one resident batch",
    "ours": "a real training run",
    "usual": "PIL images, float32, metrics in every step",
}


def show(several: Sequence[Mapping[str, Any]]) -> None:
    """Print measurements as `measurement.measure` returns them, a column each."""
    table = Table("", *map(title, several), title="medians (least to most)", title_justify="left")
    for way, meaning in WAYS.items():
        spreads = (each["images_per_second"].get(way) for each in several)
        table.add_row(f"images/s, {way}: {meaning}", *(cell(spread, ",.1f") for spread in spreads))
    for name in ("ours/bound", "ours/usual"):
        table.add_row(name, *(cell(each["ratios"].get(name), ".3f") for each in several))
    for way in ("bound", "ours"):
        peaks = (each["peak_memory_bytes"][way] for each in several)
        table.add_row(f"peak memory, {way}", *map(decimal, peaks))
    for part in several[0]["parts_ms"] if several else ():
        table.add_row(f"{part}, ms", *(f"{each['parts_ms'][part]:,.3f}" for each in several))
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def title(measured: Mapping[str, Any]) -> str:
    form = "{model}, {batch_size} images of\n{input_size} pixels, {precision}, {device}"
    if measured["compile"] != "none":
        form += "\ncompiled ({compile})"
    return form.format_map(measured)


def cell(spread: Mapping[str, float] | None, form: str) -> str:
    """Median, least and most; empty where it was not measured."""
    if spread is None:
        return ""
    return f"{spread['median']:{form}} ({spread['min']:{form}} to {spread['max']:{form}})"
