"""Names of zip entries: read in the encoding that the archive states, in one normal form, or refused."""

import stat
import struct
import zipfile
import zlib

import pytest

from service.catalogue.archives import check, unpack
from service.catalogue.errors import InvalidArchive

KAESE_NFD = "Ka\u0308se/\u304b\u3099.png"
KAESE_NFC = "K\u00e4se/\u304c.png"
UTF8_FLAG = 0x0800


def unicode_path(name, *, of, version=1):
    """Return the extra field that Info-ZIP writes for the name `of` in the directory."""
    content = struct.pack("<BI", version, zlib.crc32(of)) + name.encode()
    return struct.pack("<HH", 0x7075, len(content)) + content


def write_raw(path, *entries):
    """Write an archive of (bytes of the name, flag, extra field); zipfile itself would choose the encoding."""
    with zipfile.ZipFile(path, "w") as opened:
        for number, (name, _, extra) in enumerate(entries):
            info = zipfile.ZipInfo(str(number % 10) * len(name))
            info.extra = extra
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            opened.writestr(info, b"x")
    content = bytearray(path.read_bytes())
    for number, (name, flag, _) in enumerate(entries):
        written = (str(number % 10) * len(name)).encode()
        for signature, flags_at, name_at in ((b"PK\3\4", 6, 30), (b"PK\1\2", 8, 46)):
            start = content.index(signature)
            while content[start + name_at : start + name_at + len(name)] != written:
                start = content.index(signature, start + 1)
            content[start + flags_at + 1] |= flag >> 8
            content[start + name_at : start + name_at + len(name)] = name
    path.write_bytes(content)
    return path


def files_of(tmp_path, *entries):
    """Unpack an archive; return the paths of its files."""
    archive = write_raw(tmp_path / "a.zip", *entries)
    done = unpack(archive, tmp_path / "into", max_bytes=1000)
    files = [str(p.relative_to(tmp_path / "into")) for p in (tmp_path / "into").rglob("*") if p.is_file()]
    assert done.num_files == len(files) == check(archive, max_bytes=1000)
    return sorted(files)


@pytest.mark.parametrize(
    ("name", "flag", "extra"),
    [
        (KAESE_NFC.encode(), UTF8_FLAG, b""),
        (KAESE_NFD.encode(), UTF8_FLAG, b""),
        (KAESE_NFC.encode(), 0, b""),
        (KAESE_NFD.encode(), 0, b""),
        (b"K\x84se/?.png", 0, unicode_path(KAESE_NFC, of=b"K\x84se/?.png")),
        (b"K\xe4se/?.png", 0, struct.pack("<HH", 0x5455, 1) + b"\3" + unicode_path(KAESE_NFD, of=b"K\xe4se/?.png")),
        (b"K\x84se\\?.png", 0, unicode_path(KAESE_NFC.replace("/", "\\"), of=b"K\x84se\\?.png")),
    ],
    ids=["flag", "flag, NFD", "zip -r", "macOS", "unicode path", "unicode path, NFD", "backslash"],
)
def test_a_name_in_a_stated_encoding_is_unpacked_in_normal_form(tmp_path, name, flag, extra):
    assert files_of(tmp_path, (name, flag, extra)) == [KAESE_NFC]


@pytest.mark.parametrize(
    ("name", "flag", "extra", "message"),
    [
        (
            b"K\x84se/a.png",
            0,
            b"",
            r"'K\\x84se/a.png' has a name in an unknown encoding; pack .*7-Zip: parameter cu=on",
        ),
        (b"K\xe4se/a.png", 0, b"", r"'K\\xe4se/a.png' has a name in an unknown encoding"),
        (b"K\x84se.png", 0, unicode_path("x.png", of=b"renamed"), "unknown encoding"),
        (b"K\x84se.png", 0, unicode_path("x.png", of=b"K\x84se.png", version=2), "unknown encoding"),
        (b"K\x84se.png", 0, unicode_path("x.png", of=b"K\x84se.png")[:-3], "unknown encoding|damaged"),
        (b"K\xe4se.png", UTF8_FLAG, b"", r"'K\\xe4se.png' has a name that is marked as UTF-8 and is not"),
        (b"K\x84se.png", 0, unicode_path("../x.png", of=b"K\x84se.png"), "leads out"),
        (b"a.png", 0, unicode_path("/etc/x.png", of=b"a.png"), "absolute name"),
    ],
    ids=["cp437", "cp1252", "stale field", "version", "cut field", "not UTF-8", "leads out", "absolute"],
)
def test_a_name_in_another_encoding_is_refused(tmp_path, name, flag, extra, message):
    archive = write_raw(tmp_path / "a.zip", (name, flag, extra))

    with pytest.raises(InvalidArchive, match=message):
        unpack(archive, tmp_path / "into", max_bytes=1000)

    assert not (tmp_path / "into").exists()


def test_two_names_that_look_the_same_are_refused_and_both_are_shown(tmp_path):
    archive = write_raw(tmp_path / "a.zip", (KAESE_NFC.encode(), 0, b""), (KAESE_NFD.encode(), 0, b""))

    with pytest.raises(InvalidArchive, match=r"K\\xe4se/\\u304c.png' and 'Ka\\u0308se/\\u304b\\u3099.png'"):
        check(archive, max_bytes=1000)


def test_junk_with_an_unknown_encoding_is_left_out(tmp_path):
    assert files_of(tmp_path, (b"__MACOSX/K\x84se/._a.png", 0, b""), (b"a.png", 0, b"")) == ["a.png"]


def test_backslashes_separate_folders(tmp_path):
    assert files_of(tmp_path, (b"shop\\mug\\a.png", 0, b""), (b"shop/mug/b.png", 0, b"")) == [
        "shop/mug/a.png",
        "shop/mug/b.png",
    ]


def test_an_entry_that_ends_in_a_backslash_is_a_folder(tmp_path):
    archive = write_raw(tmp_path / "a.zip", (b"shop\\", 0, b""), (b"shop\\a.png", 0, b""))

    assert check(archive, max_bytes=1000) == 1
