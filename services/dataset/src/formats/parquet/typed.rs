//! A column of texts, messages or token ids, read value by value.

use std::sync::Arc;

use ::parquet::{
    basic::{ConvertedType, LogicalType, Repetition, Type as PhysicalType},
    column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader, get_typed_column_reader},
    data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type},
    errors::Result as ParquetResult,
    schema::types::{ColumnDescriptor, SchemaDescriptor, Type},
};

use super::{
    footer::ParquetFile,
    pages::{BoundedPages, general},
};
use crate::{
    limits::{MAX_PAGE_BYTES, MAX_ROW_BYTES},
    row::{Kind, Message, Row},
};

/// Which leaves of the schema make a column's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    Text { leaf: usize },
    TokenIds { leaf: usize },
    Messages { role: usize, content: usize },
}

impl Layout {
    /// Returns the layout of the column at place `root`; `None` for a column of another kind.
    pub(super) fn of(schema: &SchemaDescriptor, root: usize) -> Option<Self> {
        let field = schema.root_schema().get_fields().get(root)?;
        let leaves =
            || (0..schema.num_columns()).filter(move |leaf| schema.get_column_root_idx(*leaf) == root);
        let column = |leaf: usize| schema.column(leaf);
        if field.is_primitive() && !is_repeated(field) {
            return leaves().next().filter(|leaf| is_text(&column(*leaf))).map(|leaf| Self::Text { leaf });
        }
        if leaves().any(|leaf| column(leaf).max_rep_level() != 1) {
            return None;
        }
        let mut all = leaves();
        if let (Some(leaf), None) = (all.next(), all.next()) {
            // A list of structs with one number has a longer path.
            let is_list = column(leaf).path().parts().len() <= 3;
            return (is_list && is_integer(&column(leaf))).then_some(Self::TokenIds { leaf });
        }
        let is_named =
            |leaf: usize, name: &str| column(leaf).path().parts().last().is_some_and(|last| last == name);
        let named = |name: &str| leaves().find(|leaf| is_text(&column(*leaf)) && is_named(*leaf, name));
        let (role, content) = (named("role")?, named("content")?);
        let parent = |leaf: usize| {
            let path = column(leaf).path().parts().to_vec();
            path.split_last().map(|(_, parent)| parent.to_vec())
        };
        (parent(role) == parent(content)).then_some(Self::Messages { role, content })
    }

    /// Returns the kind of the values.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Text { .. } => Kind::Text,
            Self::TokenIds { .. } => Kind::TokenIds,
            Self::Messages { .. } => Kind::Messages,
        }
    }
}

/// Returns whether a field is a list by itself, as old writers have them.
fn is_repeated(field: &Type) -> bool {
    field.get_basic_info().has_repetition() && field.get_basic_info().repetition() == Repetition::REPEATED
}

fn is_text(leaf: &ColumnDescriptor) -> bool {
    leaf.physical_type() == PhysicalType::BYTE_ARRAY
        && matches!(leaf.converted_type(), ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON)
}

fn is_integer(leaf: &ColumnDescriptor) -> bool {
    let is_plain = matches!(leaf.logical_type_ref(), None | Some(LogicalType::Integer(_)));
    let is_number = !matches!(
        leaf.converted_type(),
        ConvertedType::DECIMAL
            | ConvertedType::DATE
            | ConvertedType::TIME_MILLIS
            | ConvertedType::TIME_MICROS
            | ConvertedType::TIMESTAMP_MILLIS
            | ConvertedType::TIMESTAMP_MICROS
    );
    is_plain && is_number && matches!(leaf.physical_type(), PhysicalType::INT32 | PhysicalType::INT64)
}

/// The values of a column in one row group.
pub(super) enum ColumnRows {
    Text(Leaf<ByteArrayType>),
    /// Whether the numbers are unsigned, so that the sign bit is a part of them.
    TokenIds32(Leaf<Int32Type>, bool),
    TokenIds64(Leaf<Int64Type>),
    Messages {
        roles: Box<Leaf<ByteArrayType>>,
        contents: Box<Leaf<ByteArrayType>>,
    },
}

impl ColumnRows {
    /// Opens the column in a row group.
    ///
    /// # Errors
    ///
    /// Fails if the chunk lies outside of the file, or has an unsupported compression.
    pub(super) fn open(file: &Arc<ParquetFile>, group: usize, layout: &Layout) -> ParquetResult<Self> {
        Ok(match layout {
            Layout::Text { leaf } => Self::Text(Leaf::open(file, group, *leaf)?),
            Layout::TokenIds { leaf } => {
                let column = file.schema().column(*leaf);
                if column.physical_type() == PhysicalType::INT64 {
                    Self::TokenIds64(Leaf::open(file, group, *leaf)?)
                } else {
                    let is_unsigned = column.converted_type() == ConvertedType::UINT_32;
                    Self::TokenIds32(Leaf::open(file, group, *leaf)?, is_unsigned)
                }
            }
            Layout::Messages { role, content } => Self::Messages {
                roles: Box::new(Leaf::open(file, group, *role)?),
                contents: Box::new(Leaf::open(file, group, *content)?),
            },
        })
    }

    /// Skips rows.
    ///
    /// # Errors
    ///
    /// Fails if the data is damaged.
    pub(super) fn skip(&mut self, rows: u64) -> ParquetResult<()> {
        match self {
            Self::Text(leaf) => leaf.skip(rows),
            Self::TokenIds32(leaf, _) => leaf.skip(rows),
            Self::TokenIds64(leaf) => leaf.skip(rows),
            Self::Messages { roles, contents } => {
                roles.skip(rows)?;
                contents.skip(rows)
            }
        }
    }

