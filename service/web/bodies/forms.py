"""Multipart forms, parsed while they arrive: a part is checked before its content is received.

Starlette's `request.form()` is not used: it accepts truncated forms, receives a whole file before its field can be
refused, and writes files to /tmp.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.web.errors import InvalidForm

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_TEXT_BYTES = 256 * 1024


class FormFile(Protocol):
    """Receives the content of a file."""

    def add(self, chunk: bytes) -> None:
        """Append bytes of the file."""


File = TypeVar("File", bound=FormFile)


class FormParts(Generic[File]):
    """The parts received so far of a form with one file.

    The parser limits the number and the length of the headers of a part.
    """

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
        self._new_file = new_file  # called with the name of the field and the client's file name
        self._file_fields = tuple(file_fields)
        self._text_fields = tuple(text_fields)
        self._max_text_bytes = max_text_bytes
        self._is_complete = False
        self._disposition = b""
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._part: File | bytearray = bytearray()  # receives the content of the current part
        self._texts: dict[str, bytearray] = {}
        self._parser = self._new_parser(content_type)

    def write(self, chunk: bytes) -> None:
        """Parse the next bytes of the body; raises InvalidForm."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidForm(f"the form cannot be read: {error}") from error

    def finish(self) -> Mapping[str, str]:
        """Return the text fields by name; raises InvalidForm if the form is truncated or has no file."""
        # The parser's own finalize() does not check this.
        if not self._is_complete:
            raise InvalidForm("the form is truncated: its closing boundary is missing")
        if not self.files:
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
            raise InvalidForm(
                "the form has no boundary in its Content-Type; let the client's HTTP library set this header"
            )
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": lambda data, start, end: self._add_content(data[start:end]),
            "on_end": self._end,
        }
        try:
            return MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise InvalidForm(f"the form cannot be read: {error}") from error

    def _begin_part(self) -> None:
        self._disposition = b""

    def _end_header(self) -> None:
        # Other headers of a part are ignored.
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
            raise InvalidForm(f"the form has an unknown field {name!r:.80}; supported are {known}")
        if name in self.files or name in self._texts:
            raise InvalidForm(f"the form has the field {name!r} twice")
        if b"filename" in options:
            self._begin_file(name, options[b"filename"].decode("utf-8", "replace"))
        elif name in self._file_fields:
            raise InvalidForm(
                f"the field {name!r} is text and must be a file; with curl use -F {name}=@FILE, including the @"
            )
        else:
            self._part = self._texts[name] = bytearray()

    def _begin_file(self, name: str, filename: str) -> None:
        if name not in self._file_fields:
            raise InvalidForm(f"the field {name!r} is a file and must be text; with curl use -F {name}=TEXT")
        if self.files:
            raise InvalidForm(f"the form has two files, {next(iter(self.files))!r} and {name!r}; send one")
        self._part = self.files[name] = self._new_file(name, filename)

    def _add_content(self, content: bytes) -> None:
        if not isinstance(self._part, bytearray):
            self._part.add(content)
            return
        if len(self._part) + len(content) > self._max_text_bytes:
            raise InvalidForm(f"a text field of the form has more than {self._max_text_bytes:,} bytes")
        self._part += content

    def _end(self) -> None:
        self._is_complete = True
