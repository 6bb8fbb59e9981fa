//! Rows of Parquet files: columns of texts, numbers or truth values, one row at a time.

use std::fs;

use palinode_engine::stage::StageError;
use parquet::{
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, reader::RowIter},
    schema::types::Type,
};

use super::{
    faults::Faults,
    read::{Column, Each, Table},
};

/// Hands each row of `table` to `each`, as [`Table::each`] does; in place of its line comes its number.
pub(super) fn rows(
    table: &Table<'_>,
    columns: &[Column<'_>],
    faults: &mut Faults,
    each: &mut Each<'_>,
) -> Result<(), StageError> {
    let broken = |error: ParquetError| StageError::failed(format!("{} can't be read: {error}", table.name));
    let file = fs::File::open(table.path).map_err(StageError::io(table.path))?;
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let root = reader.metadata().file_metadata().schema();
    let (name, fields) = (root.name().to_owned(), root.get_fields().to_vec());
    let have: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
    let places = columns.iter().map(|column| column.find(&have, table.name)).collect::<Result<Vec<_>, _>>()?;
    if let Some(nested) = places.iter().flatten().map(|&place| &fields[place]).find(|field| field.is_group()) {
        let message = format!("{}: the column `{}` holds lists or records, not a value", table.name, nested.name());
        return Err(StageError::failed(message));
    }
    // Only what is wanted is read: other columns may be images.
    let mut wanted: Vec<usize> = places.iter().flatten().copied().collect();
    wanted.sort_unstable();
    wanted.dedup();
    let schema = Type::group_type_builder(&name).with_fields(wanted.iter().map(|&at| fields[at].clone()).collect());
    let rows =
        RowIter::from_file_into(Box::new(reader)).project(Some(schema.build().map_err(broken)?)).map_err(broken)?;
    let within: Vec<_> = places.iter().map(|place| wanted.iter().position(|at| Some(*at) == *place)).collect();
    for (number, row) in (1..).zip(rows) {
        let unreadable = |error| format!("{}: row {number} can't be read: {error}", table.name);
        let row = row.map_err(|error| StageError::failed(unreadable(error)))?;
        let cells: Vec<_> = row.get_column_iter().map(|(_, field)| text(field)).collect();
        if cells.iter().any(Result::is_err) {
            faults.add(table.name, number, "not UTF-8");
            continue;
        }
        let cell = |place: &Option<usize>| cells.get((*place)?)?.as_ref().ok()?.as_deref();
        each(number, &within.iter().map(cell).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// A value as it would stand in a CSV file; `None` for null. An error if it is no text at all.
fn text(field: &Field) -> Result<Option<String>, ()> {
    match field {
        Field::Null => Ok(None),
        Field::Str(text) => Ok(Some(text.clone())),
        Field::Bytes(bytes) => str::from_utf8(bytes.data()).map(|text| Some(text.to_owned())).map_err(|_| ()),
        // Numbers print as JSON has them; what that can't say, as the crate does.
        other => Ok(Some(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use parquet::{
        basic::Compression,
        data_type::{ByteArray, ByteArrayType, Int64Type},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use super::*;

    /// A file of the columns `id` (not wanted), `text` (may be null) and `label`, in groups of two rows.
    fn write(path: &Path, compression: Compression, rows: &[(Option<&[u8]>, i64)]) {
        let schema = "message m { required int64 id; optional binary text (UTF8); required int64 label; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let file = fs::File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
        for rows in rows.chunks(2) {
            let mut group = writer.next_row_group().unwrap();
            let numbers: Vec<i64> = rows.iter().map(|row| row.1).collect();
            let there: Vec<i16> = rows.iter().map(|row| i16::from(row.0.is_some())).collect();
            let texts: Vec<_> =
                rows.iter().filter_map(|row| row.0).map(|text| ByteArray::from(text.to_vec())).collect();
            for at in 0..3 {
                let mut column = group.next_column().unwrap().unwrap();
                match at {
                    1 => column.typed::<ByteArrayType>().write_batch(&texts, Some(&there), None).unwrap(),
                    _ => column.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap(),
                };
                column.close().unwrap();
            }
            group.close().unwrap();
        }
        writer.close().unwrap();
    }

    /// A row's number and cells.
    type Numbered = (u64, Vec<Option<String>>);

    /// What is read of `names`, with the rows' numbers; what is wrong with others; or the error.
    fn read(path: &Path, names: &[&str]) -> Result<(Vec<Numbered>, Vec<String>), String> {
        let table = Table { name: "t.parquet", path, format: None, header: true };
        let columns: Vec<_> = names.iter().map(|name| Column::required(name)).collect();
        let (mut found, mut faults) = (Vec::new(), Faults::default());
        let mut each = |number, cells: &[Option<&str>]| {
            found.push((number, cells.iter().map(|cell| cell.map(str::to_owned)).collect()));
            Ok(())
        };
        table.each(&columns, &mut faults, &mut each).map_err(|error| error.to_string())?;
        Ok((found, faults.lines()))
    }

    #[test]
    fn the_columns_wanted_come_as_texts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(Default::default()),
            Compression::ZSTD(Default::default()),
        ] {
            write(&path, compression, &[(Some("é".as_bytes()), 1), (None, 0), (Some(b"c"), -3)]);
            let (rows, faults) = read(&path, &["label", "text", "label"]).unwrap();
            let text = |text: &str| Some(text.to_owned());
            let row =
                |number, label, words: Option<&str>| (number, vec![text(label), words.map(str::to_owned), text(label)]);
            assert_eq!(rows, [row(1, "1", Some("é")), row(2, "0", None), row(3, "-3", Some("c"))]);
            assert!(faults.is_empty());
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, Compression::SNAPPY, &[(Some(b"a"), 1), (Some(b"b"), 2)]);
        insta::assert_snapshot!(read(&path, &["txt"]).unwrap_err(), @"t.parquet has no column `txt`; it has `id`, `text`, `label`");
        let bytes = fs::read(&path).unwrap();
        for cut in [0, 3, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..cut]).unwrap();
            let error = read(&path, &["text"]).unwrap_err();
            assert!(error.starts_with("t.parquet can't be read: "), "{error}");
        }
    }
}
