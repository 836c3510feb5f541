"""Multipart forms while they arrive: each part is known, and may be refused, before its content is there.

So no form grows in memory: a field that nobody asked for, a second file, headers without end are refused with the
bytes that say so, and there are never more parts than a route has fields.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.web.errors import InvalidForm

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_TEXT_BYTES = 256 * 1024
# Of all headers of a part together; two short ones are usual.
_MAX_HEADER_BYTES = 16 * 1024


class FormFile(Protocol):
    """What the content of a file is added to."""

    def add(self, chunk: bytes) -> None:
        """Take bytes of the file."""


File = TypeVar("File", bound=FormFile)


class FormParts(Generic[File]):
    """What has been met so far of a form with at most one file; `write` raises InvalidForm."""

    def __init__(
        self,
        content_type: str,
        new_file: Callable[[str, str], File],
        *,
        file_fields: Sequence[str],
        text_fields: Sequence[str] = (),
        max_text_bytes: int = MAX_TEXT_BYTES,
    ) -> None:
        self.files: dict[str, File] = {}
        self.filenames: dict[str, str] = {}  # as the client calls them
        self._new_file = new_file  # given the field's name and the client's name of the file
        self._file_fields = tuple(file_fields)
        self._text_fields = tuple(text_fields)
        self._max_text_bytes = max_text_bytes
        self._is_complete = False
        self._num_header_bytes = 0
        self._disposition = b""
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._part: File | bytearray = bytearray()  # what the present part's content is added to
        self._texts: dict[str, bytearray] = {}
        self._parser = self._new_parser(content_type)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidForm(f"the form cannot be read: {error}") from error

    def finish(self, *, is_file_needed: bool = True) -> Mapping[str, str]:
        """Return the texts by their fields; raises InvalidForm for a form that breaks off or lacks its file."""
        # The parser takes a form that breaks off for one with fewer fields.
        if not self._is_complete:
            raise InvalidForm("the form breaks off: its closing boundary is missing")
        if is_file_needed and not self.files:
            wanted = " or ".join(repr(name) for name in self._file_fields)
            found = ", ".join(repr(name) for name in self._texts) or "none"
            raise InvalidForm(f"the form has no file field {wanted} (fields: {found})")
        try:
            return {name: content.decode() for name, content in self._texts.items()}
        except UnicodeDecodeError as error:
            raise InvalidForm(f"a text field of the form is not UTF-8: {error}") from error

    def _new_parser(self, content_type: str) -> MultipartParser:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise InvalidForm("the form has no boundary in its Content-Type; let the client's library set that header")
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._take_header(self._header_name, data[start:end]),
            "on_header_value": lambda data, start, end: self._take_header(self._header_value, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": lambda data, start, end: self._take_content(data[start:end]),
            "on_end": self._end,
        }
        try:
            return MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise InvalidForm(f"the form cannot be read: {error}") from error

    def _begin_part(self) -> None:
        self._disposition, self._num_header_bytes = b"", 0

    def _take_header(self, header: bytearray, content: bytes) -> None:
        self._num_header_bytes += len(content)
        if self._num_header_bytes > _MAX_HEADER_BYTES:
            raise InvalidForm(f"the headers of a part of the form have more than {_MAX_HEADER_BYTES:,} bytes")
        header += content

    def _end_header(self) -> None:
        # No other header of a part means anything here.
        if bytes(self._header_name).lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name, self._header_value = bytearray(), bytearray()

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise InvalidForm("a part of the form has no name in its Content-Disposition")
        name = options[b"name"].decode("utf-8", "replace")
        if name not in (*self._file_fields, *self._text_fields):
            known = ", ".join((*self._file_fields, *self._text_fields))
            raise InvalidForm(f"the form has an unknown field {name!r:.80}; fields are {known}")
        if name in self.files or name in self._texts:
            raise InvalidForm(f"the form has the field {name!r} twice")
        if b"filename" in options:
            self._begin_file(name, options[b"filename"].decode("utf-8", "replace"))
        elif name in self._file_fields:
            raise InvalidForm(
                f"the field {name!r} came as text, not as a file; with curl write -F {name}=@FILE, with the @"
            )
        else:
            self._part = self._texts[name] = bytearray()

    def _begin_file(self, name: str, filename: str) -> None:
        if name not in self._file_fields:
            raise InvalidForm(f"the field {name!r} came as a file, not as text; with curl write -F {name}=TEXT")
        if self.files:
            raise InvalidForm(f"the form has the files {next(iter(self.files))!r} and {name!r}; send one")
        self._part = self.files[name] = self._new_file(name, filename)
        self.filenames[name] = filename

    def _take_content(self, content: bytes) -> None:
        if not isinstance(self._part, bytearray):
            self._part.add(content)
            return
        if len(self._part) + len(content) > self._max_text_bytes:
            raise InvalidForm(f"a text field of the form has more than {self._max_text_bytes:,} bytes")
        self._part += content

    def _end(self) -> None:
        self._is_complete = True
