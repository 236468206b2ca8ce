"""Tables of every format, encoding and packing are read, or refused by what they are."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
import zstandard

from tritone_training.data.tables import Table, open_table, packing
from tritone_training.exceptions import DataError

TEXT = "user,item,plays\nann,Jóga,1\nbob,b,2\n"
CELLS = [["ann", "Jóga", "1"], ["bob", "b", "2"]]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, format=lzma.FORMAT_ALONE),
    "zst": zstandard.compress,
}


def cells(path: Path) -> list[list[str]]:
    with open_table(path) as table:
        return table.read().to_numpy(object).tolist()  # type: ignore[no-any-return]


def opened(path: Path) -> Table:
    with open_table(path) as table:
        return table


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def zipped(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def parquet(path: Path, query: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as database:
        database.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return path


# --- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_encodings_are_recognised(tmp_path: Path, encoding: str, line_end: str) -> None:
    path = written(tmp_path / "log.csv", TEXT.replace("\n", line_end).encode(encoding))
    assert cells(path) == CELLS
    notes = opened(path).notes
    assert bool(notes) == (not encoding.startswith("utf-8"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;"])
def test_a_separator_line_of_excel_is_used(tmp_path: Path, encoding: str, line: str) -> None:
    text = f"{line}\r\nuser;item;plays\r\nann;a, b;2,5\r\n"
    path = written(tmp_path / "log.csv", text.encode(encoding))
    assert cells(path) == [["ann", "a, b", "2,5"]]
    assert opened(path).separator == ";"
    assert list(opened(path).rows()) == [(3, {"user": "ann", "item": "a, b", "plays": "2,5"})]


def test_cells_of_several_lines_do_not_hide_the_separator(tmp_path: Path) -> None:
    path = written(tmp_path / "log.csv", 'user;item;text\nann;a;"one, two,\nthree, four,\nfive, six"\nbob;b;c\n')
    assert cells(path) == [["ann", "a", "one, two,\nthree, four,\nfive, six"], ["bob", "b", "c"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a header line"),
        (b"\n \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"user,item\nann,a,1\n", "line 2 has 3 cells: expected 2 as in the header; a cell that holds the separator"),
        (b"user,item\nann,a\0b\n", r"holds a zero byte \(at byte 15\)"),
        (b'user,item\nann,"a\nbob,b\n', "a double quote in row 2 is never closed"),
        ("user,item\nann,a\n".encode("utf-16")[:-1], "truncated data"),
        (b"<!DOCTYPE html>\n<html>", r"is a web page \(HTML\): expected a table"),
        (b'<?xml version="1.0"?><a/>', "is an XML document: expected a table"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS.*git lfs pull"),
        (b"SQLite format 3\0", "is an SQLite database: expected a table"),
        (b"ARROW1\0\0", "is an Arrow"),
        (b"\x80\x04\x95", "is a pickle"),
        (b"\x89HDF\r\n", "is an HDF5 file"),
        (b"%PDF-1.7", "is a PDF document"),
        (bytes(257) + b"ustar", "is a tar archive"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = written(tmp_path / "log.csv", content)
    with pytest.raises(DataError, match=message):
        cells(path)


def test_a_table_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; expected a table as CSV, TSV, Parquet, JSON or Excel"):
        cells(tmp_path / "log.csv")


def test_bytes_that_are_not_utf8_are_noted(tmp_path: Path) -> None:
    table = opened(written(tmp_path / "log.csv", "user,item\nann,a\nbob,Jóga\n".encode("latin-1")))
    assert "first in line 3" in table.notes[0]
    assert "iconv" in table.notes[0]


def test_rows_beyond_the_first_chunk_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritone_training.data.tables.text._ROWS_AT_ONCE", 3)
    path = written(tmp_path / "log.csv", "user,item\n" + "".join(f"u{n},i{n}\n" for n in range(10)))
    assert cells(path) == [[f"u{n}", f"i{n}"] for n in range(10)]
    written(path, path.read_bytes() + b"u,i,j\n")
    with pytest.raises(DataError, match="line 12 has 3 cells"):
        cells(path)


# --- JSON and Excel -----------------------------------------------------------------------------


ROWS = [{"user": 9007199254740993, "item": "a", "tags": ["x"]}, {"user": 12.0, "item": None, "liked": True}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text", [json.dumps(ROWS), json.dumps(ROWS, indent=2), "\n".join(map(json.dumps, ROWS)), "\n\n" + json.dumps(ROWS)]
)
def test_json_keeps_digits_and_leaves_lists_out(tmp_path: Path, encoding: str, text: str) -> None:
    table = opened(written(tmp_path / "log.json", text.encode(encoding)))
    assert list(table.names) == ["user", "item", "liked"]
    assert table.unusable == {"tags": "lists"}
    frame = table.read()
    assert frame["user"].tolist() == ["9007199254740993", "12.0"]
    assert frame["liked"].tolist() == [None, "true"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[1, 2]]", "is JSON, but not a table: expected a list of objects"),
        ('{"user": {"0": 1}, "item": {"0": 2}}', "is JSON by columns"),
        ('{"user": 1}\n{"user": \n', "line 2"),
        ("[]", "is empty"),
        ('[{"user": 1}', "is JSON that cannot be read"),
    ],
)
def test_json_that_is_no_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cells(written(tmp_path / "log.json", text))


def workbook(path: Path) -> Path:
    """The least workbook that Excel opens: two sheets, one with numbers, a text and a date."""
    kind = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    packages = "http://schemas.openxmlformats.org/package/2006"
    sheets = '<sheet name="Notes" sheetId="1" r:id="rId1"/><sheet name="Plays" sheetId="2" r:id="rId2"/>'
    text = '<c t="inlineStr"><is><t>{}</t></is></c>'.format
    header = "".join(map(text, ("user", "item", "when")))
    row = f'<c><v>12</v></c>{text("Jóga")}<c s="1"><v>45244.5</v></c>'
    files = {
        "[Content_Types].xml": (
            f'<Types xmlns="{packages}/content-types"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Default Extension="xml" ContentType="application/xml"/></Types>'
        ),
        "_rels/.rels": (
            f'<Relationships xmlns="{packages}/relationships"><Relationship Id="rId1" '
            f'Type="{relations}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
        ),
        "xl/_rels/workbook.xml.rels": (
            f'<Relationships xmlns="{packages}/relationships">'
            + "".join(
                f'<Relationship Id="rId{n}" Type="{relations}/worksheet" Target="worksheets/sheet{n}.xml"/>'
                for n in (1, 2)
            )
            + f'<Relationship Id="rId3" Type="{relations}/styles" Target="styles.xml"/></Relationships>'
        ),
        "xl/workbook.xml": f'<workbook {kind} xmlns:r="{relations}"><sheets>{sheets}</sheets></workbook>',
        "xl/styles.xml": f'<styleSheet {kind}><cellXfs><xf numFmtId="0"/><xf numFmtId="22"/></cellXfs></styleSheet>',
        "xl/worksheets/sheet1.xml": f"<worksheet {kind}><sheetData/></worksheet>",
        "xl/worksheets/sheet2.xml": (
            f"<worksheet {kind}><sheetData><row>{header}</row><row>{row}</row></sheetData></worksheet>"
        ),
    }
    return zipped(path, **{name: content.encode() for name, content in files.items()})


@pytest.mark.parametrize("name", ["plays.xlsx", "plays.csv"])
def test_a_workbook_is_read_by_its_first_sheet_with_cells(tmp_path: Path, name: str) -> None:
    path = workbook(tmp_path / name)
    assert cells(path) == [["12", "Jóga", "2023-11-14T12:00:00"]]
    assert opened(path).notes == ("read the sheet 'Plays'",)
    assert list(opened(path).rows()) == [(2, {"user": "12", "item": "Jóga", "when": "2023-11-14T12:00:00"})]


def test_a_damaged_workbook_is_called_one(tmp_path: Path) -> None:
    path = written(tmp_path / "log.xlsx", b"PK\x03\x04" + bytes(100))
    with pytest.raises(DataError, match=r"is a damaged Excel workbook .* save the table as CSV"):
        cells(path)
    whole = workbook(path).read_bytes()
    with pytest.raises(DataError, match=r"log\.xlsx: is a damaged Excel workbook"):
        cells(written(path, whole[:-50]))
    with pytest.raises(DataError, match="is an Excel workbook that cannot be read"):
        cells(written(tmp_path / "log.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)))


def test_a_stray_cell_far_away_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.xlsx"
    cells_far_apart = b'<c r="A1"><v>1</v></c>' + b" " * 2_000_000 + b'<c s="1" r="XFD1048576"><v>1</v></c>'
    zipped(path, **{"xl/workbook.xml": b"<workbook/>", "xl/worksheets/sheet1.xml": cells_far_apart})
    with pytest.raises(DataError, match="reaches to row 1,048,576 and column 16,384: expected at most"):
        cells(path)


# --- packed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_tables_of_every_format(tmp_path: Path, suffix: str) -> None:
    pack = PACKERS[suffix]
    assert cells(written(tmp_path / f"log.csv.{suffix}", pack(TEXT.encode()))) == CELLS
    assert cells(written(tmp_path / "lost_suffix", pack(TEXT.encode("utf-16")))) == CELLS
    assert cells(written(tmp_path / f"log.jsonl.{suffix}", pack(b'{"user": 1}\n{"user": 2}\n'))) == [["1"], ["2"]]
    whole = parquet(tmp_path / "log.parquet", "SELECT 1 AS user").read_bytes()
    assert cells(written(tmp_path / f"log.parquet.{suffix}", pack(whole))) == [["1"]]


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_compressed_tables_in_several_streams_are_read_whole(tmp_path: Path, suffix: str) -> None:
    pack = PACKERS[suffix]
    path = written(tmp_path / f"log.csv.{suffix}", pack(b"user,item\nann,a\n") + pack(b"bob,b\n"))
    assert cells(path) == [["ann", "a"], ["bob", "b"]]


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_compressed_table_that_is_cut_is_refused(tmp_path: Path, suffix: str) -> None:
    text = "user,item\n" + "".join(f"u{n % 7},i{n * 7919 % 10_007}\n" for n in range(3_000))
    path = written(tmp_path / f"log.csv.{suffix}", PACKERS[suffix](text.encode())[:-9])
    with pytest.raises(DataError, match="is damaged or cut off"):
        cells(path)


@pytest.mark.parametrize("suffix", [*PACKERS, "zip", "xlsx"])
def test_a_table_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert packing.ALWAYS_UNPACKED_BYTES == 64 << 20
    monkeypatch.setattr(packing, "ALWAYS_UNPACKED_BYTES", 2 << 20)  # so that the test need not write so much
    path = tmp_path / f"bomb.{suffix}"
    content = b"ann,a,1\n" * (packing.ALWAYS_UNPACKED_BYTES // 8 + 1)
    if suffix == "xlsx":
        zipped(path, **{"xl/workbook.xml": b"<workbook/>", "xl/worksheets/sheet1.xml": content})
        _understate(path, len(content))
    elif suffix == "zip":
        zipped(path, **{"log.csv": content})
    else:
        written(path, PACKERS[suffix](content))
    assert path.stat().st_size * packing.MAX_UNPACKED_RATIO < len(content)
    with pytest.raises(DataError, match=r"unpacks to too much: expected at most 2,[01]\d\d,\d{3} bytes"):
        cells(path)


def _understate(path: Path, n_bytes: int) -> None:
    """Let an archive say that its members are small."""
    content = path.read_bytes()
    assert content.count(n_bytes.to_bytes(4, "little")) == 2
    path.write_bytes(content.replace(n_bytes.to_bytes(4, "little"), (9).to_bytes(4, "little")))


def test_a_parquet_file_of_endless_equal_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritone_training.data.tables.parquet._ROWS_ALWAYS_READ", 100_000)
    path = parquet(tmp_path / "log.parquet", "SELECT 'ann' AS user, 'a' AS item FROM range(100001)")
    with pytest.raises(DataError, match="unpacks to 100,001 rows: expected at most 100,000"):
        cells(path)


def test_the_only_table_of_an_archive_is_read(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "log.zip", **{"a/log.csv": TEXT.encode(), "__MACOSX/a/._log.csv": b"x", "a/.DS_Store": b"x"}
    )
    assert cells(path) == CELLS
    with pytest.raises(DataError, match=r"is a ZIP archive of 2 files \('a.csv', 'b.csv'\): expected one table"):
        cells(zipped(tmp_path / "two.zip", **{"a.csv": TEXT.encode(), "b.csv": TEXT.encode()}))


# --- Parquet ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("('b')::ENUM('a', 'b')", "b"),
        ("12345678901234567890123456789012345678::DECIMAL(38, 0)", "12345678901234567890123456789012345678"),
        ("12::DECIMAL(18, 2)", "12"),
        ("12.5::DECIMAL(18, 2)", "12.50"),
        ("18446744073709551615::UBIGINT", "18446744073709551615"),
        ("9007199254740993::BIGINT", "9007199254740993"),
        ("'11111111-1111-1111-1111-111111111111'::UUID", "11111111-1111-1111-1111-111111111111"),
        ("'\\xFF\\x00'::BLOB", "ff00"),
        ("encode('Jóga')", "Jóga"),
        ("true", "true"),
        ("12.0::DOUBLE", "12.0"),
        ("12.5::FLOAT", "12.5"),
        ("TIMESTAMP_S '2023-11-14 22:13:20'", "2023-11-14T22:13:20.000000"),
        ("TIMESTAMP_MS '2023-11-14 22:13:20.5'", "2023-11-14T22:13:20.500000"),
        ("TIMESTAMP_NS '2023-11-14 22:13:20.5'", "2023-11-14T22:13:20.500000"),
        ("TIMESTAMPTZ '2023-11-14 22:13:20+05:00'", "2023-11-14T17:13:20.000000Z"),
        ("DATE '2023-11-14'", "2023-11-14"),
    ],
)
def test_parquet_types_become_text(tmp_path: Path, value: str, expected: str) -> None:
    assert cells(parquet(tmp_path / "log.parquet", f"SELECT {value} AS user")) == [[expected]]


def test_nested_columns_of_parquet_are_left_out(tmp_path: Path) -> None:
    query = (
        "SELECT {'a': 1, 'b': {'user': 2}} AS s, MAP {'x': 1} AS m, [[1.0]] AS l, INTERVAL 3 SECONDS AS d, 1 AS user"
    )
    table = opened(parquet(tmp_path / "log.parquet", query))
    assert list(table.names) == ["user"]
    assert table.unusable == {"s": "nested fields", "m": "maps", "l": "lists", "d": "durations"}


def test_a_file_is_parquet_by_its_content(tmp_path: Path) -> None:
    path = parquet(tmp_path / "log.csv", "SELECT 1 AS user")
    assert cells(path) == [["1"]]
    assert cells(written(tmp_path / "log.parquet", TEXT)) == CELLS


# --- folders of parts ---------------------------------------------------------------------------


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    parquet(folder / "country=DE%20x" / "part-0.parquet", "SELECT 9007199254740993 AS user, 1 AS item, 2 AS plays")
    parquet(folder / "country=__HIVE_DEFAULT_PARTITION__" / "part-1.parquet", "SELECT 12.0::DOUBLE AS user, 2 AS item")
    for name in ("_SUCCESS", ".part-0.parquet.crc", "_committed_1"):
        written(folder / name, "x")
    table = opened(folder)
    assert table.read(["user", "item", "plays", "country"]).to_numpy(object).tolist() == [
        ["9007199254740993", "1", "2", "DE x"],
        ["12.0", "2", None, None],
    ]
    assert table.notes == ("read 2 parts of a folder",)
    assert table.incomplete == {"plays": ("country=__HIVE_DEFAULT_PARTITION__/part-1.parquet", ["user", "item"])}


def test_parts_may_be_compressed_text_with_columns_in_any_order(tmp_path: Path) -> None:
    written(tmp_path / "log" / "part-0.csv.gz", gzip.compress(b"user,item\na,1\n"))
    written(tmp_path / "log" / "part-1.csv.gz", gzip.compress(b"item,user\n2,b\n"))
    assert cells(tmp_path / "log") == [["a", "1"], ["b", "2"]]


def test_a_column_that_one_part_leaves_empty_is_kept(tmp_path: Path) -> None:
    parquet(tmp_path / "log" / "a.parquet", "SELECT 1 AS user, NULL AS plays")
    parquet(tmp_path / "log" / "b.parquet", "SELECT 2 AS user, 3 AS plays")
    table = opened(tmp_path / "log")
    assert table.read().to_numpy(object).tolist() == [["1", None], ["2", "3"]]
    assert not table.incomplete


def test_folders_that_are_no_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder without parts of a table"):
        cells(tmp_path)
    written(tmp_path / "a.csv", TEXT)
    parquet(tmp_path / "b.parquet", "SELECT 1 AS user")
    with pytest.raises(DataError, match=r"holds files of several kinds \(a.csv, b.parquet\)"):
        cells(tmp_path)
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(DataError, match="is a table of Delta Lake"):
        cells(tmp_path)


def test_rows_come_with_their_line(tmp_path: Path) -> None:
    path = written(tmp_path / "m.csv", 'path,label\n"two\nlines",a\n\nb.wav,"b"\nc.wav\n')
    with open_table(path) as table:
        assert list(table.rows()) == [
            (3, {"path": "two\nlines", "label": "a"}),
            (5, {"path": "b.wav", "label": "b"}),
            (6, {"path": "c.wav", "label": ""}),
        ]
