"""The tables of a run's report as HTML; all text is escaped here."""

from collections.abc import Sequence
from html import escape

from training.report.run_folder import Record, metric_title, number, table

_PARTS = {"all": "All queries", "seen": "Seen classes", "unseen": "Unseen classes"}
_NUM_CLASSES_SHOWN = 10


def html_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, num_numbers: int = 0, caption: str = "", groups: str = ""
) -> str:
    """Return a table of HTML cells; the last `num_numbers` columns are aligned as numbers.

    `groups` is an HTML row above the header.
    """
    if not rows:
        return ""

    def line(cells: Sequence[str], is_header: bool) -> str:
        numbers_from = len(cells) - num_numbers
        parts = []
        for position, cell in enumerate(cells):
            tag = "th" if is_header or position == 0 else "td"
            attribute = ' class="number"' if position >= numbers_from else ""
            parts.append(f"<{tag}{attribute}>{cell}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    head = f"<thead>{groups}{line(header, True)}</thead>" if header else ""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}{head}<tbody>{''.join(line(row, False) for row in rows)}</tbody></table>"


def metric_tables(evaluation: Record) -> str:
    """Return the metrics before and after training and their difference, three columns per part."""
    before, after = table(evaluation, "before"), table(evaluation, "after")
    parts = [part for part in _PARTS if table(before, part) or table(after, part)]
    names = list(dict.fromkeys(
        name for part in parts for record in (table(before, part), table(after, part)) for name in record
    ))  # fmt: skip
    header = ["Metric", *("before", "after", "difference") * len(parts)]
    groups = "".join(f'<th colspan="3" scope="colgroup">{_PARTS[part]}</th>' for part in parts)
    rows = []
    for name in names:
        cells = [escape(metric_title(name))]
        for part in parts:
            cells += _change_cells(name, number(table(before, part), name), number(table(after, part), name))
        if any(cells[1:]):
            rows.append(cells)
    groups = f"<tr><td></td>{groups}</tr>"
    metrics = html_table(header, rows, num_numbers=len(header) - 1, groups=groups)
    return f'<div class="wide">{metrics}</div>{_clustering_table(table(evaluation, "clustering"))}'


def _clustering_table(clustering: Record) -> str:
    """Return the metrics of k-means, given as one table or as one before and one after."""
    before, after = table(clustering, "before"), table(clustering, "after") or clustering
    rows = [
        [escape(metric_title(name)), *_change_cells(name, number(before, name), number(after, name))]
        for name in after
        if number(after, name) is not None
    ]
    if not rows:
        return ""
    header = ["Clustering (k-means)", "before", "after", "difference"]
    if not before:
        header, rows = ["Clustering (k-means)", "after"], [[row[0], row[2]] for row in rows]
    return f'<h3>Clustering</h3><div class="wide">{html_table(header, rows, num_numbers=len(header) - 1)}</div>'


def _change_cells(name: str, before: float | None, after: float | None) -> list[str]:
    """Return three cells; counts are integers without a difference."""
    if name.startswith("num_") or name in ("seed", "k"):
        return ["" if value is None else f"{value:,.0f}" for value in (before, after)] + [""]
    shown = ["" if value is None else f"{value:.4f}" for value in (before, after)]
    return [*shown, "" if before is None or after is None else _difference(after - before)]


def _difference(value: float) -> str:
    css_class = "good" if value >= 5e-5 else "bad" if value <= -5e-5 else ""
    text = f"{value:+.4f}".replace("-", "−")
    return f'<span class="{css_class}">{text}</span>'


def per_class_tables(classes: Sequence[Record]) -> str:
    """Return the ten classes whose recall@1 rose most and the ten whose recall@1 fell most."""
    changes = []
    for entry in classes:
        before, after = number(entry, "before"), number(entry, "after")
        if before is not None and after is not None:
            changes.append((after - before, number(entry, "num_queries") or 0, str(entry.get("label", "")), entry))
    # Of equal changes, the one with more queries comes first.
    winners = sorted((change for change in changes if change[0] > 0), key=lambda c: (-c[0], -c[1], c[2]))
    losers = sorted((change for change in changes if change[0] < 0), key=lambda c: (c[0], -c[1], c[2]))
    num_equal = len(changes) - len(winners) - len(losers)
    summary = (
        f"Recall@1 by class: {len(winners)} classes gained, {len(losers)} lost and {num_equal} stayed equal. "
        "A class with few queries changes by large steps."
    )
    columns = [
        f"<div><h3>{title}</h3>{_class_table([change[3] for change in changed[:_NUM_CLASSES_SHOWN]])}</div>"
        for title, changed in (("Gained most", winners), ("Lost most", losers))
    ]
    return f'<p class="note">{summary}</p><div class="pair">{"".join(columns)}</div>'


def _class_table(classes: Sequence[Record]) -> str:
    if not classes:
        return '<p class="note">None.</p>'
    rows = []
    for entry in classes:
        before, after = number(entry, "before") or 0.0, number(entry, "after") or 0.0
        points = _difference(after - before)
        label = escape(str(entry.get("label", "")))
        unseen = "unseen" if entry.get("is_unseen") else "seen"
        queries = f"{number(entry, 'num_queries') or 0:,.0f}"
        rows.append([label, unseen, queries, f"{before:.3f}", f"{after:.3f}", points])
    header = ["Class", "in training", "queries", "before", "after", "difference"]
    return html_table(header, rows, num_numbers=4)


def facts_table(caption: str, facts: Record) -> str:
    """Return a table of names and values; nested names are joined with dots."""
    rows = [[escape(name), escape(_shown(value))] for name, value in _flattened(facts).items()]
    return html_table([], rows, caption=caption.replace("_", " "))


def config_tables(config: Record) -> str:
    """Return every setting: those without a section first, then one table per section."""
    single = {name: value for name, value in config.items() if not isinstance(value, dict)}
    sections = [("general", single), *((name, value) for name, value in config.items() if isinstance(value, dict))]
    return "".join(facts_table(name, section) for name, section in sections)


def _flattened(facts: Record, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= _flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if value is None or value == "":
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
