"""Search results as JSON and as a table."""

from rich.markup import escape
from rich.table import Table

from service.serving.engine import SearchResult


def result_json(result: SearchResult) -> dict[str, object]:
    """Return the release and its hits, best first, as JSON values."""
    hits = [
        {
            "product_id": hit.row.product_id,
            "title": hit.row.title,
            "score": hit.score,
            "image_id": hit.row.image_id,
            "attributes": hit.row.attributes,
        }
        for hit in result.hits
    ]
    return {"release_id": result.release_id, "hits": hits}


def hits_table(result: SearchResult) -> Table:
    """Show hits, best first."""
    table = Table(title=f"release {result.release_id}", title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("score", justify="right")
    for name in ("product", "title", "attributes"):
        table.add_column(name, overflow="fold")
    for number, hit in enumerate(result.hits, start=1):
        attributes = ", ".join(f"{name}: {value}" for name, value in hit.row.attributes.items())
        cells = (hit.row.product_id, hit.row.title, attributes)
        table.add_row(str(number), f"{hit.score:.4f}", *(escape(cell) for cell in cells))
    return table
