"""The HTTP/1.1 protocol of the server: uvicorn's, with our own answers to what its parser refuses."""

import json
import sys
import uuid

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.web.errors import InvalidHTTP
from service.web.problems import PROBLEM_MEDIA_TYPE, STATUSES, problem_document

log = structlog.get_logger(__name__)

MAX_HEAD_BYTES = 64 * 1024
# Beginnings of h11's messages, and what clients are told instead.
_REASONS = {
    "bad Content-Length": "Content-Length must be one number, without a sign",
    "conflicting Content-Length": "the request has different values of Content-Length; send one",
    "multiple Transfer-Encoding": "the request has several headers Transfer-Encoding; send one",
    "Only Transfer-Encoding": "the only supported Transfer-Encoding is chunked",
    "Receive buffer too long": f"the head, a chunk size or the trailers exceed {MAX_HEAD_BYTES:,} bytes",
    "Missing mandatory Host": "the request has no header Host",
    "Found multiple Host": "the request has several headers Host; send one",
    "illegal chunk": "a chunk of the chunked body is malformed",
}


class HTTPProtocol(H11Protocol):
    """Serves one connection.

    A proposed upgrade (h2c, websocket) is ignored, as RFC 9110 section 7.8 permits: the request is served over HTTP/1.1
    with its body.
    """

    def _should_upgrade(self) -> bool:
        # uvicorn's version logs warnings that recommend packages, for every such request.
        return False

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not valid HTTP, and close the connection; called while the error is handled."""
        error = sys.exception()
        reason = str(error) if isinstance(error, h11.RemoteProtocolError) else msg
        detail = next(
            (ours for theirs, ours in _REASONS.items() if reason.startswith(theirs)),
            "its request line, a header or its body is malformed",
        )
        request_id = uuid.uuid4().hex
        log.info("request_refused", request_id=request_id, reason=reason)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send_problem(f"the request is not valid HTTP: {detail}", request_id)
        # Otherwise a response has begun, and can only be aborted.
        self.transport.close()

    def _send_problem(self, detail: str, request_id: str) -> None:
        status = STATUSES[InvalidHTTP]
        content = json.dumps(problem_document(status, InvalidHTTP.code, detail, request_id)).encode()
        headers = [
            ("content-type", PROBLEM_MEDIA_TYPE),
            ("content-length", str(len(content))),
            ("x-request-id", request_id),
            ("connection", "close"),
        ]
        response = h11.Response(status_code=status, headers=headers, reason="Bad Request")
        for event in (response, h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
