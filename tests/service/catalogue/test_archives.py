"""Archives from strangers: nothing outside of the folder, nothing beyond the limits, nothing left after a failure."""

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


def raw_name(path, old, new):
    """Replace a name by one that zipfile would not write."""
    assert len(old) == len(new)
    content = path.read_bytes()
    assert content.count(old) == 2
    path.write_bytes(content.replace(old, new))
    return path


def refused(archive, tmp_path, message, **options):
    """Assert that both the check and the unpacking refuse an archive, and that nothing remains."""
    before = sorted(tmp_path.rglob("*"))
    limits = {"max_bytes": 10_000_000, **options}
    with pytest.raises(InvalidArchive, match=message):
        check(archive, **limits)
    with pytest.raises(InvalidArchive, match=message):
        unpack(archive, tmp_path / "into", **limits)
    assert sorted(tmp_path.rglob("*")) == before


def test_unpacks_files_and_folders(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"shop/": b"", "shop/a/ä.png": png("red"), "./b//c.csv": b"x"})

    done = unpack(archive, tmp_path / "into", max_bytes=10_000)

    assert (done.num_files, done.ignored) == (2, ())
    assert (tmp_path / "into" / "shop" / "a" / "ä.png").read_bytes() == png("red")
    assert (tmp_path / "into" / "b" / "c.csv").read_bytes() == b"x"
    assert check(archive, max_bytes=10_000) == 2


def test_an_archive_with_nothing_in_it_gives_an_empty_folder(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {})

    assert unpack(archive, tmp_path / "into", max_bytes=10).num_files == 0
    assert list((tmp_path / "into").iterdir()) == []


def test_nothing_unpacked_is_executable_or_hidden_from_its_owner(tmp_path):
    archive = write_zip(
        tmp_path / "a.zip", [(entry("a.sh", stat.S_IFREG | 0o4777), b"x"), (entry("b", 0o100000), b"y")]
    )

    unpack(archive, tmp_path / "into", max_bytes=10)

    assert {path.stat().st_mode & 0o7111 for path in (tmp_path / "into").iterdir()} == {0}


def test_nested_archives_and_what_systems_add_are_left_out(tmp_path):
    files = ["a/b.zip", "a/c.tar.gz", "__MACOSX/a/._x.png", "a/.DS_Store", "a/._y.png", "a/Thumbs.db", "a/z.png"]
    archive = write_zip(tmp_path / "a.zip", dict.fromkeys(files, b"x"))

    done = unpack(archive, tmp_path / "into", max_bytes=100)

    assert done.num_files == 1
    assert set(done.ignored) == set(files[:-1])
    assert [path.name for path in (tmp_path / "into").rglob("*") if path.is_file()] == ["z.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil.png", r'leads out of the archive by "\.\."'),
        ("a/../../evil.png", "leads out"),
        ("..", "leads out"),
        ("/etc/cron.d/evil", "absolute name"),
        ("C:/evil.png", "absolute name"),
        ("c:evil.png", "absolute name"),
        ("a\\..\\evil.png", "backslash"),
        ("\\\\server\\evil.png", "backslash"),
        ("a" * 256 + ".png", "more than 255 bytes"),
        ("ä" * 128, "more than 255 bytes"),
        ("a/" * 600 + "b", "of 1024 with its folders"),
        ("a\nb.png", "control characters"),
        ("a\x1b[31m.png", "control characters"),
        (".", "no name"),
    ],
)
def test_a_name_that_leads_astray_is_refused(tmp_path, name, message):
    archive = write_zip(tmp_path / "a.zip", {"good.png": b"x", name: b"evil"})

    refused(archive, tmp_path, message)


def test_a_name_with_a_nul_is_refused(tmp_path):
    archive = raw_name(write_zip(tmp_path / "a.zip", {"evilX.png": b"x"}), b"evilX.png", b"evil\0.png")

    refused(archive, tmp_path, "NUL")


def test_odd_but_harmless_names_are_taken(tmp_path):
    names = ["Bildschirmfoto um 3.04\u202fPM.png", "a b.png", "…/🍏.png", "..a/b..png", "C.png", "a:b.png"[1:]]
    archive = write_zip(tmp_path / "a.zip", dict.fromkeys(names, b"x"))

    assert unpack(archive, tmp_path / "into", max_bytes=100).num_files == len(names)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (stat.S_IFLNK | 0o777, "is a link"),
        (stat.S_IFCHR | 0o666, "a device or a pipe"),
        (stat.S_IFBLK | 0o666, "a device or a pipe"),
        (stat.S_IFIFO | 0o666, "a device or a pipe"),
        (stat.S_IFSOCK | 0o666, "a device or a pipe"),
    ],
)
def test_links_and_devices_are_refused(tmp_path, mode, message):
    archive = write_zip(tmp_path / "a.zip", [(entry("x", mode), b"/etc/passwd"), (entry("x/y.png"), b"x")])

    refused(archive, tmp_path, message)


