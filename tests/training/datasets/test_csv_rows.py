"""Tables as spreadsheets and shops write them: each is read as it was meant, or refused with the reason and remedy."""

import pytest

from training.datasets.records import Columns, read_records
from training.errors import InvalidDataset

COLUMNS = Columns(
    ("product_id", "image", "title"), {"id": "product_id", "path": "image"}, (("product_id",), ("image",))
)
KETTLE = {"product_id": "kettle", "title": "Blue", "image": "a.jpg"}
MUG = {"product_id": "mug", "title": 'Red "big"\nmug', "image": "b.jpg"}


def read(tmp_path, text, name="t.csv", encoding="utf-8"):
    """Return the records of a table, the first number of each, and the notes."""
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    records = read_records(path, COLUMNS)
    numbered = list(records)
    return [record for _, record in numbered], [number for number, _ in numbered], records.notes


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ('product_id,title,image\nkettle,Blue,a.jpg\nmug,"Red ""big""\nmug",b.jpg\n', [2, 3]),
        ('product_id,title,image\r\nkettle,Blue,a.jpg\r\nmug,"Red ""big""\nmug",b.jpg', [2, 3]),
        ('\ufeffproduct_id,title,image\r\nkettle,Blue,a.jpg\r\nmug,"Red ""big""\nmug",b.jpg\r\n', [2, 3]),
        ('\ufeff"product_id","title","image"\nkettle,Blue,a.jpg\nmug,"Red ""big""\nmug",b.jpg\n', [2, 3]),
        ('product_id,title,image\rkettle,Blue,a.jpg\rmug,"Red ""big""\nmug",b.jpg\r', [2, 3]),
        ('Product_ID,TITLE,Image\nkettle,Blue,a.jpg\nmug,"Red ""big""\nmug",b.jpg\n', [2, 3]),
        ('Product ID,Title,Path\nkettle,Blue,a.jpg\nmug,"Red ""big""\nmug",b.jpg\n', [2, 3]),
        ('product-id, title, image\nkettle, Blue, a.jpg\nmug, "Red ""big""\nmug", b.jpg\n', [2, 3]),
        ('\u00a0product_id\u00a0,title ,\u200bimage\nkettle,Blue,a.jpg\nmug,"Red ""big""\nmug",b.jpg\n', [2, 3]),
        ('product_id,title,image,\r\nkettle,Blue,a.jpg,\r\nmug,"Red ""big""\nmug",b.jpg,\r\n', [2, 3]),
        (',product_id,,title,image\n,kettle,,Blue,a.jpg\n,mug, ,"Red ""big""\nmug",b.jpg\n', [2, 3]),
        ('product_id,title,image\nkettle,Blue,a.jpg,,\nmug,"Red ""big""\nmug",b.jpg, \n', [2, 3]),
        ('product_id,title,image\nkettle,Blue,a.jpg\n,,\n\nmug,"Red ""big""\nmug",b.jpg\n,,\n , ,\n', [2, 5]),
        ('\n,,\nproduct_id,title,image\nkettle,Blue,a.jpg\nmug,"Red ""big""\nmug",b.jpg\n', [4, 5]),
        ('sep=,\nproduct_id,title,image\nkettle,Blue,a.jpg\nmug,"Red ""big""\nmug",b.jpg\n', [3, 4]),
    ],
    ids=lambda value: ascii(value)[:40] if isinstance(value, str) else "",
)
def test_a_table_of_a_spreadsheet_is_read(tmp_path, text, numbers):
    assert read(tmp_path, text) == ([KETTLE, MUG], numbers, ())


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("t.csv", "product_id;title;image\nkettle;Blue;a.jpg\n", "semicolons"),
        ("t.csv", "product_id\ttitle\timage\nkettle\tBlue\ta.jpg\n", "tabs"),
        ("t.csv", "product_id|title|image\nkettle|Blue|a.jpg\n", "vertical bars"),
        ("t.csv", "sep=;\r\nproduct_id;title;image\r\nkettle;Blue;a.jpg\r\n", "semicolons"),
        ("t.csv", '"sep=;"\r\nproduct_id;title;image\r\nkettle;Blue;a.jpg\r\n', "semicolons"),
        ("t.csv", "SEP=\t\nproduct_id\ttitle\timage\nkettle\tBlue\ta.jpg\n", "tabs"),
        ("t.tsv", "product_id\ttitle\timage\nkettle\tBlue\ta.jpg\n", "tabs"),
        ("t.txt", "product_id\ttitle\timage\nkettle\tBlue\ta.jpg\n", "tabs"),
        ("t.CSV", '"product_id";"title";"image"\n"kettle";"Blue";"a.jpg"\n', "semicolons"),
    ],
)
def test_the_delimiter_is_that_of_the_first_line_and_is_noted(tmp_path, name, text, note):
    assert read(tmp_path, text, name)[::2] == ([KETTLE], (f"columns are separated by {note}",))


