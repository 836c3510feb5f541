"""What a server does about keys and the audit log beside its requests, when it cannot be done."""

import asyncio

from structlog.testing import capture_logs

from service.access import audit_writer
from service.access.audit import AuditEntry
from service.access.lifespan import open_access
from service.storage.database import now

ENTRY = AuditEntry("boss", "POST /x", "/x", "127.0.0.1", "succeeded", status=200)


def test_upkeep_that_fails_goes_on_and_keeps_no_server_from_its_end(database, settings, monkeypatch):
    def fail(*_):
        raise OverflowError("date value out of range")

    monkeypatch.setattr("service.access.lifespan._USES_SECONDS", 0.01)
    monkeypatch.setattr("service.access.lifespan._PRUNE_EVERY", 1)
    monkeypatch.setattr(audit_writer, "prune_events", fail)
    monkeypatch.setattr("service.access.key_ring.note_uses", fail)

    async def live():
        async with open_access(database, settings) as (key_ring, audit):
            key_ring._uses["nobody"] = now()
            await audit.write(ENTRY)
            await asyncio.sleep(0.3)
        await audit.write(ENTRY)

    with capture_logs() as logs:
        asyncio.run(live())

    failed = [line["task"] for line in logs if line["event"] == "upkeep_failed"]
    assert failed.count("audit") > 1
    assert "uses_of_keys" in failed
    assert [line["reason"] for line in logs if line["event"] == "audit_not_written"] == ["the server has ended"]
