//! Files of pyarrow in every compression, and files that claim too much.

use std::path::PathBuf;

use ::parquet::{
    data_type::{ByteArray, ByteArrayType, Int32Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use polars_parquet_format::{FileMetaData, SchemaElement, thrift::protocol::TCompactOutputProtocol};
use serde_json::json;

use super::*;
use crate::{
    limits::{MAX_PAGE_VALUES, MAX_ROW_BYTES},
    row::Message,
};

/// The files with all columns. `tests/tools/make_datasets.py` makes them.
const FILES: [&str; 10] =
    ["plain", "dictionary", "snappy", "snappy-v2", "gzip", "gzip-v2", "zstd", "zstd-v2", "lz4", "lz4-v2"];

fn fixture(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/datasets");
    PathBuf::from(folder).join(format!("{name}.parquet"))
}

fn reader(path: &Path, name: &str, kind: Kind) -> Result<ParquetReader> {
    ParquetReader::open(path, Some(&Column::new(name, kind)), Stop::default())
}

fn rows(path: &Path, name: &str, kind: Kind) -> Result<Vec<Row>> {
    let mut reader = reader(path, name, kind)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        rows.push(row);
    }
    Ok(rows)
}

/// The row that the script writes.
fn expected(name: &str, row: u32) -> Row {
    match name {
        "text" if row % 4 == 3 => Row::Text(String::new()),
        "text" => Row::Text(format!("Text {row}: ü\n{}", "word ".repeat(row as usize))),
        "input_ids" if row.is_multiple_of(2) => Row::TokenIds((0..row).collect()),
        "input_ids" if row % 3 == 2 => Row::TokenIds(vec![0]),
        "input_ids" => Row::TokenIds(vec![]),
        "wide_ids" => Row::TokenIds(vec![row, u32::MAX]),
        "unsigned_ids" => Row::TokenIds(vec![u32::MAX - row]),
        "messages" => Row::Messages(
            (0..row % 3)
                .map(|i| match i % 2 {
                    0 => Message { role: "user".into(), content: format!("Question {i}") },
                    _ => Message { role: "assistant".into(), content: String::new() },
                })
                .collect(),
        ),
        other => panic!("{other}"),
    }
}

const COLUMNS: [(&str, Kind); 5] = [
    ("text", Kind::Text),
    ("input_ids", Kind::TokenIds),
    ("wide_ids", Kind::TokenIds),
    ("unsigned_ids", Kind::TokenIds),
    ("messages", Kind::Messages),
];

#[test]
fn every_compression_is_read() {
    for file in FILES {
        for (name, kind) in COLUMNS {
            let found = rows(&fixture(file), name, kind).unwrap();
            let expected: Vec<_> = (0..10).map(|row| expected(name, row)).collect();
            assert_eq!(found, expected, "{file}: {name}");
        }
    }
}

#[test]
fn rows_are_skipped_within_and_over_row_groups() {
    for (name, kind) in COLUMNS {
        for skipped in 0..=11 {
            let mut reader = reader(&fixture("snappy"), name, kind).unwrap();
            assert_eq!(reader.skip(skipped).unwrap(), skipped.min(10));
            let next = reader.next_row().unwrap();
            assert_eq!(next, (skipped < 10).then(|| expected(name, skipped as u32)), "{name} {skipped}");
            assert_eq!(reader.skip(1).unwrap(), u64::from(skipped < 9));
        }
    }
}

#[test]
fn kinds_are_told_by_the_schema() {
    let found = columns(&fixture("zstd")).unwrap();
    let found: Vec<_> = found.iter().map(|column| (column.name.as_str(), column.kind)).collect();
    let expected = [
        ("id", Kind::Other),
        ("text", Kind::Text),
        ("input_ids", Kind::TokenIds),
        ("wide_ids", Kind::TokenIds),
        ("unsigned_ids", Kind::TokenIds),
        ("messages", Kind::Messages),
        ("score", Kind::Other),
        ("tags", Kind::Other),
        ("origin", Kind::Other),
        ("at", Kind::Other),
        ("blob", Kind::Other),
    ];
    assert_eq!(found, expected);
    assert!(reader(&fixture("zstd"), "id", Kind::Text).is_err());
    assert!(reader(&fixture("zstd"), "absent", Kind::Text).is_err());
}

#[test]
fn all_columns_are_previewed() {
    for file in FILES {
        let mut reader = ParquetReader::open(&fixture(file), None, Stop::default()).unwrap();
        assert_eq!(reader.skip(5).unwrap(), 5);
        let row = Value::Object(reader.next_preview().unwrap().unwrap());
        let expected = json!({
            "id": 5, "text": "Text 5: ü\nword word word word word ", "input_ids": [0], "wide_ids": [5, u32::MAX],
            "unsigned_ids": [u32::MAX - 5],
            "messages": [{"role": "user", "content": "Question 0"}, {"role": "assistant", "content": ""}],
            "score": 1.25, "tags": ["a", null], "origin": {"url": "https://example.org/5", "pages": [5]},
            "at": "2024-01-06 00:00:00.000 +00:00", "blob": "5 bytes",
        });
        for (name, value) in expected.as_object().unwrap() {
            if name == "at" {
                let at = row[name].as_str().unwrap();
                assert!(at.starts_with("2024-01-06 00:00:00"), "{at}");
            } else {
                assert_eq!(&row[name], value, "{file}: {name}");
            }
        }
        assert_eq!(row.as_object().unwrap().len(), 11);
        let mut count = 6;
        while reader.next_preview().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, 10);
    }
}

