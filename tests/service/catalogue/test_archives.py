"""Untrusted archives: nothing outside of the folder, nothing beyond the limits, nothing left after a failure."""

import io
import random
import stat
import struct
import tracemalloc
import zipfile
from pathlib import PurePosixPath

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.catalogue import archives
from service.catalogue.archives import check, unpack
from service.catalogue.errors import InvalidArchive
from tests.images import png


def write_zip(path, files, *, compression=zipfile.ZIP_DEFLATED):
    """Write an archive of names (or ZipInfos) and contents."""
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            if not isinstance(name, zipfile.ZipInfo):
                info.compress_type = compression
            opened.writestr(info, content)
    return path


def entry(name, mode=stat.S_IFREG | 0o644):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def assert_refused(archive, tmp_path, message, **limits):
    """Assert that both the check and the unpacking refuse an archive, and that nothing remains."""
    before = sorted(tmp_path.rglob("*"))
    limits = {"max_bytes": 10_000_000, **limits}
    with pytest.raises(InvalidArchive, match=message):
        check(archive, **limits)
    with pytest.raises(InvalidArchive, match=message):
        unpack(archive, tmp_path / "into", **limits)
    assert sorted(tmp_path.rglob("*")) == before


def test_unpacks_files_and_folders(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"shop/": b"", "shop/a/ä.png": png("red"), "./b//c.csv": b"x"})

    done = unpack(archive, tmp_path / "into", max_bytes=10_000)

    assert (done.num_files, done.left_out) == (2, ())
    assert (tmp_path / "into" / "shop" / "a" / "ä.png").read_bytes() == png("red")
    assert (tmp_path / "into" / "b" / "c.csv").read_bytes() == b"x"
    assert check(archive, max_bytes=10_000) == 2


def test_an_empty_archive_gives_an_empty_folder(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {})

    assert unpack(archive, tmp_path / "into", max_bytes=10).num_files == 0
    assert list((tmp_path / "into").iterdir()) == []


def test_unpacked_files_are_not_executable(tmp_path):
    archive = write_zip(
        tmp_path / "a.zip", [(entry("a.sh", stat.S_IFREG | 0o4777), b"x"), (entry("b", stat.S_IFREG), b"y")]
    )

    unpack(archive, tmp_path / "into", max_bytes=10)

    assert {path.stat().st_mode & 0o7111 for path in (tmp_path / "into").iterdir()} == {0}


def test_nested_archives_and_junk_are_left_out_and_named(tmp_path):
    """Junk is dropped before any other check: its names would be refused, and a link would be too."""
    junk = ["a/Icon\r", "__MACOSX/a/._Icon\r", "__MACOSX/a/._x.png", "a/.ds_store", "a/THUMBS.DB", "@eaDir/z/1.png"]
    files = {**dict.fromkeys(junk, b"x"), entry(".git/link", stat.S_IFLNK | 0o777): b"x", "__MACOSX/": b""}
    files |= dict.fromkeys(["a/b.zip", "a/c.tar.gz", "a/z.png"], b"x")
    archive = write_zip(tmp_path / "a.zip", files)

    done = unpack(archive, tmp_path / "into", max_bytes=100)

    first, *nested = done.left_out
    assert first == (
        "8 system files",
        r"operating systems and programs leave them beside images; the first is 'a/Icon\r'",
    )
    assert [name for name, _ in nested] == ["a/b.zip", "a/c.tar.gz"]
    assert "unpack it, and pack its files" in nested[0][1]
    assert [path.name for path in (tmp_path / "into").rglob("*") if path.is_file()] == ["z.png"]
    assert done.num_files == check(archive, max_bytes=100) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil.png", r'leads out of the archive with "\.\."'),
        ("a/../../evil.png", "leads out"),
        ("..", "leads out"),
        ("/etc/cron.d/evil", "absolute name"),
        ("C:/evil.png", "absolute name"),
        ("c:evil.png", "absolute name"),
        ("a\\..\\..\\evil.png", "leads out"),
        ("\\etc\\evil.png", "absolute name"),
        ("C:\\evil.png", "absolute name"),
        ("a" * 256 + ".png", "longer than 255 bytes"),
        ("ä" * 128, "longer than 255 bytes"),
        ("a/" * 600 + "b", "1024 bytes including its folders"),
        ("a\nb.png", "control characters"),
        ("a\x1b[31m.png", "control characters"),
        (".", "no name"),
        (entry("x", stat.S_IFLNK | 0o777), "is a link"),
        (entry("x", stat.S_IFCHR | 0o666), "a device or a pipe"),
        (entry("x", stat.S_IFIFO | 0o666), "a device or a pipe"),
        ("good.png/x.png", "'good.png' as both a file and a folder"),
        ("./good.png", "twice"),
    ],
)
def test_an_unsafe_entry_is_refused(tmp_path, name, message):
    archive = write_zip(tmp_path / "a.zip", [("good.png", b"x"), (name, b"evil")])

    assert_refused(archive, tmp_path, message)


