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
        cells = [
            each["images_per_second"].get(way) or each["not_measured"].get(way) for each in several
        ]
        table.add_row(f"images/s, {way}: {meaning}", *(spread(cell, ",.1f") for cell in cells))
    for name in ("ours/bound", "ours/usual"):
        table.add_row(name, *(spread(each["ratios"].get(name), ".3f") for each in several))
    for way in ("bound", "ours"):
        table.add_row(
            f"peak memory, {way}", *(decimal(each["peak_memory_bytes"][way]) for each in several)
        )
    parts = dict.fromkeys(part for each in several for part in each["parts_ms"] or ())
    for part in parts:
        cells = [(each["parts_ms"] or {}).get(part) for each in several]
        table.add_row(f"{part}, ms", *("" if cell is None else f"{cell:,.3f}" for cell in cells))
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def title(measured: Mapping[str, Any]) -> str:
    form = "{model}, {mode}\n{batch_size} images of {input_size} pixels\n{precision}, {device}"
    if measured["compile"] != "none":
        form += "\ncompiled ({compile})"
    return form.format_map(measured)


def spread(value: Mapping[str, float] | str | None, form: str) -> str:
    """Median, least and most; the reason where it was not measured."""
    if not isinstance(value, Mapping):
        return value or ""
    return f"{value['median']:{form}} ({value['min']:{form}} to {value['max']:{form}})"
