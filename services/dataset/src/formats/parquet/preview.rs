//! Previews: the values of all columns as JSON, cut. A column that cannot be read is null; the others are shown.

use std::sync::Arc;

use ::parquet::{
    errors::Result as ParquetResult,
    record::{
        Field,
        reader::{ReaderIter, TreeBuilder},
    },
    schema::types::{SchemaDescriptor, Type},
};
use serde_json::{Map, Number, Value, json};

use super::{
    footer::ParquetFile,
    guarded,
    pages::BoundedGroup,
    typed::{ColumnRows, Layout},
};
use crate::{
    formats::json::cut_text,
    limits::{PREVIEW_DEPTH, PREVIEW_ELEMENTS},
    row::Row,
};

/// The largest page of a column of another kind, in bytes. The library repeats such values in its errors.
const MAX_OTHER_PAGE_BYTES: usize = 16 << 20;

/// One column in a row group.
pub(super) enum PreviewColumn {
    Typed(Box<ColumnRows>),
    Other(Box<ReaderIter>),
    /// It cannot be read, from here on.
    Unreadable,
}

/// Opens all columns of a row group, with their names. One that cannot be opened is unreadable.
pub(super) fn open(file: &Arc<ParquetFile>, group: usize) -> Vec<(String, PreviewColumn)> {
    let schema = file.schema();
    let fields = schema.root_schema().get_fields();
    let columns = fields.iter().enumerate().map(|(root, field)| {
        let column = match Layout::of(schema, root) {
            Some(layout) => guarded(|| ColumnRows::open(file, group, &layout))
                .map(|rows| PreviewColumn::Typed(Box::new(rows))),
            None => {
                guarded(|| open_other(file, group, root)).map(|rows| PreviewColumn::Other(Box::new(rows)))
            }
        };
        (field.name().to_owned(), column.unwrap_or(PreviewColumn::Unreadable))
    });
    columns.collect()
}

fn open_other(file: &Arc<ParquetFile>, group: usize, root: usize) -> ParquetResult<ReaderIter> {
    let root_schema = file.schema().root_schema();
    let field = Arc::clone(&root_schema.get_fields()[root]);
    let projection = Type::group_type_builder(root_schema.name()).with_fields(vec![field]).build()?;
    let schema = Arc::new(SchemaDescriptor::new(Arc::new(projection)));
    let rows = BoundedGroup { file: Arc::clone(file), index: group, limit: MAX_OTHER_PAGE_BYTES };
    TreeBuilder::new().with_batch_size(1).as_iter(schema, &rows)
}

impl PreviewColumn {
    /// Skips rows.
    pub(super) fn skip(&mut self, rows: u64) {
        let skipped = match self {
            Self::Typed(column) => guarded(|| column.skip(rows)),
            Self::Other(column) => guarded(|| {
                for _ in 0..rows {
                    column.next().transpose()?;
                }
                Ok(())
            }),
            Self::Unreadable => Ok(()),
        };
        if skipped.is_err() {
            *self = Self::Unreadable;
        }
    }

    /// Returns the next row's value.
    pub(super) fn next(&mut self) -> Value {
        let value = match self {
            Self::Typed(column) => guarded(|| column.next().map(row_value)),
            Self::Other(column) => guarded(|| {
                let row = column.next().transpose()?;
                let field = row.and_then(|row| row.into_columns().pop());
                Ok(field.map_or(Value::Null, |(_, field)| field_value(&field, 1)))
            }),
            Self::Unreadable => Ok(Value::Null),
        };
        value.unwrap_or_else(|_| {
            *self = Self::Unreadable;
            Value::Null
        })
    }
}

fn row_value(row: Row) -> Value {
    match row {
        Row::Text(text) => Value::String(cut_text(&text)),
        Row::TokenIds(ids) => ids.into_iter().take(PREVIEW_ELEMENTS).collect(),
        Row::Messages(messages) => {
            let messages = messages.iter().take(PREVIEW_ELEMENTS).map(
                |message| json!({"role": cut_text(&message.role), "content": cut_text(&message.content)}),
            );
            messages.collect()
        }
    }
}

/// Returns a value of any kind as JSON. The recursion ends at the depth of previews.
fn field_value(field: &Field, depth: usize) -> Value {
    if depth > PREVIEW_DEPTH {
        return Value::from("…");
    }
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(number) => (*number).into(),
        Field::Short(number) => (*number).into(),
        Field::Int(number) => (*number).into(),
        Field::Long(number) => (*number).into(),
        Field::UByte(number) => (*number).into(),
        Field::UShort(number) => (*number).into(),
        Field::UInt(number) => (*number).into(),
        Field::ULong(number) => (*number).into(),
        Field::Float16(number) => float(f64::from(*number)),
        Field::Float(number) => float(f64::from(*number)),
        Field::Double(number) => float(*number),
        Field::Str(text) => Value::String(cut_text(text)),
        Field::Bytes(bytes) => Value::String(format!("{} bytes", bytes.len())),
        Field::Group(row) => {
            let fields = row.get_column_iter().take(PREVIEW_ELEMENTS);
            let fields = fields.map(|(name, field)| (cut_text(name), field_value(field, depth + 1)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Field::ListInternal(list) => {
            list.elements().iter().take(PREVIEW_ELEMENTS).map(|field| field_value(field, depth + 1)).collect()
        }
        Field::MapInternal(map) => {
            let entries = map.entries().iter().take(PREVIEW_ELEMENTS);
            let entries = entries.map(|(key, value)| (key_text(key), field_value(value, depth + 1)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => Value::String(field.to_string()),
    }
}

fn key_text(key: &Field) -> String {
    match field_value(key, PREVIEW_DEPTH) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
