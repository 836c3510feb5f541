"""Change numbers of catalogue rows, and the history of labels."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.catalogue.rows import MAX_TEXT_LENGTH
from service.storage.database import next_change_seqs, now
from service.storage.tables.catalogue import ChangeCounter, LabelChange, Product, ProductImage


def lock_changes(session: Session) -> None:
    """Block other writers of the catalogue until this transaction ends.

    Call it before reading the rows to change: otherwise two transactions that both find an image missing would both
    add it.
    """
    session.execute(select(ChangeCounter.value).where(ChangeCounter.slot == 1).with_for_update())


def number_changes(session: Session, changed: Sequence[Product | ProductImage]) -> None:
    """Give each changed row its change number."""
    seqs = next_change_seqs(session, len(changed)) if changed else ()
    for row, seq in zip(changed, seqs, strict=True):
        row.change_seq = seq


def relabel(image: ProductImage, label: str | None, *, actor: str, source: str) -> LabelChange:
    """Set the label of an image; None stands for the label of its product.

    Return the record of the change, which the caller adds to the session. `actor` and `source` are cut to the length
    of their columns.
    """
    moment = now()
    change = LabelChange(
        image_id=image.id,
        old_label=image.label,
        new_label=label,
        changed_by=actor[:MAX_TEXT_LENGTH],
        changed_at=moment,
        source=source[:MAX_TEXT_LENGTH],
    )
    image.label, image.labelled_by, image.labelled_at, image.label_source = (
        label,
        change.changed_by,
        moment,
        change.source,
    )
    return change
