"""What was measured, as tables on the screen."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

Measured = Mapping[str, Any]  # what `measurement.measure` returns

WAYS = {
    "bound": "bound: a bare loop on one resident batch",
    "bound_with_pipeline": "the same, made ready by the pipeline in every step",
    "bound_not_compiled": "the bound, not compiled",
    "ours": "ours: a run's own path",
    "usual": "usual: PIL images, fp32, logged in every step",
    "loader": "the loader alone",
    "pipeline": "the pipeline alone",
}
RATIOS = ("ours/bound", "ours/bound_with_pipeline", "ours/usual")


def show(measured: Measured) -> None:
    """One measurement in full."""
    title = "{model}, {mode}, batches of {batch_size} at {input_size} pixels, {precision}, {device}"
    if measured["compile"] != "none":
        title += ", compiled ({compile})"
    rates = measured["images_per_second"]
    rows = [(said, *numbers(rates[way])) for way, said in WAYS.items() if way in rates]
    screen().print(table(title.format_map(measured), ["images/s", "median", "least", "most"], rows))
    found = measured["ratios"]
    rows = [(name, *numbers(found[name], ".3f")) for name in RATIOS if name in found]
    screen().print(table("in each round", ["ratio", "median", "least", "most"], rows))
    screen().print(table("besides", ["", ""], besides(measured)))


def show_together(several: Iterable[Measured]) -> None:
    """A row a measurement, medians."""
    ways = ("bound", "ours", "usual")
    rows = [
        [
            *(str(each[name]) for name in ("model", "batch_size", "input_size")),
            *(f"{spread['median']:,.1f}" for spread in picked(each["images_per_second"], ways)),
            *(f"{spread['median']:.3f}" for spread in picked(each["ratios"], RATIOS)),
        ]
        for each in several
    ]
    screen().print(table("images/s", ["model", "batch", "input", *ways, *RATIOS], rows))


def picked(spreads: Measured, names: Iterable[str]) -> list[Any]:
    nothing = {"median": float("nan")}
    return [spreads.get(name, nothing) for name in names]


def besides(measured: Measured) -> Iterator[tuple[str, str]]:
    """Parts of a step, fixed cost, memory, compiler, roofline: a line each."""
    for part, taken in (measured["parts_ms"] or {}).items():
        yield f"{part}, ms", f"{taken:,.3f}"
    for which, taken in (measured["fixed_cost_us"] or {}).items():
        yield f"a step of a tiny network, {which}, microseconds", f"{taken:,.0f}"
    for way, reason in measured["not_measured"].items():
        yield f"not measured: {way}", reason
    for way, peak in measured["peak_memory_bytes"].items():
        yield f"peak memory, {way}", decimal(peak)
    for when, taken in (measured["compile_seconds"] or {}).items():
        yield f"compiling, {when}, seconds", f"{taken:,.0f}"
    if images := measured["compiling_repaid_after_images"]:
        yield "compiling repaid after, images", f"{images:,.0f}"
    line = measured["roofline"]
    yield "arithmetic, GFLOP a step", f"{line['flops_per_step'] / 1e9:,.1f}"
    yield "device's matrix product, GFLOP/s", f"{line['device_flops_per_second'] / 1e9:,.0f}"
    yield "the bound's share of it", f"{line['share_of_flops']:.0%}"
    yield "bytes moved a step, not fused", decimal(line["bytes_per_step"])
    yield "device's copy, GB/s", f"{line['device_bytes_per_second'] / 1e9:,.0f}"
    yield "the bound's share of it", f"{line['share_of_bytes']:.0%}"


def numbers(spread: Mapping[str, float], form: str = ",.1f") -> list[str]:
    return [f"{spread[each]:{form}}" for each in ("median", "min", "max")]


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    made = Table(title=title, title_justify="left", show_header=any(headings))
    for place, heading in enumerate(headings):
        made.add_column(heading, justify="right" if place else "left")
    for row in rows:
        made.add_row(*row)
    return made


def screen() -> Console:
    """The terminal, or 160 columns of a file."""
    console = Console()
    console.width = console.width if console.is_terminal else 160
    return console