def test_two_entries_of_one_name_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        archive = write_zip(tmp_path / "a.zip", [("a/x.png", b"1"), ("a/x.png", b"2")])
    refused(archive, tmp_path, "holds 'a/x.png' twice")

    other = write_zip(tmp_path / "b.zip", [("a/x.png", b"1"), ("a/./x.png", b"2")])
    refused(other, tmp_path, "twice")


def test_a_file_that_is_a_folder_too_is_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"a": b"1", "a/x.png": b"2"})

    refused(archive, tmp_path, "'a' as a file and as a folder")


def test_names_that_a_disk_takes_for_one_are_refused(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", {"a/x.png": b"1", "A/X.png": b"2"})
    entries = archives._entries

    def as_on_a_disk_that_ignores_case(*arguments):
        found, ignored = entries(*arguments)
        return [archives._Entry(entry.info, PurePosixPath(str(entry.path).lower())) for entry in found], ignored

    monkeypatch.setattr(archives, "_entries", as_on_a_disk_that_ignores_case)

    with pytest.raises(InvalidArchive, match="the name of another, but for its case"):
        unpack(archive, tmp_path / "into", max_bytes=100)
    assert not (tmp_path / "into").exists()


def test_encrypted_entries_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"x.png": b"1"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)

    refused(path, tmp_path, "encrypted; pack the archive without a password")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_without_a_bound_is_refused(tmp_path, method):
    archive = write_zip(tmp_path / "a.zip", {"x.png": b"1" * 1000}, compression=method)

    refused(archive, tmp_path, "pack it with deflate")


def test_more_bytes_than_allowed_are_refused_before_any_is_written(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {f"{n}.png": b"x" * 1000 for n in range(11)})

    refused(archive, tmp_path, "more than 10,000 bytes", max_bytes=10_000)
    assert check(archive, max_bytes=11_000) == 11


def test_more_entries_than_allowed_are_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {f"{n}.png": b"" for n in range(11)})

    refused(archive, tmp_path, "more than 10 entries", max_entries=10)
    assert check(archive, max_bytes=1, max_entries=11) == 11


def test_a_directory_of_very_many_entries_is_refused_in_little_memory(tmp_path):
    """Two million entries of 47 bytes would become gigabytes of objects if they were read first."""
    path = tmp_path / "a.zip"
    one = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    number = 2_000_000
    with path.open("wb") as file:
        for _ in range(20):
            file.write(one * (number // 20))
        size = file.tell()
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, size, 0, 0))
    tracemalloc.start()

    with pytest.raises(InvalidArchive, match="more than 200,000 entries"):
        check(path, max_bytes=1000)

    assert tracemalloc.get_traced_memory()[1] < 2.5 * size
    tracemalloc.stop()


def test_a_directory_too_large_to_be_held_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_DIRECTORY_BYTES", 66_000)
    archive = write_zip(tmp_path / "a.zip", {f"{'x' * 200}{n}.png": b"" for n in range(400)})

    refused(archive, tmp_path, "the archive's directory claims")


def test_a_bomb_is_refused_before_anything_is_written(tmp_path):
    """One entry that unpacks a thousand times its size, as in 42.zip."""
    archive = write_zip(tmp_path / "bomb.zip", {"x.png": b"\0" * 50_000_000})

    refused(archive, tmp_path, "more than 100 times as many", max_bytes=100_000_000)


def test_a_bomb_of_many_small_entries_is_refused_as_a_whole(tmp_path):
    archive = write_zip(tmp_path / "bomb.zip", {f"{n}.png": b"\0" * 1_000_000 for n in range(50)})

    refused(archive, tmp_path, "the archive as a whole", max_bytes=100_000_000)


