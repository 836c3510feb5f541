"""Multipart forms, parsed while they arrive: a part is checked before its content is received.

Starlette's `request.form()` is not used: it accepts truncated forms, receives a whole file before its field can be
refused, and writes files to /tmp.
"""

import codecs
import email.message
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.web.errors import InvalidForm

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_TEXT_BYTES = 256 * 1024
# RFC 2046 permits text before the first boundary.
_MAX_PREAMBLE_BYTES = 64 * 1024
# Enough to tell a file from text: image files and archives have other bytes within it.
_SAMPLE_BYTES = 64
# Tables that clients send without a file name, which tells how to read them.
_TABLE_NAMES = {
    "text/csv": "table.csv",
    "application/x-ndjson": "table.ndjson",
    "application/ndjson": "table.ndjson",
    "application/jsonl": "table.ndjson",
}
# Not codings: the bytes are sent as they are.
_TRANSFER_ENCODINGS = frozenset({"", "7bit", "8bit", "binary"})


class FormFile(Protocol):
    """Receives the content of a file."""

    def add(self, chunk: bytes) -> None:
        """Append bytes of the file."""


File = TypeVar("File", bound=FormFile)


class FormParts(Generic[File]):
    """The parts received so far of a form with one file.

    A part is a file if it has a file name, the content type of a file, or content that is not text. The parser limits
    the number and the length of the headers of a part.
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
        self._part = _Part()
        self._header_name = bytearray()
        self._header_value = bytearray()
        # Receives the content of the current part; None until a sample of it shows whether it is a file.
        self._content: File | bytearray | None = None
        self._sample = bytearray()
        self._texts: dict[str, tuple[bytearray, str]] = {}  # content and encoding
        self._delimiter = b"--" + _boundary_of(content_type)
        self._preamble: bytearray | None = bytearray()
        self._parser = self._new_parser(self._delimiter[2:])

    def write(self, chunk: bytes) -> None:
        """Parse the next bytes of the body; raises InvalidForm."""
        if self._preamble is not None:
            self._preamble += chunk
            start = _find_line(self._preamble, self._delimiter)
            if start is None:
                if len(self._preamble) > _MAX_PREAMBLE_BYTES:
                    raise _no_boundary()
                return
            chunk, self._preamble = bytes(self._preamble[start:]), None
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidForm(
                "the form cannot be read: a boundary or a header of a part is malformed or too long (each line ends "
                "with CR LF)"
            ) from error

    def finish(self) -> Mapping[str, str]:
        """Return the text fields by name; raises InvalidForm if the form is truncated or has no file."""
        if self._preamble is not None and not self._delimiter.startswith(bytes(self._preamble)):
            raise _no_boundary()
        # The parser's own finalize() does not check this.
        if not self._is_complete:
            raise InvalidForm("the form is truncated: its closing boundary is missing")
        if not self.files:
            found = ", ".join(repr(name) for name in self._texts) or "none"
            raise InvalidForm(f"the form has no file field {self._wanted_fields()} (fields: {found})")
        return {name: _decoded(name, bytes(content), charset) for name, (content, charset) in self._texts.items()}

    def _wanted_fields(self) -> str:
        return " or ".join(repr(name) for name in self._file_fields)

    def _new_parser(self, boundary: bytes) -> MultipartParser:
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": lambda data, start, end: self._add_content(data[start:end]),
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        try:
            return MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise InvalidForm("the form cannot be read: the boundary in its Content-Type is too long") from error

    def _begin_part(self) -> None:
        self._part = _Part()

    def _end_header(self) -> None:
        name = bytes(self._header_name).decode("latin-1").strip().lower()
        self._part.headers[name] = bytes(self._header_value)
        self._header_name, self._header_value = bytearray(), bytearray()

    def _begin_content(self) -> None:
        part = self._part
        name = part.read_headers()
        self._content = None
        self._sample = bytearray()
        if name not in (*self._file_fields, *self._text_fields):
            known = ", ".join((*self._file_fields, *self._text_fields))
            hint = f"; the file belongs in the field {self._wanted_fields()}" if part.is_declared_file else ""
            raise InvalidForm(f"the form has an unknown field {name!r:.80}; supported are {known}{hint}")
        if name in self.files or name in self._texts:
            raise InvalidForm(f"the form has the field {name!r} twice")
        if name in self._file_fields:
            if part.is_declared_file:
                self._begin_file()
        # Programs that build forms from objects give texts a file name too, such as "blob".
        elif part.is_declared_file and not part.has_text_type:
            raise InvalidForm(
                f"the field {name!r} is a file and must be text; with curl use -F {name}=TEXT; other clients: send the "
                "part without a file name"
            )
        else:
            self._content = bytearray()
            self._texts[name] = self._content, part.charset

    def _begin_file(self) -> File:
        name = self._part.name
        if self.files:
            raise InvalidForm(f"the form has two files, {next(iter(self.files))!r} and {name!r}; send one")
        self._content = self.files[name] = file = self._new_file(
            name, self._part.filename or _TABLE_NAMES.get(self._part.media_type, "")
        )
        return file

    def _add_content(self, content: bytes) -> None:
        if self._content is None:
            self._sample += content
            if len(self._sample) >= _SAMPLE_BYTES:
                self._decide_on_sample()
        elif not isinstance(self._content, bytearray):
            self._content.add(content)
        elif len(self._content) + len(content) > self._max_text_bytes:
            raise InvalidForm(f"a text field of the form has more than {self._max_text_bytes:,} bytes")
        else:
            self._content += content

    def _decide_on_sample(self) -> None:
        """Begin the file of a part without a file name, unless its content is text."""
        name = self._part.name
        if _is_text(bytes(self._sample[:_SAMPLE_BYTES])):
            raise InvalidForm(
                f"the field {name!r} is text and must be a file; with curl use -F {name}=@FILE, including the @; other "
                "clients: send the bytes of the file, with a file name in the Content-Disposition of the part"
            )
        self._begin_file().add(bytes(self._sample))

    def _end_part(self) -> None:
        if self._content is None:
            self._decide_on_sample()

    def _end(self) -> None:
        self._is_complete = True


class _Part:
    """The headers of a part."""

    def __init__(self) -> None:
        self.headers: dict[str, bytes] = {}
        self.name = ""
        self.filename: str | None = None
        self.media_type = ""
        self.charset = "utf-8"

    @property
    def has_text_type(self) -> bool:
        """Whether the content type is that of a text, such as the JSON of a field."""
        is_text = self.media_type.startswith("text/") or self.media_type == "application/json"
        return is_text and self.media_type not in _TABLE_NAMES

    @property
    def is_declared_file(self) -> bool:
        """Whether the headers alone show that the part is a file."""
        return self.filename is not None or (self.media_type != "" and not self.has_text_type)

    def read_headers(self) -> str:
        """Read the headers; return the name of the field. Raises InvalidForm."""
        disposition = self.headers.get("content-disposition", b"")
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise InvalidForm("a part of the form has no name in its Content-Disposition")
        self.name = options[b"name"].decode("utf-8", "replace")
        self.filename = _filename_of(disposition, options)
        media_type, type_options = parse_options_header(self.headers.get("content-type", b""))
        self.media_type = media_type.decode("latin-1")
        self.charset = type_options.get(b"charset", b"utf-8").decode("latin-1")
        for header, allowed in (
            ("content-transfer-encoding", _TRANSFER_ENCODINGS),
            ("content-encoding", {"", "identity"}),
        ):
            value = self.headers.get(header, b"").decode("latin-1").strip().lower()
            if value not in allowed:
                raise InvalidForm(
                    f"the field {self.name!r:.80} has the {header.title()} {value!r:.40}, which is not supported in a "
                    "form; send the bytes as they are"
                )
        return self.name


def _boundary_of(content_type: str) -> bytes:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise InvalidForm("the form has no boundary in its Content-Type; let the client's HTTP library set this header")
    return boundary


def _no_boundary() -> InvalidForm:
    return InvalidForm("the form cannot be read: it does not contain the boundary that its Content-Type names")


def _find_line(content: bytearray, beginning: bytes) -> int | None:
    """Return the position of the first line that begins so."""
    if content.startswith(beginning):
        return 0
    position = content.find(b"\n" + beginning)
    return None if position < 0 else position + 1


def _filename_of(disposition: bytes, options: Mapping[bytes, bytes]) -> str | None:
    """Return the file name of a part, from `filename*` (RFC 5987) if it has no other."""
    if b"filename" in options:
        return options[b"filename"].decode("utf-8", "replace")
    if b"*" not in disposition:
        return None
    message = email.message.Message()
    message["Content-Disposition"] = disposition.decode("latin-1")
    return message.get_filename()


def _is_text(sample: bytes) -> bool:
    try:
        # The sample may end within a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n" for character in text)


def _decoded(name: str, content: bytes, charset: str) -> str:
    try:
        return content.decode(charset)
    except (UnicodeDecodeError, LookupError):
        shown = "UTF-8" if charset.lower() == "utf-8" else f"{charset!r:.40}, which its part declares"
        raise InvalidForm(f"the text field {name!r} of the form is not {shown}; send UTF-8") from None