#[test]
fn what_cannot_be_decoded_is_named() {
    let check = |file: &str, expected: &str| {
        let error = rows(&fixture(file), "text", Kind::Text).unwrap_err().to_string();
        assert!(error.contains("row 1: ") && error.contains(expected), "{error}");
    };
    check("brotli", "compression BROTLI");
    check("delta-text", "encoding DELTA_BYTE_ARRAY is not supported");
    // Integers in deltas are read, and one column that is not does not hide the others.
    for (file, text) in [("delta", json!("b")), ("delta-text", Value::Null)] {
        let mut reader = ParquetReader::open(&fixture(file), None, Stop::default()).unwrap();
        assert_eq!(reader.skip(99).unwrap(), 99);
        let row = reader.next_preview().unwrap().unwrap();
        assert_eq!((&row["n"], &row["text"]), (&json!(99), &text), "{file}");
    }
}

#[test]
fn pages_are_bounded_in_every_compression() {
    for file in FILES {
        let opened = Arc::new(ParquetFile::open(&fixture(file)).unwrap());
        let leaf = (0..opened.schema().num_columns())
            .find(|leaf| opened.schema().column(*leaf).name() == "text")
            .unwrap();
        let mut pages = pages::BoundedPages::open(&opened, 0, leaf, 10).unwrap();
        let error = ::parquet::column::page::PageReader::get_next_page(&mut pages).unwrap_err().to_string();
        assert!(error.contains("longer than 10 bytes"), "{file}: {error}");
    }
}

/// Writes one row group with the library, uncompressed.
fn written(schema: &str, write: impl FnOnce(&mut SerializedFileWriter<std::fs::File>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("x.parquet")).unwrap();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    write(&mut writer);
    writer.close().unwrap();
    folder
}

#[test]
fn rows_and_pages_that_are_too_large_are_refused() {
    let long = written("message m { required binary text (UTF8); }", |writer| {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let texts = ["short".into(), vec![b'x'; MAX_ROW_BYTES + 1].into(), ByteArray::from(vec![0xff])];
        column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    });
    let path = long.path().join("x.parquet");
    let error = rows(&path, "text", Kind::Text).unwrap_err().to_string();
    assert!(error.ends_with("row 2: has 16777217 bytes, the limit is 16777216"), "{error}");
    let mut reader = reader(&path, "text", Kind::Text).unwrap();
    reader.skip(2).unwrap();
    let error = reader.next_row().unwrap_err().to_string();
    assert!(error.ends_with("row 3: is not UTF-8 at byte 0"), "{error}");

    let many = written("message m { repeated int32 ids; }", |writer| {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values = vec![7; MAX_PAGE_VALUES + 1];
        let mut repetitions = vec![1; values.len()];
        repetitions[0] = 0;
        let levels = vec![1; values.len()];
        column.typed::<Int32Type>().write_batch(&values, Some(&levels), Some(&repetitions)).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    });
    let error = rows(&many.path().join("x.parquet"), "ids", Kind::TokenIds).unwrap_err().to_string();
    assert!(error.contains("values, the limit is 4194304") || error.contains("bytes, the limit"), "{error}");
}