def test_a_small_file_may_shrink_to_almost_nothing(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"one-colour.bmp": b"\0" * 3_000_000})

    assert check(archive, max_bytes=10_000_000) == 1


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    """The better bomb: all entries of the directory point to the same data."""
    archive = write_zip(tmp_path / "a.zip", {"a.png": random.Random(0).randbytes(2000)}, compression=zipfile.ZIP_STORED)
    content = archive.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    one = content[start:end]
    many = b"".join(one.replace(b"a.png", b"%c.png" % (97 + n)) for n in range(20))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 20, 20, len(many), start, 0)
    archive.write_bytes(content[:start] + many + tail)

    refused(archive, tmp_path, "overlap")


@pytest.mark.parametrize("declared", [10, 5000])
def test_an_entry_of_another_size_than_it_declares_is_refused(tmp_path, declared):
    archive = write_zip(tmp_path / "a.zip", {"good.png": b"g", "liar.png": b"x" * 1000})
    content = bytearray(archive.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", declared)
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


def test_a_image_over_the_limit_is_not_unpacked_but_keeps_its_length(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"big.JPG": b"x" * 5000, "big.csv": b"x" * 5000, "small.jpg": b"y"})

    done = unpack(archive, tmp_path / "into", max_bytes=20_000, max_image_bytes=1000)

    assert done.num_files == 3
    assert (tmp_path / "into" / "big.JPG").read_bytes() == bytes(5000)
    assert (tmp_path / "into" / "big.csv").read_bytes() == b"x" * 5000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08\x00rest", r"gzip .*only zip is read; pack the folder as a zip: zip -r"),
        (b"Rar!\x1a\x07", "a RAR archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (png("red"), "a PNG image"),
        (b"product_id,image\n", "no archive"),
        (b"", "no archive"),
        (b"PK\x03\x04cut off", "damaged or was cut off"),
    ],
)
def test_what_is_no_zip_is_called_by_its_name(tmp_path, content, message):
    (tmp_path / "a.zip").write_bytes(content)

    refused(tmp_path / "a.zip", tmp_path, message)


def test_an_archive_that_is_cut_off_is_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"a.png": png("red"), "b.png": png("blue")})
    whole = archive.read_bytes()
    for length in range(4, len(whole), 7):
        archive.write_bytes(whole[:length])

        refused(archive, tmp_path, "damaged or was cut off")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", {"a.png": b"1", "b.png": b"2"})

    def full(opened, info):
        raise_after = info.filename == "b.png"
        yield b"1"
        if raise_after:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_content_of", full)

    with pytest.raises(OSError, match="No space left"):
        unpack(archive, tmp_path / "into", max_bytes=100)

    assert not (tmp_path / "into").exists()


def outcome_of(archive, into, **limits):
    """Return how many files were unpacked, and why none was."""
    try:
        return unpack(archive, into, **limits).num_files, ""
    except InvalidArchive as error:
        return 0, str(error)


def sample():
    buffer = io.BytesIO()
    write_zip(buffer, {"a/": b"", "a/x.png": b"x" * 300, "b/y.csv": b"y,z\n" * 20, "c.txt": b"z"})
    return buffer.getvalue()


@hypothesis_settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, len(sample()) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.one_of(st.none(), st.integers(0, len(sample()))),
)
def test_whatever_bytes_come_nothing_is_left_but_what_was_taken_whole(tmp_path_factory, changes, cut):
    """Fuzz: every byte of an archive may be another; the answer is files inside the folder, or InvalidArchive."""
    root = tmp_path_factory.mktemp("fuzz")
    content = bytearray(sample())
    for place, value in changes:
        content[place] = value
    (root / "a.zip").write_bytes(content[:cut])
    into = root / "deep" / "into"

    num_files, message = outcome_of(root / "a.zip", into, max_bytes=5000, max_entries=10)

    assert message.isprintable()
    assert into.exists() == (message == "")
    assert len([path for path in into.rglob("*") if path.is_file()]) == num_files
    assert {path.name for path in root.iterdir()} <= {"a.zip", "deep"}


@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(name="\0")
@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30) | st.from_regex(r"(\.\.|/|\\|a|:|\.){1,8}"))
def test_whatever_the_name_a_file_never_leaves_the_folder(tmp_path_factory, name):
    root = tmp_path_factory.mktemp("names")
    write_zip(root / "a.zip", {name: b"content"})

    _, message = outcome_of(root / "a.zip", root / "into", max_bytes=100)

    assert message.isprintable()
    assert (root / "into").exists() == (message == "")
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "a.zip"]
    assert all(path.is_relative_to(root / "into") for path in files)
    assert {path.name for path in root.iterdir()} <= {"a.zip", "into"}
