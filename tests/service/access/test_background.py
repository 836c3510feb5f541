"""Background work on keys and the audit log that fails."""

import asyncio

from structlog.testing import capture_logs

from service.access import audit_writer
from service.access.audit import AuditEntry
from service.access.background import open_access
from service.installation.pools import ThreadPools
from service.storage.database import now

ENTRY = AuditEntry("boss", "POST /x", "/x", "127.0.0.1", "succeeded", status=200)


def test_background_work_that_fails_is_tried_again_and_does_not_keep_a_server_from_stopping(
    database, settings, monkeypatch
):
    num_failed = 0

    def fail(*_):
        nonlocal num_failed
        num_failed += 1
        raise OverflowError("date value out of range")

    monkeypatch.setattr("service.access.background._USES_SECONDS", 0.01)
    monkeypatch.setattr("service.access.background._PRUNE_EVERY", 1)
    monkeypatch.setattr(audit_writer, "prune_events", fail)
    monkeypatch.setattr("service.access.key_ring.note_uses", fail)

    async def live():
        with ThreadPools(decode_workers=1, search_workers=1) as pools:
            async with open_access(database, settings, pools) as (key_ring, audit):
                key_ring._uses["nobody"] = now()
                await audit.write(ENTRY)
                async with asyncio.timeout(60):
                    while num_failed < 4:
                        await asyncio.sleep(0.01)
        await audit.write(ENTRY)

    with capture_logs() as logs:
        asyncio.run(live())

    failed = [line["task"] for line in logs if line["event"] == "access_task_failed"]
    assert failed.count("audit") > 1
    assert "uses_of_keys" in failed
    assert [line["reason"] for line in logs if line["event"] == "audit_not_written"] == ["the server is stopping"]