def test_a_name_with_a_nul_is_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"evilX.png": b"x"})
    # zipfile would not write such a name.
    archive.write_bytes(archive.read_bytes().replace(b"evilX.png", b"evil\0.png"))

    assert_refused(archive, tmp_path, "NUL")


def test_unusual_but_safe_names_are_accepted(tmp_path):
    names = ["Bildschirmfoto um 3.04\u202fPM.png", "a b.png", "…/🍏.png", "..a/b..png", "C.png", ":b.png"]
    archive = write_zip(tmp_path / "a.zip", dict.fromkeys(names, b"x"))

    assert unpack(archive, tmp_path / "into", max_bytes=100).num_files == len(names)


def test_names_that_collide_on_a_case_insensitive_disk_are_refused(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", {"a/x.png": b"1", "A/X.png": b"2"})
    entries = archives._entries

    def entries_in_lower_case(*arguments):
        found, ignored = entries(*arguments)
        return [archives._Entry(entry.info, PurePosixPath(str(entry.path).lower())) for entry in found], ignored

    monkeypatch.setattr(archives, "_entries", entries_in_lower_case)

    with pytest.raises(InvalidArchive, match="the same name as another entry except for case"):
        unpack(archive, tmp_path / "into", max_bytes=100)
    assert not (tmp_path / "into").exists()


def test_encrypted_entries_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"x.png": b"1"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)

    assert_refused(path, tmp_path, "encrypted; pack the archive without a password")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unbounded_compression_methods_are_refused(tmp_path, method):
    archive = write_zip(tmp_path / "a.zip", {"x.png": b"1" * 1000}, compression=method)

    assert_refused(archive, tmp_path, "pack it with deflate")


def test_too_many_bytes_or_entries_are_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {f"{n}.png": b"x" * 1000 for n in range(11)})

    assert_refused(archive, tmp_path, "more than 10,999 bytes", max_bytes=10_999)
    assert_refused(archive, tmp_path, "more than 10 entries", max_entries=10)
    assert check(archive, max_bytes=11_000, max_entries=11) == 11


def test_a_directory_with_too_many_entries_is_refused_before_it_is_parsed(tmp_path):
    """Parsing would create an object of hundreds of bytes for each entry of 47 bytes."""
    path = tmp_path / "a.zip"
    one = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    size = 250_000 * len(one)
    path.write_bytes(250_000 * one + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, size, 0, 0))
    tracemalloc.start()

    with pytest.raises(InvalidArchive, match="more than 200,000 entries"):
        check(path, max_bytes=1000)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * size


def test_a_directory_too_large_for_memory_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_DIRECTORY_BYTES", 66_000)
    archive = write_zip(tmp_path / "a.zip", {f"{'x' * 200}{n}.png": b"" for n in range(400)})

    assert_refused(archive, tmp_path, "the archive's directory has")


@pytest.mark.parametrize(
    ("num_files", "num_bytes", "message"),
    [(1, 20_000_000, "'0.png' unpacks from .* more than 100 times as many"), (20, 1_000_000, "the archive as a whole")],
    ids=["one entry", "many small entries"],
)
def test_a_zip_bomb_is_refused_before_anything_is_written(tmp_path, num_files, num_bytes, message):
    archive = write_zip(tmp_path / "bomb.zip", {f"{n}.png": b"\0" * num_bytes for n in range(num_files)})

    assert_refused(archive, tmp_path, message, max_bytes=100_000_000)


def test_a_small_file_may_have_any_compression_ratio(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"one-colour.bmp": b"\0" * 3_000_000})

    assert check(archive, max_bytes=10_000_000) == 1


def test_overlapping_entries_are_refused(tmp_path):
    """A zip bomb whose entries all refer to the same compressed data."""
    archive = write_zip(tmp_path / "a.zip", {"a.png": random.Random(0).randbytes(2000)}, compression=zipfile.ZIP_STORED)
    content = archive.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    one = content[start:end]
    many = b"".join(one.replace(b"a.png", b"%c.png" % (97 + n)) for n in range(20))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 20, 20, len(many), start, 0)
    archive.write_bytes(content[:start] + many + tail)

    assert_refused(archive, tmp_path, "overlap")


