"""A comparison as `comparison.md`: what one pastes into an issue or a paper's notes."""

import html
import re
from collections.abc import Iterable, Sequence

from triptych.tools.compare.content import Comparison, Pair, Pairs, Row
from triptych.tools.compare.exhibits import WithInterval
from triptych.tools.compare.sentences import p_value, percent, points
from triptych.tools.evaluate.paper import TABLE_1, last_batch


def as_markdown(comparison: Comparison) -> str:
    """The verdict, the table, the pairs, the study's Table 1, problems, and what reproduces it."""
    blocks = [
        f"# {escaped(comparison.title)}",
        *([f"**{escaped(comparison.banner)}**"] if comparison.banner else []),
        _bullets(comparison.verdict),
        *_differing(comparison),
        "## What these figures do not cover",
        _bullets(comparison.cautions),
        "## Trained networks",
        _networks(comparison.rows),
        *_pairs(comparison.recipe_pairs),
        *_pairs(comparison.network_pairs),
        *_study(comparison),
        *_problems(comparison),
        *_reproduction(comparison),
    ]
    return "\n\n".join(blocks) + "\n"


def escaped(words: str) -> str:
    """Words as they are, whatever they are: neither HTML nor Markdown."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(words, quote=False))


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(sentence)}" for sentence in sentences)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    ruler = ["---", *["---:"] * (len(headings) - 1)]
    lines = [headings, ruler, *(map(escaped, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _measured(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _networks(rows: Iterable[Row]) -> str:
    headings = (
        *("network", "accuracy", "95 % Wilson interval", "macro F1", "precision", "recall"),
        *("NLL (nats)", "ECE", "parameters", "MACs", "latency, median (ms)", "images/s, training"),
    )
    cells = (
        (
            row.label,
            percent(row.accuracy),
            f"{100 * row.accuracy_low:.2f} to {percent(row.accuracy_high)}",
            *(f"{value:.4f}" for value in (row.f1, row.precision, row.recall, row.nll, row.ece)),
            _measured(row.num_params, ","),
            _measured(row.macs, ","),
            _measured(row.latency_ms_p50, ".2f"),
            _measured(row.train_images_per_second, ".1f"),
        )
        for row in rows
    )
    return _table(headings, cells)


def _pairs(pairs: Pairs) -> list[str]:
    blocks = [f"## {pairs.question}", escaped(pairs.note)]
    if pairs.pairs:
        headings = ("pair", "difference (points)", "interval", "p", "p, Holm", "macro F1 (points)")
        blocks += [_table(headings, map(_pair, pairs.pairs))]
        blocks += [_bullets(pair.sentence for pair in pairs.pairs)]
    return blocks


def _pair(pair: Pair) -> list[str]:
    f1 = pair.f1_difference
    return [
        f"{pair.a} less {pair.b}",
        points(pair.difference.value),
        _interval(pair.difference),
        p_value(pair.p),
        p_value(pair.p_holm),
        f"{points(f1.value)} ({_interval(f1)})" if f1 else "",
    ]


def _interval(estimate: WithInterval) -> str:
    assert estimate.low is not None
    assert estimate.high is not None
    return f"{points(estimate.low)} to {points(estimate.high)}"


def _differing(comparison: Comparison) -> list[str]:
    if not comparison.differing:
        return []
    labels = [escaped(recipe.label) for recipe in comparison.recipes]
    rows = ([setting.name, *setting.values] for setting in comparison.differing)
    return [
        "## In what else the recipes differ",
        _table(["setting", *labels], rows),
    ]


def _study(comparison: Comparison) -> list[str]:
    sizes = sorted({last_batch(row.num_test) for row in comparison.rows})
    last = " or ".join(map(str, sizes))
    averages = ("F1", "precision", "recall")
    headings = ("network", *averages, *(f"{name}, last {last}" for name in averages))
    ours = (
        (
            row.label,
            *(f"{value:.4f}" for value in (row.f1, row.precision, row.recall)),
            *(f"{value:.4f}" for value in (row.paper_f1, row.paper_precision, row.paper_recall)),
        )
        for row in comparison.rows
    )
    published = (
        (model, percent(row.accuracy), *(f"{value:g}" for value in row[1:]))
        for model, row in TABLE_1.items()
    )
    return [
        "## The reference study's figures",
        _bullets(comparison.study.finding),
        _table(headings, ours),
        "Table 1 as published:",
        _table(("model", "accuracy", *averages), published),
    ]


def _problems(comparison: Comparison) -> list[str]:
    if not comparison.problems:
        return []
    lines = (f"{problem.folder}: {problem.what}" for problem in comparison.problems)
    return ["## Left out or incomplete", _bullets(lines)]


def _reproduction(comparison: Comparison) -> list[str]:
    """Commands stand in indented blocks, where nothing is markup."""
    blocks = ["## To reproduce"]
    for origin in comparison.origins:
        versions = ", ".join(f"{name} {version}" for name, version in origin.versions)
        metadata = (f"commit {origin.commit}", origin.device, origin.precision, versions)
        known = "; ".join(fact for fact in metadata if fact)
        blocks += [f"{escaped(origin.label)}: {escaped(known)}", f"    {origin.command}"]
    made = f"Made by triptych {comparison.version}, {comparison.made_at}:"
    return [*blocks, escaped(made), f"    {comparison.command}"]
