"""The tables of README.md and BENCHMARKS.md, from rows alone, and their place in the text."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from rich.filesize import decimal

from triptych.tools.results.rows import Row
from triptych.tools.statistics.scores import TABLE_1

MARKER = "<!-- results: "  # and the name of the table that follows
IN_TORCH = "the network in torch"
NOT_YET = "*not yet measured*"
NAMES = {"alexnet": "AlexNet", "googlenet": "GoogLeNet", "resnet50": "ResNet50"}
NAMES |= {f"efficientnet_lite{n}": f"EfficientNet-Lite{n}" for n in range(3)}
ANYWHERE = {"cpu": "a CPU", "gpu": "a GPU"}
PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16"}
CAPTION = (
    "n: seeds × test images. Accuracy with a 95 % interval: of three seeds or more for the recipe "
    "(seeds and images), of one for that network (images). Minutes: one run, the median of the "
    "seeds; of a probe, the run that computed the features. BENCHMARKS.md has the commands."
)


OF_FILES = (
    "Test accuracy of each file's own answers, and the median time of an image at batch 1, "
    "preprocessing included; all of a network in turn. BENCHMARKS.md has intervals, size, memory."
)


class Column(NamedTuple):
    """`write` is given a row, or, where `of_figures`, the figures of a row that has any."""

    title: str
    write: Callable[[Any], str]
    of_figures: bool = True


def fill(text: str, rows: Sequence[Row]) -> str:
    """The text with every table between its markers written anew."""
    pattern = rf"({MARKER}({'|'.join(TABLES)}) -->\n).*?(<!-- end of results -->)"

    def write(place: re.Match[str]) -> str:
        return f"{place[1]}{write_table(place[2], rows)}\n{place[3]}"

    return re.sub(pattern, write, text, flags=re.DOTALL)


def write_table(name: str, rows: Sequence[Row]) -> str:
    """A table with its caption; a row without figures says so in the first cell of these."""
    shown = select_rows(name, rows)
    if name == "files":
        return write_files(shown)
    is_one = len({*map(PLACE.write, shown)}) == 1  # device: its name stands below the table
    columns = [column for column in TABLES[name] if column is not PLACE or not is_one]
    lines = [[column.title for column in columns], ["---"] * len(columns)]
    first = next(number for number, column in enumerate(columns) if column.of_figures)
    for row in shown:
        figures = row["figures"]
        cells = [
            column.write(figures if column.of_figures else row)
            if figures or not column.of_figures
            else NOT_YET * (number == first)
            for number, column in enumerate(columns)
        ]
        lines.append([cell.replace("|", "/") for cell in cells])
    table = [f"| {' | '.join(line)} |" for line in lines]
    captions = [CAPTION * (name == "accuracy"), describe_origin(shown)]
    return "\n".join([*table, "", " ".join(filter(None, captions))]).strip()


def select_rows(name: str, rows: Sequence[Row]) -> list[Row]:
    """The rows of a table: of `accuracy` those of devices that measured anything, of `commands` the
    same, of `time` the study's networks from scratch, of `files` those of deployments."""
    if name == "files":
        return [row for row in rows if row["table"] == "deployments" and row["kind"] == "cpu"]
    if name == "time":
        networks = [r for r in rows if r["table"] == "accuracy" and r["model"] in TABLE_1]
        return [r for r in networks if not r["figures"] or r["figures"]["weights"] is None]
    kind = "accuracy" if name == "commands" else name
    measured = {row["device"] for row in rows if row["figures"]} if kind == "accuracy" else ()
    shown = [row for row in rows if row["table"] == kind]
    return [row for row in shown if row["device"] in measured] or shown


def write_files(rows: Sequence[Row]) -> str:
    """A line a format: of each network the accuracy of its file, and how long an image takes."""
    models = [*dict.fromkeys(row["model"] for row in rows)]
    by_place = {
        (row["figures"]["format"], row["model"]): row["figures"] for row in rows if row["figures"]
    }
    forms = [*dict.fromkeys(form for form, _ in by_place)] or [None]
    names = [NAMES.get(model, model) for model in models]
    lines = [["file", *names], ["---"] * (1 + len(models))]
    for form in forms:
        cells = [format_file(by_place.get((form, model))) for model in models]
        lines.append([form or IN_TORCH, *cells])
    table = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*table, "", f"{OF_FILES} {describe_origin(rows)}".strip()])


def format_file(figures: Mapping[str, Any] | None) -> str:
    """90.56 %, 31.5 ms."""
    if figures is None:
        return NOT_YET
    return f"{100 * figures['accuracy']:.2f} %, {figures['latency_ms_p50']:.1f} ms"


def describe_origin(rows: Sequence[Row]) -> str:
    """When the rows were measured, on what, and with which libraries."""
    measured = [row for row in rows if row["figures"]]
    if not measured:
        return ""
    days = sorted({row["measured_at"][:10] for row in measured})
    names = ("triptych", "torch")
    versions = {name: sorted({row["versions"][name] for row in measured}) for name in names}
    libraries = ", ".join(f"{name} {' and '.join(each)}" for name, each in versions.items())
    devices = " and ".join(dict.fromkeys(row["device"] for row in measured))
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    return f"Measured {when} on {devices} with {libraries}."


