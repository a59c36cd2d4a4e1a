//! The pages of a column chunk, decompressed here with a limit, and checked before they are decoded.
//!
//! The `parquet` crate would reserve what a page's header claims, and would expand gzip without end. It is told that the
//! pages are not compressed, so that it hands them out as they are.

use std::sync::Arc;

use ::parquet::{
    basic::{Compression, Encoding},
    bloom_filter::Sbbf,
    column::page::{Page, PageMetadata, PageReader},
    errors::{ParquetError, Result as ParquetResult},
    file::{
        metadata::RowGroupMetaData,
        reader::{Length as _, RowGroupReader, SerializedPageReader},
    },
    record::reader::RowIter,
    schema::types::Type,
};
use bytes::Bytes;

use super::footer::{Chunks, ParquetFile};
use crate::{
    limits::MAX_PAGE_VALUES,
    source::{unpack_gzip, unpack_zstd},
};

/// Snappy's longest copy is 64 bytes, for 3 bytes of input.
const MAX_SNAPPY_EXPANSION: usize = 22;
/// The first guess of the length of an LZ4 block, which does not say its length.
const LZ4_GUESS_BYTES: usize = 256 << 10;

/// The pages of one column chunk.
pub(super) struct BoundedPages {
    pages: SerializedPageReader<Chunks>,
    compression: Compression,
    /// Rows are lists, so that one row may take as many values as its pages have.
    is_repeated: bool,
    /// The largest page, in bytes.
    limit: usize,
}

impl BoundedPages {
    /// Opens the pages of a column of a row group.
    ///
    /// # Errors
    ///
    /// Fails if the chunk lies outside of the file, or has an unsupported compression.
    pub(super) fn open(file: &ParquetFile, group: usize, leaf: usize, limit: usize) -> ParquetResult<Self> {
        let group = file.group(group);
        let Some(chunk) = group.columns().get(leaf) else { return Err(general("a column is missing")) };
        if chunk.file_path().is_some() {
            return Err(general("a column lies in another file, which is not supported"));
        }
        let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
        let end =
            start.checked_add(chunk.compressed_size()).filter(|_| start >= 0 && chunk.compressed_size() >= 0);
        if end.is_none_or(|end| end as u64 > file.chunks().len()) {
            return Err(general("a column lies outside of the file"));
        }
        let compression = chunk.compression();
        match compression {
            Compression::UNCOMPRESSED
            | Compression::SNAPPY
            | Compression::GZIP(_)
            | Compression::ZSTD(_)
            | Compression::LZ4_RAW => {}
            other => {
                let why =
                    format!("its compression {other} is not supported: snappy, gzip, zstd and LZ4_RAW are");
                return Err(general(why));
            }
        }
        let is_repeated = chunk.column_descr().max_rep_level() > 0;
        let chunk = chunk.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let rows = usize::try_from(group.num_rows())?;
        let pages = SerializedPageReader::new(Arc::clone(file.chunks()), &chunk, rows, None)?;
        Ok(Self { pages, compression, is_repeated, limit })
    }

    /// Decompresses a page and checks what its decoder would reserve memory for.
    fn check(&self, page: Page) -> ParquetResult<Page> {
        match page {
            Page::DictionaryPage { buf, num_values, encoding, is_sorted } => {
                let buf = self.unpack(buf)?;
                if num_values as usize > MAX_PAGE_VALUES.min(buf.len()) {
                    let why =
                        format!("a dictionary claims {num_values} values, the limit is {MAX_PAGE_VALUES}");
                    return Err(general(why));
                }
                Ok(Page::DictionaryPage { buf, num_values, encoding, is_sorted })
            }
            Page::DataPage {
                buf,
                num_values,
                encoding,
                def_level_encoding,
                rep_level_encoding,
                statistics,
            } => {
                self.check_values(num_values, encoding)?;
                let buf = self.unpack(buf)?;
                Ok(Page::DataPage {
                    buf,
                    num_values,
                    encoding,
                    def_level_encoding,
                    rep_level_encoding,
                    statistics,
                })
            }
            Page::DataPageV2 {
                buf,
                num_values,
                encoding,
                num_nulls,
                num_rows,
                def_levels_byte_len,
                rep_levels_byte_len,
                is_compressed,
                statistics,
            } => {
                self.check_values(num_values, encoding)?;
                // Levels come first, and are never compressed.
                let levels = (def_levels_byte_len as usize).saturating_add(rep_levels_byte_len as usize);
                if levels > buf.len() {
                    return Err(general("the levels of a page are longer than the page"));
                }
                let buf = if is_compressed {
                    let values = self.unpack(buf.slice(levels..))?;
                    [&buf[..levels], &values[..]].concat().into()
                } else {
                    buf
                };
                Ok(Page::DataPageV2 {
                    buf,
                    num_values,
                    encoding,
                    num_nulls,
                    num_rows,
                    def_levels_byte_len,
                    rep_levels_byte_len,
                    is_compressed: false,
                    statistics,
                })
            }
        }
    }