def test_values_may_contain_the_other_delimiters(tmp_path):
    records, _, _ = read(tmp_path, 'product_id;image\n1,5;"a;b.jpg"\n')

    assert records == [{"product_id": "1,5", "image": "a;b.jpg"}]


def test_a_short_row_lacks_its_last_fields(tmp_path):
    assert read(tmp_path, "product_id,image,title\nkettle,a.jpg\n")[0] == [
        {"product_id": "kettle", "image": "a.jpg", "title": None}
    ]


def test_the_names_of_attributes_keep_their_case(tmp_path):
    records, _, _ = read(tmp_path, "id,path,Attributes.Brand ,attributes.Made in\na,b,Norden,Oslo\n")

    assert records == [{"product_id": "a", "image": "b", "attributes.Brand": "Norden", "attributes.Made in": "Oslo"}]


def test_a_row_with_too_many_values_is_an_error_of_the_row(tmp_path):
    (bad, good), numbers, _ = read(tmp_path, "product_id,image\na,b.jpg,c\nd,e.jpg\n")

    assert "more fields than the first line has columns: ['c']" in str(bad)
    assert (good, numbers) == ({"product_id": "d", "image": "e.jpg"}, [2, 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; the first line must name the columns, such as product_id,image"),
        ("\r\n,,\r\n", "the file is empty"),
        ("kettle,a.jpg\n", "first line names 'kettle', 'a.jpg'; the first line must name the columns, such as"),
        ("product_id;title\n", "no column 'image'; its first line names 'product_id', 'title'"),
        ("Shop 2024;;\n;;\nproduct_id;image\n", "line 3 names the columns, so remove the lines above it"),
        ("product_id,Image,path\n", "two columns 'image'"),
        ("product_id,image,tittle\n", "unknown column 'tittle'.*attributes.tittle.*did you mean 'title'"),
        (",product_id,image\n0,a,b.jpg\n", "no name for column 1, but line 2 has the value '0'"),
        ('product_id,image\na,"b"c\n', r'line 2: .*write a quote within quotes twice \(""\)'),
        ('product_id,image\na,b\na,"b\nc,d\n', "line 3: .*a quote may not be closed"),
        (f"product_id,image\na,{'x' * 200_000}\n", "line 2: a field has more than 131,072 characters"),
        ("," * 200_000 + "\n", "a first line of more than 100,000 characters|the file is empty"),
        ("x," * 100_000 + "\n", "a first line of more than 100,000 characters"),
        ("attributes.a," * 5000 + "product_id,image\n", "two columns 'attributes.a'"),
        (f"product_id,image,{'x' * 5000}\n", "unknown column 'xxx.{70,80}"),
        ('{"product_id": 1, "image": "a"}\n', "looks like JSON, so give the file the ending .ndjson"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_table_that_cannot_be_read_is_refused_with_the_reason(tmp_path, text, message):
    with pytest.raises(InvalidDataset, match=message):
        read(tmp_path, text)