#[test]
fn token_ids_out_of_range_and_nulls_are_refused() {
    let schema =
        "message m { optional group ids (LIST) { repeated group list { optional int32 element; } } }";
    let check = |values: &[i32], levels: &[i16], expected: &str| {
        let folder = written(schema, |writer| {
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let mut repetitions = vec![1; levels.len()];
            repetitions[0] = 0;
            column.typed::<Int32Type>().write_batch(values, Some(levels), Some(&repetitions)).unwrap();
            column.close().unwrap();
            group.close().unwrap();
        });
        let found = rows(&folder.path().join("x.parquet"), "ids", Kind::TokenIds);
        let found = found.map_or_else(|error| error.to_string(), |rows| format!("{rows:?}"));
        assert!(found.contains(expected), "{found}");
    };
    check(&[1, 2], &[3, 3], "[TokenIds([1, 2])]");
    check(&[1, -2], &[3, 3], "token id -2 is not between 0 and 4294967295");
    check(&[1], &[3, 2], "a token id is null");
}

/// Writes a file of a footer alone.
fn with_schema(schema: Vec<SchemaElement>) -> Result<ParquetFile> {
    let footer = FileMetaData::new(1, schema, 0, vec![], None, None, None, None, None);
    let mut bytes = b"PAR1".to_vec();
    let mut written = Vec::new();
    footer.write_to_out_protocol(&mut TCompactOutputProtocol::new(&mut written)).unwrap();
    let footer = written;
    bytes.extend_from_slice(&footer);
    bytes.extend_from_slice(&(footer.len() as u32).to_le_bytes());
    bytes.extend_from_slice(b"PAR1");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    std::fs::write(&path, bytes).unwrap();
    ParquetFile::open(&path)
}

fn element(name: &str, children: Option<i32>) -> SchemaElement {
    use polars_parquet_format::{FieldRepetitionType, Type};
    SchemaElement {
        type_: children.is_none().then_some(Type::INT32),
        type_length: None,
        repetition_type: Some(FieldRepetitionType::OPTIONAL),
        name: name.to_owned(),
        num_children: children,
        converted_type: None,
        scale: None,
        precision: None,
        field_id: None,
        logical_type: None,
    }
}

#[test]
fn schemas_that_would_end_the_process_are_refused() {
    let check = |schema: Vec<SchemaElement>, expected: &str| {
        let found = with_schema(schema).map_or_else(|error| error.to_string(), |_| "good".to_owned());
        assert!(found.contains(expected), "{found}");
    };
    check(vec![element("m", Some(1)), element("a", None)], "good");
    let mut deep: Vec<_> = (0..30_000).map(|_| element("g", Some(1))).collect();
    deep.push(element("a", None));
    check(deep, "nested deeper than 32 levels");
    check(vec![element("m", Some(i32::MAX)), element("a", None)], "no tree");
    check(vec![element("m", Some(-1)), element("a", None)], "no tree");
    check(vec![element(&"x".repeat(2000), Some(1)), element("a", None)], "longer than 1024 bytes");
    check(vec![], "no tree");
    let mut wide: Vec<_> = (0..50_000).map(|_| element("a", None)).collect();
    wide.insert(0, element("m", Some(50_000)));
    check(wide, "50001 elements, the limit is 40000");
}

#[test]
fn files_that_are_no_parquet_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    for (content, expected) in [
        (&b""[..], "no Parquet file"),
        (b"PAR1", "no Parquet file"),
        (b"PAR1 and some text", "does not end with PAR1"),
        (b"PAR1\xff\xff\xff\xffPAR1", "a footer of 4294967295 bytes"),
        (b"PAR1\xff\xff\x00\x00PAR1", "longer than the file"),
        (b"PAR1\x00\x00\x00\x00PAR1", "damaged"),
        (b"PARE\x00\x00\x00\x00PARE", "encrypted"),
    ] {
        std::fs::write(&path, content).unwrap();
        let error = columns(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