    fn check_values(&self, values: u32, encoding: Encoding) -> ParquetResult<()> {
        if self.is_repeated && values as usize > MAX_PAGE_VALUES {
            let why = format!("a page of lists has {values} values, the limit is {MAX_PAGE_VALUES}");
            return Err(general(why));
        }
        match encoding {
            Encoding::PLAIN
            | Encoding::RLE
            | Encoding::PLAIN_DICTIONARY
            | Encoding::RLE_DICTIONARY
            | Encoding::DELTA_BINARY_PACKED => Ok(()),
            // Their decoders reserve memory for a number of values that the data itself claims.
            other => {
                let why =
                    format!("its encoding {other} is not supported: write it plain or with a dictionary");
                Err(general(why))
            }
        }
    }

    fn unpack(&self, packed: Bytes) -> ParquetResult<Bytes> {
        if packed.is_empty() {
            return Ok(packed);
        }
        let unpacked = match self.compression {
            Compression::SNAPPY => unpack_snappy(&packed, self.limit)?,
            Compression::GZIP(_) => unpack_gzip(&packed, self.limit)?,
            Compression::ZSTD(_) => unpack_zstd(&packed, self.limit)?,
            Compression::LZ4_RAW => unpack_lz4(&packed, self.limit)?,
            _ if packed.len() > self.limit => return Err(too_long(self.limit)),
            _ => return Ok(packed),
        };
        Ok(unpacked.into())
    }
}

fn unpack_snappy(packed: &[u8], limit: usize) -> ParquetResult<Vec<u8>> {
    let failed = |error: snap::Error| general(error.to_string());
    let length = snap::raw::decompress_len(packed).map_err(failed)?;
    if length > limit || length > packed.len().saturating_mul(MAX_SNAPPY_EXPANSION) {
        return Err(too_long(limit));
    }
    snap::raw::Decoder::new().decompress_vec(packed).map_err(failed)
}

fn unpack_lz4(packed: &[u8], limit: usize) -> ParquetResult<Vec<u8>> {
    let mut length = packed.len().saturating_mul(4).max(LZ4_GUESS_BYTES).min(limit);
    loop {
        let mut unpacked = vec![0; length];
        match lz4_flex::block::decompress_into(packed, &mut unpacked) {
            Ok(bytes) => {
                unpacked.truncate(bytes);
                return Ok(unpacked);
            }
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if length < limit => {
                length = length.saturating_mul(2).min(limit);
            }
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) => return Err(too_long(limit)),
            Err(error) => return Err(general(error.to_string())),
        }
    }
}

fn too_long(limit: usize) -> ParquetError {
    general(format!("a page is longer than {limit} bytes"))
}

/// Makes an error of the library's type with our own words.
pub(super) fn general(why: impl Into<String>) -> ParquetError {
    ParquetError::General(why.into())
}

impl Iterator for BoundedPages {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for BoundedPages {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        self.pages.get_next_page()?.map(|page| self.check(page)).transpose()
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        self.pages.skip_next_page()
    }
}

/// A row group whose pages are bounded, for the library's own reader of nested values.
pub(super) struct BoundedGroup {
    pub(super) file: Arc<ParquetFile>,
    pub(super) index: usize,
    /// The largest page, in bytes.
    pub(super) limit: usize,
}

impl RowGroupReader for BoundedGroup {
    fn metadata(&self) -> &RowGroupMetaData {
        self.file.group(self.index)
    }

    fn num_columns(&self) -> usize {
        self.metadata().num_columns()
    }

    fn get_column_page_reader(&self, leaf: usize) -> ParquetResult<Box<dyn PageReader>> {
        Ok(Box::new(BoundedPages::open(&self.file, self.index, leaf, self.limit)?))
    }

    fn get_column_bloom_filter(&self, _: usize) -> Option<&Sbbf> {
        None
    }

    fn get_row_iter(&self, _: Option<Type>) -> ParquetResult<RowIter<'_>> {
        Err(general("rows are read column by column"))
    }
}