@pytest.mark.parametrize("declared", [10, 5000])
def test_an_entry_of_another_size_than_it_declares_is_refused(tmp_path, declared):
    archive = write_zip(tmp_path / "a.zip", {"good.png": b"g", "liar.png": b"x" * 1000})
    content = bytearray(archive.read_bytes())
    position = content.rindex(b"PK\x01\x02")
    content[position + 24 : position + 28] = struct.pack("<I", declared)
    archive.write_bytes(content)

    with pytest.raises(InvalidArchive, match=r"'liar\.png'"):
        unpack(archive, tmp_path / "into", max_bytes=10_000_000)

    assert not (tmp_path / "into").exists()


def test_a_damaged_entry_is_named_and_nothing_remains(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"a.png": png("red"), "b.png": b"y" * 500}, compression=zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    content[content.index(b"y" * 500) + 100] ^= 1
    archive.write_bytes(content)

    with pytest.raises(InvalidArchive, match=r"'b\.png' is damaged.*pack and send it again"):
        unpack(archive, tmp_path / "into", max_bytes=10_000)

    assert not (tmp_path / "into").exists()


def test_of_a_file_over_the_limit_only_the_beginning_is_written(tmp_path):
    """Its reader still sees what it is, and how long; tables may have any length."""
    content = b"\xff\xd8" + random.Random(0).randbytes(100_000)
    archive = write_zip(tmp_path / "a.zip", {"big.jfif": content, "big.csv": content, "small.jpg": b"y"})

    done = unpack(archive, tmp_path / "into", max_bytes=300_000, max_image_bytes=1000)

    assert done.num_files == 3
    assert (tmp_path / "into" / "big.jfif").read_bytes() == content[:65_536] + bytes(len(content) - 65_536)
    assert (tmp_path / "into" / "big.csv").read_bytes() == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08\x00rest", r"gzip .*only zip archives are supported: pack the folder as a zip archive: zip -r"),
        (b"Rar!\x1a\x07", "a RAR archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (png("red"), "a PNG image"),
        (b"product_id,image\n", "not an archive"),
        (b"", "not an archive"),
        (b"PK\x03\x04cut off", "damaged or truncated"),
    ],
)
def test_a_file_of_another_format_is_refused_by_the_name_of_its_format(tmp_path, content, message):
    (tmp_path / "a.zip").write_bytes(content)

    assert_refused(tmp_path / "a.zip", tmp_path, message)


def test_a_truncated_archive_is_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"a.png": png("red"), "b.png": png("blue")})
    whole = archive.read_bytes()
    for length in range(4, len(whole), 23):
        archive.write_bytes(whole[:length])

        assert_refused(archive, tmp_path, "damaged or truncated")


def test_nothing_is_left_when_the_disk_is_full(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", {"a.png": b"1", "b.png": b"2"})

    def content_on_full_disk(opened, info):
        yield b"1"
        if info.filename == "b.png":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_content_of", content_on_full_disk)

    with pytest.raises(OSError, match="No space left"):
        unpack(archive, tmp_path / "into", max_bytes=100)

    assert not (tmp_path / "into").exists()


def outcome_of(archive, into, **limits):
    """Return the number of unpacked files, and the message if the archive is refused."""
    try:
        return unpack(archive, into, **limits).num_files, ""
    except InvalidArchive as error:
        return 0, str(error)


def sample():
    buffer = io.BytesIO()
    write_zip(buffer, {"a/": b"", "a/x.png": b"x" * 300, "b/y.csv": b"y,z\n" * 20, "c.txt": b"z"})
    return buffer.getvalue()


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, len(sample()) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.one_of(st.none(), st.integers(0, len(sample()))),
)
def test_a_corrupted_archive_is_refused_or_unpacked_completely(tmp_path_factory, changes, cut):
    """Fuzz: any byte of an archive may change; the outcome is files inside the folder, or InvalidArchive."""
    root = tmp_path_factory.mktemp("fuzz")
    content = bytearray(sample())
    for position, value in changes:
        content[position] = value
    (root / "a.zip").write_bytes(content[:cut])
    into = root / "deep" / "into"

    num_files, message = outcome_of(root / "a.zip", into, max_bytes=5000, max_entries=10)

    assert message.isprintable()
    assert into.exists() == (message == "")
    assert len([path for path in into.rglob("*") if path.is_file()]) == num_files
    assert {path.name for path in root.iterdir()} <= {"a.zip", "deep"}


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(name="\0")
@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30) | st.from_regex(r"(\.\.|/|\\|a|:|\.){1,8}"))
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name):
    root = tmp_path_factory.mktemp("names")
    write_zip(root / "a.zip", {name: b"content"})

    _, message = outcome_of(root / "a.zip", root / "into", max_bytes=100)

    assert message.isprintable()
    assert (root / "into").exists() == (message == "")
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "a.zip"]
    assert all(path.is_relative_to(root / "into") for path in files)
    assert {path.name for path in root.iterdir()} <= {"a.zip", "into"}