def format_network(row: Row) -> str:
    return NAMES.get(str(row["model"]), str(row["model"]))


def format_device(row: Row) -> str:
    """2 cores of AMD EPYC, bf16."""
    name = row["device"] or ANYWHERE[row["kind"]]
    precision = PRECISIONS.get(str(row.get("precision")), row.get("precision"))
    return f"{name}, {precision}" if row["figures"] else str(name)


def describe_training(figures: Mapping[str, Any]) -> str:
    """Fine-tuned, 5 epochs at 96 pixels."""
    epochs, pixels = figures["num_epochs"], f"{figures['input_size']} pixels"
    if figures["frozen"]:
        return f"linear probe at {pixels}"
    start = "fine-tuned" if figures["weights"] else "from scratch"
    return f"{start}, {epochs} epoch{'s' * (epochs != 1)} at {pixels}"


def format_accuracy(figures: Mapping[str, Any]) -> str:
    ends = figures["interval"]
    interval = f" ({100 * ends[0]:.2f} to {100 * ends[1]:.2f})" if ends else ""
    return f"{100 * figures['accuracy']:.2f} %{interval}"


def format_minutes(figures: Mapping[str, Any], name: str = "minutes") -> str:
    if (minutes := figures[name]) is None:
        return f"not reached in {figures['num_epochs']} epochs"
    return f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.2f}"


def format_size(figures: Mapping[str, Any]) -> str:
    """64 at 224, compiled."""
    compiled = f", compiled ({figures['compile']})" * (figures["compile"] != "none")
    return f"{figures['batch_size']} at {figures['input_size']}{compiled}"


def format_rate(figures: Mapping[str, Any], way: str) -> str:
    """Images a second, three digits."""
    rate = figures["images_per_second"].get(way, {"median": 0})["median"]
    return f"{rate:,.{0 if rate >= 100 else 1}f}" if rate else ""


def format_ratio(figures: Mapping[str, Any], name: str) -> str:
    ratio = figures["ratios"].get(name)
    return f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})" if ratio else ""


def format_difference(figures: Mapping[str, Any]) -> str:
    if not figures["format"]:
        return ""
    value, low, high = (100 * each for each in figures["difference"])
    return f"{value:+.2f} ({low:.2f} to {high:.2f})"


NETWORK = Column("network", format_network, of_figures=False)
DEVICE = Column("device", format_device, of_figures=False)
PLACE = Column("device", lambda row: row["device"] or ANYWHERE[row["kind"]], of_figures=False)
COMMAND = Column("command", lambda row: f"`{row['command']}`", of_figures=False)
PUBLISHED = Column(
    "published", lambda row: f"{100 * TABLE_1[row['model']].accuracy:.2f} %", of_figures=False
)
EQUAL = {None: "", True: "equal to the last bit, though killed once", False: "differ"}
TABLES = {
    "accuracy": (
        NETWORK,
        Column("how trained", describe_training),
        Column("test accuracy", format_accuracy),
        Column("n", lambda figures: f"{figures['num_seeds']} × {figures['num_test']:,}"),
        *(PLACE, Column("minutes", format_minutes)),
    ),
    "commands": (NETWORK, DEVICE, Column("test accuracy", format_accuracy), COMMAND),
    "benchmark": (
        *(NETWORK, Column("batch at pixels", format_size), DEVICE),
        *(Column(way, partial(format_rate, way=way)) for way in ("bound", "ours", "usual")),
        Column("ours / bound", partial(format_ratio, name="ours/bound")),
        Column("ours / usual", partial(format_ratio, name="ours/usual")),
        Column(
            "memory, bound and ours",
            lambda figures: ", ".join(map(decimal, figures["peak_memory_bytes"].values())),
        ),
        COMMAND,
    ),
    "time": (
        *(NETWORK, DEVICE, PUBLISHED),
        Column("minutes to it", partial(format_minutes, name="minutes_to_published")),
        Column("test accuracy", format_accuracy),
        Column("minutes in all", format_minutes),
    ),
    "files": (),
    "deployments": (
        NETWORK,
        Column("file", lambda figures: figures["format"] or IN_TORCH),
        *(DEVICE, Column("test accuracy", lambda figures: f"{100 * figures['accuracy']:.2f} %")),
        Column("difference, points", format_difference),
        Column("agreement", lambda f: f"{100 * f['agreement']:.2f} %" if f["format"] else ""),
        Column("ms an image", lambda figures: f"{figures['latency_ms_p50']:.1f}"),
        Column("images/s", lambda figures: f"{figures['throughput_images_per_second']:,.0f}"),
        Column("size", lambda f: decimal(f["file_bytes"]) if f.get("file_bytes") else ""),
        Column("loading, s", lambda figures: f"{figures['load_seconds']:.2f}"),
        Column("peak memory", lambda figures: decimal(figures["peak_memory_bytes"])),
    ),
    "runs": (
        *(COMMAND, DEVICE, Column("jobs", lambda figures: str(figures["num_jobs"]))),
        Column("minutes, first start to last end", format_minutes),
        Column("predictions", lambda figures: EQUAL[figures["equal"]]),
    ),
}
