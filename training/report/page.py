"""A self-contained HTML report of a run, built from the files in the run's folder.

Images and styles are embedded, and there are no scripts. Everything from the data (labels, paths, names) is escaped.
A section whose file is missing is replaced by a note.
"""

import base64
import string
from html import escape
from pathlib import Path

from training.report.metrics_log import read_metrics
from training.report.neighbours import draw_neighbour_grid, read_neighbours, save_grid
from training.report.plots import write_curves
from training.report.run_folder import (
    EVALUATION,
    METRICS,
    NEIGHBOUR_GRID,
    NEIGHBOURS,
    REPORT,
    RUN_CARD,
    Record,
    entries,
    number,
    read_run_table,
    require_run,
    table,
)
from training.report.tables import config_tables, facts_table, html_table, metric_tables, per_class_tables

_TEMPLATE = Path(__file__).parent / "templates" / "report.html"
_MEDIA_TYPES = {".svg": "image/svg+xml", ".jpg": "image/jpeg", ".png": "image/png"}
_CURVE_TEXTS = {
    "validation": "Validation metrics over the steps",
    "loss": "Loss and share of active pairs over the steps",
    "distances": "Quantiles of the distances of positive and negative pairs over the steps",
    "spread": "Spread of the embeddings and drift of the weights over the steps",
    "pull": "Ratio of the pull to the gradient over the steps",
    "mining": "Share of mined classes and age of the representatives over the steps",
    "learning_rate": "Learning rate over the steps",
}
_PARTS = {"all": "all queries", "seen": "classes seen in training", "unseen": "classes never trained on"}


def write_report(run_dir: Path) -> Path:
    """Draw the curves and write report.html into a run's folder.

    Raises InvalidRun if the folder contains no run or its files are damaged.
    """
    require_run(run_dir)
    card = read_run_table(run_dir, RUN_CARD)
    evaluation = read_run_table(run_dir, EVALUATION)
    sections = [
        _verdict(card, evaluation),
        _section("Warnings", _warnings(run_dir, card)),
        _section("Before and after", _metrics(evaluation)),
        _section("Curves", _curves(run_dir)),
        _section("Nearest neighbours", _neighbours(run_dir)),
        _section("Classes that gained and lost most", _classes(evaluation)),
        _section("Run card", _run_card(card)),
        _section("How to reproduce it", _reproduction(card)),
    ]
    template = string.Template(_TEMPLATE.read_text(encoding="utf-8"))
    title = escape(str(card.get("title") or f"Training run {run_dir.resolve().name}"))
    page = template.substitute(title=title, facts=_facts(card), sections="\n".join(sections))
    path = run_dir / REPORT
    # Replaces the old report only when complete, in case the disk is full.
    draft = path.with_suffix(".draft")
    draft.write_text(page, encoding="utf-8")
    return draft.replace(path)


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _facts(card: Record) -> str:
    """Return the line below the title: status, size, duration, device and date."""
    snapshot = table(card, "snapshot")
    facts = [
        f"status: {card['status']}" if card.get("status") else "",
        _counted(card, "steps", "steps"),
        _duration(number(card, "seconds")),
        f"on {card['device']}" if card.get("device") else "",
        _counted(snapshot, "num_images", "images"),
        _counted(snapshot, "num_classes", "classes"),
        str(card.get("created_at") or ""),
    ]
    return escape(" · ".join(fact for fact in facts if fact))


def _counted(record: Record, key: str, noun: str) -> str:
    count = number(record, key)
    return "" if count is None else f"{count:,.0f} {noun}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _verdict(card: Record, evaluation: Record) -> str:
    """Describe the change of recall@1 over all queries and over each part."""
    sentences, change = [], 0.0
    for part, words in _PARTS.items():
        before = number(table(table(evaluation, "before"), part), "recall_at_1")
        after = number(table(table(evaluation, "after"), part), "recall_at_1")
        if after is None:
            continue
        if part == "all":
            change = 0.0 if before is None else after - before
        sentences.append(f"Recall@1 over {words} {_change_in_words(before, after)}.")
    if not sentences:
        return f'<div class="verdict"><p>{escape(_validation_verdict(card))}</p></div>'
    direction = "good" if change > 0 else "bad" if change < 0 else ""
    first, *others = (escape(sentence) for sentence in sentences)
    items = f"<ul>{''.join(f'<li>{sentence}</li>' for sentence in others)}</ul>" if others else ""
    return f'<div class="verdict {direction}"><p>{first}</p>{items}</div>'


def _change_in_words(before: float | None, after: float) -> str:
    if before is None:
        return f"is {after:.1%} after training; it was not measured before"
    points = 100 * (after - before)
    if abs(points) < 0.05:
        return f"stayed at {after:.1%}"
    verb = "rose" if points > 0 else "fell"
    return f"{verb} from {before:.1%} to {after:.1%} ({points:+.1f} points)".replace("-", "−")


