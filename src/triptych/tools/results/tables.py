"""The tables of README.md and BENCHMARKS.md, from rows alone, and their place in the text."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.filesize import decimal

from triptych.tools.results.rows import Row
from triptych.tools.statistics.scores import TABLE_1

NOT_YET = "*not yet measured*"
NAMES = {"alexnet": "AlexNet", "googlenet": "GoogLeNet", "resnet50": "ResNet50"}
NAMES |= {f"efficientnet_lite{n}": f"EfficientNet-Lite{n}" for n in range(3)}
ANYWHERE = {"cpu": "a CPU", "gpu": "a GPU"}


def fill(text: str, rows: Sequence[Row]) -> str:
    """The text with every table between its markers written anew."""
    for name, write in TABLES.items():
        pattern = rf"(<!-- results: {name} -->\n).*?(<!-- end of results -->)"
        table = write([row for row in rows if row["table"] == ROWS_OF.get(name, name)])
        text = re.sub(pattern, partial(put_between, table), text, flags=re.DOTALL)
    return text


def put_between(table: str, markers: re.Match[str]) -> str:
    return f"{markers[1]}{table}\n{markers[2]}"


def write_accuracy(rows: Sequence[Row]) -> str:
    """Recipes on devices that measured anything."""
    measured = {row["device"] for row in rows if row["figures"]}
    head = "network, how trained, test accuracy, n, device, minutes, command".split(", ")
    cells = []
    for row in (row for row in rows if row["device"] in measured or not measured):
        figures, values = row["figures"], [""] * 4
        if figures:
            n = f"{figures['num_seeds']} × {figures['num_test']:,}"
            accuracy = format_percent(figures["accuracy"], figures["interval"])
            values = [describe_training(figures), accuracy, n, format_minutes(figures["minutes"])]
        how, accuracy, n, minutes = values
        line = [how, accuracy or NOT_YET, n, format_device(row), minutes, f"`{row['command']}`"]
        cells.append([format_network(row), *line])
    caption = (
        "n: seeds × test images. Accuracy with a 95 % interval: of three seeds or more for the "
        "recipe, trained again (t; scatter of seeds and images), of one for that network (Wilson). "
        "Minutes: one run from start to end, the median of seeds."
    )
    return "\n".join([*format_table(head, cells), "", f"{caption} {format_origin(rows)}".strip()])


def write_benchmark(rows: Sequence[Row]) -> str:
    head = "network, batch at pixels; device; bound; ours; usual; ours / bound; ours / usual"
    cells = []
    for row in rows:
        figures, title = row["figures"], format_network(row)
        values = [NOT_YET] + [""] * 5
        if figures:
            title += f", {figures['batch_size']} at {figures['input_size']}"
            title += f", compiled ({figures['compile']})" * (figures["compile"] != "none")
            rates, ratios = figures["images_per_second"], figures["ratios"]
            values = [format_rate(rates.get(way)) for way in ("bound", "ours", "usual")]
            values += [format_spread(ratios.get(f"ours/{way}")) for way in ("bound", "usual")]
            values.append(", ".join(decimal(v) for v in figures["peak_memory_bytes"].values()))
        cells.append([title, format_device(row), *values, f"`{row['command']}`"])
    table = format_table([*head.split("; "), "memory, bound and ours", "command"], cells)
    return "\n".join([*table, "", format_origin(rows)]).strip()


def write_time(rows: Sequence[Row]) -> str:
    """From scratch: how long until the validation accuracy is the study's test accuracy."""
    head = "network, device, published, minutes to it, test accuracy, minutes of the run".split(
        ", "
    )
    cells = []
    for row in rows:
        figures, published = row["figures"], TABLE_1.get(row["model"])
        if published and (figures is None or not figures["weights"]):
            values = [NOT_YET, "", ""]
            if figures:
                reached = figures["minutes_to_published"]
                epochs = f"not reached in {figures['num_epochs']} epochs"
                values = [format_minutes(reached) if reached is not None else epochs]
                values.append(format_percent(figures["accuracy"], figures["interval"]))
                values.append(format_minutes(figures["minutes"]))
            shown = f"{100 * published.accuracy:.2f} %"
            cells.append([format_network(row), format_device(row), shown, *values])
    return "\n".join(format_table(head, cells))


def write_runs(rows: Sequence[Row]) -> str:
    head = ["command", "device", "jobs", "minutes, first start to last end", "predictions"]
    answers = {None: "", True: "equal to the last bit, though killed once", False: "differ"}
    cells = []
    for row in rows:
        values = ["", NOT_YET, ""]
        if figures := row["figures"]:
            values = [str(figures["num_jobs"]), f"{figures['minutes']:.2f}"]
            values.append(answers[figures["equal"]])
        cells.append([f"`{row['command']}`", format_device(row), *values])
    return "\n".join(format_table(head, cells))


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "accuracy": write_accuracy,
    "benchmark": write_benchmark,
    "time": write_time,
    "runs": write_runs,
}
ROWS_OF = {"time": "accuracy"}  # of a table that shows another's rows


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def describe_training(figures: Mapping[str, Any]) -> str:
    """Fine-tuned, 5 epochs at 96 pixels."""
    epochs, pixels = figures["num_epochs"], f"{figures['input_size']} pixels"
    if figures["frozen"]:
        return f"linear probe at {pixels}"
    start = "fine-tuned" if figures["weights"] else "from scratch"
    return f"{start}, {epochs} epoch{'s' * (epochs != 1)} at {pixels}"


def format_network(row: Row) -> str:
    model = str(row["model"])
    return NAMES.get(model, model)


def format_device(row: Row) -> str:
    """2 cores of AMD EPYC, bf16."""
    name = row["device"] or ANYWHERE[row["kind"]]
    if not row["figures"]:
        return str(name)
    return f"{name}, {str(row['precision']).replace('32-true', 'fp32').replace('-mixed', '')}"


def format_origin(rows: Iterable[Row]) -> str:
    """When the rows were measured, and with which libraries."""
    measured = [row for row in rows if row["figures"]]
    if not measured:
        return ""
    days = sorted({row["measured_at"][:10] for row in measured})
    names = ("triptych", "torch")
    versions = {name: sorted({row["versions"][name] for row in measured}) for name in names}
    libraries = ", ".join(f"{name} {' and '.join(each)}" for name, each in versions.items())
    return f"Measured {' to '.join(dict.fromkeys((days[0], days[-1])))} with {libraries}."


def format_percent(value: float, interval: Sequence[float] | None) -> str:
    ends = " ({} to {})".format(*(f"{100 * v:.2f}" for v in interval)) if interval else ""
    return f"{100 * value:.2f} %{ends}"


def format_minutes(minutes: float) -> str:
    return f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}"


def format_rate(spread: Mapping[str, float] | None) -> str:
    """Images a second, three digits."""
    median = spread["median"] if spread else 0
    return f"{median:,.{0 if median >= 100 else 1}f}" if spread else ""


def format_spread(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return ""
    return f"{spread['median']:.3f} ({spread['min']:.3f} to {spread['max']:.3f})"