    /// Returns the next row.
    ///
    /// # Errors
    ///
    /// Fails if the data is damaged or too long.
    pub(super) fn next(&mut self) -> ParquetResult<Row> {
        match self {
            Self::Text(leaf) => {
                leaf.read()?;
                check_bytes(leaf.values.iter().map(ByteArray::len).sum())?;
                leaf.values.first().map_or_else(|| Ok(String::new()), text).map(Row::Text)
            }
            Self::TokenIds32(leaf, is_unsigned) => {
                let is_unsigned = *is_unsigned;
                token_ids(leaf, |id| if is_unsigned { i64::from(id.cast_unsigned()) } else { i64::from(*id) })
            }
            Self::TokenIds64(leaf) => token_ids(leaf, |id| *id),
            Self::Messages { roles, contents } => messages(roles, contents),
        }
    }
}

fn token_ids<T: DataType>(leaf: &mut Leaf<T>, number: impl Fn(&T::T) -> i64) -> ParquetResult<Row> {
    leaf.read()?;
    check_bytes(leaf.values.len().saturating_mul(size_of::<u32>()))?;
    if leaf.elements().any(|is_present| !is_present) {
        return Err(general("a token id is null"));
    }
    let ids = leaf.values.iter().map(|value| {
        let id = number(value);
        u32::try_from(id).map_err(|_| general(format!("token id {id} is not between 0 and {}", u32::MAX)))
    });
    ids.collect::<ParquetResult<_>>().map(Row::TokenIds)
}

fn messages(roles: &mut Leaf<ByteArrayType>, contents: &mut Leaf<ByteArrayType>) -> ParquetResult<Row> {
    roles.read()?;
    contents.read()?;
    check_bytes(roles.values.iter().chain(&contents.values).map(ByteArray::len).sum())?;
    if roles.elements().count() != contents.elements().count() {
        return Err(general("roles and contents differ in number"));
    }
    let (mut role, mut content) = (roles.values.iter(), contents.values.iter());
    let mut messages = Vec::new();
    for (has_role, has_content) in roles.elements().zip(contents.elements()) {
        let Some(role) = role.next().filter(|_| has_role) else {
            return Err(general("a message has no role"));
        };
        let content = if has_content { content.next() } else { None };
        let content = content.map_or_else(|| Ok(String::new()), text)?;
        messages.push(Message { role: text(role)?, content });
    }
    Ok(Row::Messages(messages))
}

fn check_bytes(bytes: usize) -> ParquetResult<()> {
    if bytes <= MAX_ROW_BYTES {
        return Ok(());
    }
    Err(general(format!("has {bytes} bytes, the limit is {MAX_ROW_BYTES}")))
}

fn text(bytes: &ByteArray) -> ParquetResult<String> {
    let text = std::str::from_utf8(bytes.data());
    text.map(str::to_owned).map_err(|error| general(format!("is not UTF-8 at byte {}", error.valid_up_to())))
}

/// One leaf of the schema. It holds the levels and values of the present row (Dremel's encoding).
pub(super) struct Leaf<T: DataType> {
    reader: ColumnReaderImpl<T>,
    /// The definition level of a value that is not null.
    max_level: i16,
    /// The definition level from which on a list has an element.
    element_level: i16,
    is_repeated: bool,
    levels: Vec<i16>,
    repetitions: Vec<i16>,
    /// The values that are not null.
    values: Vec<T::T>,
}

impl<T: DataType> Leaf<T> {
    fn open(file: &ParquetFile, group: usize, leaf: usize) -> ParquetResult<Self> {
        let column = file.schema().column(leaf);
        let pages = BoundedPages::open(file, group, leaf, MAX_PAGE_BYTES)?;
        let (max_level, element_level) = (column.max_def_level(), column.repeated_ancestor_def_level());
        let is_repeated = column.max_rep_level() > 0;
        let reader: ColumnReader = get_column_reader(column, Box::new(pages));
        Ok(Self {
            reader: get_typed_column_reader(reader),
            max_level,
            element_level,
            is_repeated,
            levels: Vec::new(),
            repetitions: Vec::new(),
            values: Vec::new(),
        })
    }

    fn read(&mut self) -> ParquetResult<()> {
        self.levels.clear();
        self.repetitions.clear();
        self.values.clear();
        let (levels, repetitions) = (Some(&mut self.levels), Some(&mut self.repetitions));
        let (records, ..) = self.reader.read_records(1, levels, repetitions, &mut self.values)?;
        if records == 1 { Ok(()) } else { Err(general("the column ends before the file's last row")) }
    }

    fn skip(&mut self, rows: u64) -> ParquetResult<()> {
        if self.is_repeated {
            // The library's own way never ends when a damaged page has too few levels.
            for _ in 0..rows {
                self.read()?;
            }
            return Ok(());
        }
        let skipped = self.reader.skip_records(usize::try_from(rows)?)?;
        if skipped as u64 == rows {
            Ok(())
        } else {
            Err(general("the column ends before the file's last row"))
        }
    }

    /// Returns for each element of the row's list whether it has a value.
    fn elements(&self) -> impl Iterator<Item = bool> {
        let (element_level, max_level) = (self.element_level, self.max_level);
        let levels = self.levels.iter();
        levels.filter(move |level| **level >= element_level).map(move |level| *level == max_level)
    }
}
