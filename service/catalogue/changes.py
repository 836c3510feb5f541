"""Numbered changes of the catalogue, and the record of who changed a label."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.storage.database import next_change_seqs, now
from service.storage.tables.catalogue import ChangeCounter, LabelChange, Product, ProductImage

_TEXT_LENGTH = 200  # of the columns that say who and why


def lock_changes(session: Session) -> None:
    """Wait until no other transaction changes the catalogue, and let none do so until this one ends.

    What is read from here on is what will be changed: without it, two that see no such image would both add it.
    """
    session.execute(select(ChangeCounter.value).where(ChangeCounter.slot == 1).with_for_update())


def number_changes(session: Session, changed: Sequence[Product | ProductImage]) -> None:
    """Give each changed row its change number."""
    seqs = next_change_seqs(session, len(changed)) if changed else ()
    for row, seq in zip(changed, seqs, strict=True):
        row.change_seq = seq


def relabel(image: ProductImage, label: str | None, *, actor: str, source: str) -> LabelChange:
    """Give an image a label, None for its product's own; return the record of it, to be added to the session."""
    moment = now()
    change = LabelChange(
        image_id=image.id,
        old_label=image.label,
        new_label=label,
        changed_by=actor[:_TEXT_LENGTH],
        changed_at=moment,
        source=source[:_TEXT_LENGTH],
    )
    image.label, image.labelled_by, image.labelled_at, image.label_source = (
        label,
        change.changed_by,
        moment,
        change.source,
    )
    return change
