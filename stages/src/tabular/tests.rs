use std::io::Write as _;

use super::*;

fn shown(table: &Table) -> String {
    let cell = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "-".to_owned());
    let row = |row: &Row| match &row.cells {
        Ok(cells) => format!("{}: {}", row.line, cells.iter().map(cell).collect::<Vec<_>>().join("|")),
        Err(reason) => format!("{}: {reason}", row.line),
    };
    std::iter::once(table.columns.join("|")).chain(table.rows.iter().map(row)).collect::<Vec<_>>().join("\n")
}

#[test]
fn rows_know_their_lines() {
    let csv = delimited("a,b\n1,\"x\ny, \"\"z\"\"\"\n\n2\n3,4\n", b',', true).unwrap();
    insta::assert_snapshot!(shown(&csv), @r#"
    a|b
    2: 1|x
    y, "z"
    5: it has 1 cells, and the header has 2
    6: 3|4
    "#);
    let tsv = delimited("a\tb\n\"1\t2\"\n", b'\t', false).unwrap();
    insta::assert_snapshot!(shown(&tsv), @r#"
    a|b
    2: "1|2"
    "#);
    insta::assert_snapshot!(delimited("a,b,a\n", b',', true).err().unwrap(), @"the header names the column `a` twice");
    assert_eq!(shown(&delimited("", b',', true).unwrap()), "");
}

#[test]
fn objects_may_differ_and_the_last_may_be_half_written() {
    let text = "{\"a\":1,\"b\":{\"c\":\"x\"}}\n\n{\"d\":null,\"a\":\"y\"}\n[1]\n{\"a\": tru\n{\"a\":\"z";
    insta::assert_snapshot!(shown(&json_lines(text)), @r"
    a|b.c|d
    1: 1|x
    3: y|-|-
    4: no JSON object: invalid type: sequence, expected a map at column 0
    5: no JSON object: EOF while parsing a value at column 9
    6: the file ends within this row, as if half-written (EOF while parsing a string at column 7)
    ");
}

#[test]
fn the_form_is_found() {
    assert_eq!(by_content("\n {\"a\":1}\n"), Format::Jsonl);
    assert_eq!(by_content("a\tb,c\n"), Format::Tsv);
    assert_eq!(by_content("a b\n"), Format::Csv);
    assert_eq!(by_name(Path::new("x.CSV")), Some(Format::Csv));
    assert_eq!(by_name(Path::new("x.tsv.zst")), None);
}

#[test]
fn compressed_texts_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        text(&path, "table").map_err(|error| error.to_string())
    };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all("\u{feff}a\u{e9}".as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    assert_eq!(write("x", &gzip).unwrap(), "aé");
    let zstd =
        ruzstd::encoding::compress_to_vec("aé\n".repeat(9).as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    assert_eq!(write("x", &[zstd.clone(), zstd.clone()].concat()).unwrap(), "aé\n".repeat(18));
    insta::assert_snapshot!(write("x", &gzip[..gzip.len() - 9]).unwrap_err(), @"`table` begins as gzip does, but can't be decompressed: incomplete deflate stream");
    assert!(write("x", &zstd[..zstd.len() - 3]).unwrap_err().starts_with("`table` begins as zstd does"));
    insta::assert_snapshot!(write("x", b"a\nb\xff").unwrap_err(), @"`table` is not UTF-8 in line 2 (byte 3); save it as UTF-8");
}