def _validation_verdict(card: Record) -> str:
    best = table(card, "best")
    value, step = number(best, "value"), number(best, "step")
    if value is None:
        return "This run was not evaluated."
    place = "" if step is None else f" at step {step:,.0f}"
    return (
        f"This run was not evaluated on a test part; its best validation {best.get('metric')} was {value:.3f}{place}."
    )


def _warnings(run_dir: Path, card: Record) -> str:
    logged = [record for record in read_metrics(run_dir) if record.get("kind") == "warning"]
    kept = card.get("warnings")
    texts = [warning_text(entry) for entry in (*(kept if isinstance(kept, list) else ()), *logged)]
    messages = list(dict.fromkeys(texts))
    # The card may contain a message without the step that the log has.
    shown = [text for text in messages if not any(other != text and other.endswith(f": {text}") for other in messages)]
    if not shown:
        return _note("None.")
    return f'<ul class="warnings">{"".join(f"<li>{escape(text)}</li>" for text in shown)}</ul>'


def warning_text(entry: object) -> str:
    """Return a warning of the run card or the log as one line, with its step if known."""
    if not isinstance(entry, dict):
        return str(entry)
    step = number(entry, "step")
    message = str(entry.get("message", ""))
    return message if step is None else f"step {step:,.0f}: {message}"


def _metrics(evaluation: Record) -> str:
    if not evaluation:
        return _note(f"This run has no {EVALUATION}: it was not evaluated on a test part.")
    protocol = evaluation.get("protocol")
    return (_note(str(protocol)) if protocol else "") + metric_tables(evaluation)


def _curves(run_dir: Path) -> str:
    if not (run_dir / METRICS).is_file():
        return _note(f"This run has no {METRICS}.")
    files = write_curves(run_dir)
    if not files:
        return _note(f"{METRICS} contains no values yet.")
    figures = [f"<figure>{_embedded(path, _CURVE_TEXTS.get(path.stem, path.stem))}</figure>" for path in files]
    return f'<div class="curves">{"".join(figures)}</div>'


def _neighbours(run_dir: Path) -> str:
    rows = read_neighbours(run_dir)
    image = run_dir / NEIGHBOUR_GRID
    if not image.is_file():
        if not rows:
            return _note(f"This run has no {NEIGHBOURS}.")
        save_grid(draw_neighbour_grid(rows), image)
    text = (
        "Each line shows a query on the left and the nearest images to it, nearest first, with their scores "
        "(cosine). ✓ marks an image of the query's class, ✗ one of another class. Queries with a correct and with a "
        "wrong first neighbour are chosen in equal numbers if possible, so their share here is not the recall."
    )
    num_right = sum(1 for row in rows if row.hits and row.hits[0].is_hit)
    described = f"{len(rows)} queries with their nearest neighbours; the first neighbour is correct for {num_right}"
    return f'{_note(text)}<div class="wide">{_embedded(image, described, "grid")}</div>'


def _classes(evaluation: Record) -> str:
    classes = entries(evaluation.get("per_class"))
    if not classes:
        return _note("There is no breakdown by class.")
    return per_class_tables(classes)


def _run_card(card: Record) -> str:
    if not card:
        return _note(f"This run has no {RUN_CARD}.")
    single = ("title", "status", "created_at", "seconds", "steps", "device", "akin", "git_sha")
    groups: list[tuple[str, Record]] = [("run", {key: card[key] for key in single if card.get(key) is not None})]
    groups += [(name, table(card, name)) for name in ("snapshot", "split", "best", "versions")]
    facts = "".join(facts_table(name, group) for name, group in groups if group)
    config = config_tables(table(card, "config"))
    return f"{_grid('What ran', facts)}{_grid('Configuration', config)}"


def _grid(title: str, tables: str) -> str:
    return f'<h3>{title}</h3><div class="facts-grid">{tables}</div>'


def _reproduction(card: Record) -> str:
    command = card.get("command")
    if not command:
        return _note("The command of this run is not known.")
    line = " ".join(map(str, command)) if isinstance(command, list) else str(command)
    conditions = [
        ("snapshot hash", table(card, "snapshot").get("hash")),
        ("git commit", card.get("git_sha")),
        ("seed", table(card, "config").get("seed")),
    ]
    rows = [[escape(name), escape(str(value))] for name, value in conditions if value is not None]
    text = _note("The same command with the same snapshot, code and versions repeats this run, on a CPU bit for bit.")
    return f"<pre>{escape(line)}</pre>{text}{html_table([], rows)}"


def _embedded(path: Path, description: str, css_class: str = "") -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    attribute = f' class="{css_class}"' if css_class else ""
    return f'<img{attribute} alt="{escape(description)}" src="data:{_MEDIA_TYPES[path.suffix]};base64,{content}">'
