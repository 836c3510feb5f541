"""The sorted names of a release's images."""

import hashlib
import sys

import numpy as np
import pyarrow as pa
import pytest

from embedding.runtimes.options import NetworkOptions
from service.releases.files import load_release
from service.releases.image_names import FILE_NAME, ImageNames
from service.storage.media import MediaName
from tests.service.releases.made import write_release_of


def name_of(number, extension="png"):
    return MediaName(hashlib.sha256(str(number).encode()).hexdigest(), extension)


def load(directory):
    return load_release(directory.parent, directory.name, NetworkOptions("cpu"), index_device="cpu")


def test_names_are_found_by_digest_and_extension(tmp_path):
    named = [name_of(number, ("png", "jpg", "webp")[number % 3]) for number in range(200)]
    ImageNames.of([map(str, named[:150]), map(str, named[100:])]).write(tmp_path / "names")

    names = ImageNames.open(tmp_path / "names")

    assert len(names) == 200
    assert (tmp_path / "names").stat().st_size == 200 * 40
    assert all(name in names for name in named)
    assert not any(name_of(number) in names for number in range(200, 400))
    assert MediaName(named[0].sha256, "jpg") not in names


@pytest.mark.parametrize("digest", ["0" * 64, "f" * 64, "ab" * 31 + "00", "00" * 31 + "ab"])
def test_digests_with_zeros_at_either_end_are_found(digest):
    names = ImageNames.of([[f"{digest}.png", f"{'7' * 64}.png"]])

    assert MediaName(digest, "png") in names
    assert MediaName(digest[:-1] + "1", "png") not in names


def test_an_empty_file_holds_no_name(tmp_path):
    ImageNames.of([]).write(tmp_path / "names")

    names = ImageNames.open(tmp_path / "names")

    assert len(names) == 0
    assert name_of(1) not in names


def test_the_file_is_mapped_and_not_read(tmp_path):
    ImageNames.of([[str(name_of(1))]]).write(tmp_path / "names")

    entries = ImageNames.open(tmp_path / "names").entries

    assert isinstance(entries, np.memmap)
    assert entries.mode == "r"


def test_a_release_of_an_earlier_version_has_the_names_of_its_rows(tmp_path, tiny_checkpoint):
    release = write_release_of(tmp_path / "new", tiny_checkpoint, 50)
    without = write_release_of(tmp_path / "old", tiny_checkpoint, 50, without=FILE_NAME)

    new, old = load(release), load(without)

    np.testing.assert_array_equal(new.image_names.entries, old.image_names.entries)
    assert all(MediaName.parse(new.rows[row].media_name) in old.image_names for row in range(50))


def test_loading_makes_no_object_per_row(tmp_path, tiny_checkpoint):
    """A million rows would cost hundreds of megabytes, and seconds in which no other thread runs."""
    small, large = (write_release_of(tmp_path / str(n), tiny_checkpoint, n) for n in (10, 20_010))
    load(small)  # imports and caches
    num_blocks = []

    for directory in (small, large):
        before = sys.getallocatedblocks()
        release = load(directory)
        num_blocks.append(sys.getallocatedblocks() - before)
        assert release.index.num_rows == len(release.rows)
        del release

    assert num_blocks[1] - num_blocks[0] < 2000


def test_rows_are_read_from_all_batches_of_the_file(tmp_path, tiny_checkpoint):
    release = load(write_release_of(tmp_path / "many", tiny_checkpoint, 40_000))
    with pa.memory_map(str(tmp_path / "many" / "rows.arrow")) as file:
        assert pa.ipc.open_file(file).num_record_batches == 3

    wanted = [39_999, 0, 16_383, 16_384, 32_767, 32_768, 0]
    found = release.rows.read(wanted)

    assert [row.title for row in found] == [f"Product {number // 4}" for number in wanted]
    assert [row.attributes for row in found] == [{"number": number} for number in wanted]
    assert [release.index.entry(number).image_id for number in wanted] == [row.image_id for row in found]
    assert release.rows.read([]) == []
    for row in (-1, 40_000):
        with pytest.raises(IndexError, match=r"within 0\.\.39999"):
            release.rows.read([0, row])
