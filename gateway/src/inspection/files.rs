//! `GET` and `HEAD /api/extractions/{id}/files/{name}`: a file of an extraction, or a part of it (RFC 9110, section 14).

use std::{io, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::Stream;
use http_range::{HttpRange, HttpRangeParseError};
use millm_api::inspection::extraction::is_over;
use millm_kit::{ServiceError, format::excerpt};
use millm_proto::inspection::v1::{
    Extraction, ExtractionFile, FileChunk, GetExtractionRequest, ReadExtractionFileRequest,
};
use tonic::Streaming;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, schema::Type},
};

use crate::{
    error::Failure,
    extract::Path,
    state::{AppState, from_runtime},
};

/// The bytes of a file, for the OpenAPI document.
#[derive(Debug, Clone, Copy)]
pub struct FileContent;

impl PartialSchema for FileContent {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for FileContent {}

/// Sends a file of an extraction that is over. Requests for one range of bytes are answered with that part.
#[utoipa::path(
    get,
    path = "/api/extractions/{id}/files/{name}",
    params(
        ("id" = String, Path, description = "The extraction's id"),
        ("name" = String, Path, description = "The file's name"),
        ("Range" = Option<String>, Header, description = "One range of bytes: `bytes=0-1023`"),
    ),
    responses(
        (status = 200, description = "The file", body = FileContent, content_type = "application/octet-stream"),
        (status = 206, description = "A part of it", body = FileContent, content_type = "application/octet-stream"),
        (status = 304, description = "The caller has it already"),
    )
)]
pub async fn read(
    State(app): State<Arc<AppState>>,
    Path((id, name)): Path<(String, String)>,
    method: Method,
    asked: HeaderMap,
) -> Result<Response, Failure> {
    let request = GetExtractionRequest { name: id };
    let extraction = app.inspection().get_extraction(request).await.map_err(from_runtime)?.into_inner();
    let file = file(&extraction, &name)?;
    let etag = format!("\"{}\"", file.sha256);
    if has_already(&asked, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let size = u64::try_from(file.size_bytes).unwrap_or(0);
    let part = match wanted(&asked, &etag, size) {
        Wanted::Whole => None,
        Wanted::Part(range) => Some(range),
        Wanted::Nothing => return Ok(unsatisfiable(size)),
    };
    let HttpRange { start, length } = part.unwrap_or(HttpRange { start: 0, length: size });
    let body = if method == Method::HEAD || length == 0 {
        Body::empty()
    } else {
        let request =
            ReadExtractionFileRequest { name: extraction.id.clone(), file: name, offset: start, length };
        let mut chunks =
            app.inspection().read_extraction_file(request).await.map_err(from_runtime)?.into_inner();
        // The Runtime refuses a file before the first chunk, so the answer can still be an error.
        let first = chunks.message().await.map_err(from_runtime)?;
        Body::from_stream(exactly(length, first, chunks))
    };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", quotable(&file.name))),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, etag),
        // The file never changes, but an extraction that is resumed makes another one.
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let mut response = (headers, body).into_response();
    if part.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let last = start + length - 1;
        response.headers_mut().insert(header::CONTENT_RANGE, ascii(&format!("bytes {start}-{last}/{size}")));
    }
    Ok(response)
}

/// Returns the file with this name.
fn file<'a>(extraction: &'a Extraction, name: &str) -> Result<&'a ExtractionFile, ServiceError> {
    if let Some(file) = extraction.files.iter().find(|file| file.name == name) {
        return Ok(file);
    }
    if is_over(extraction.state()) {
        let what = format!("the file '{}' of extraction '{}'", excerpt(name), extraction.id);
        return Err(ServiceError::not_found(what));
    }
    Err(ServiceError::extraction_running(&extraction.id))
}

fn has_already(asked: &HeaderMap, etag: &str) -> bool {
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    known.flat_map(|value| value.split(',')).map(str::trim).any(|known| known == "*" || known == etag)
}

/// The part of a file that a request asks for.
enum Wanted {
    Whole,
    Part(HttpRange),
    /// The range lies behind the end.
    Nothing,
}

/// Reads the range of a request for a file of `size` bytes. Ranges that cannot be read, several ranges, and ranges of
/// another version of the file are answered with the whole file, as RFC 9110 allows.
fn wanted(asked: &HeaderMap, etag: &str, size: u64) -> Wanted {
    let Some(range) = asked.get(header::RANGE) else { return Wanted::Whole };
    if asked.get(header::IF_RANGE).is_some_and(|version| version.as_bytes() != etag.as_bytes()) {
        return Wanted::Whole;
    }
    match HttpRange::parse_bytes(range.as_bytes(), size) {
        Ok(ranges) => match ranges.as_slice() {
            [range] if range.length > 0 => Wanted::Part(*range),
            _ => Wanted::Whole,
        },
        Err(HttpRangeParseError::NoOverlap) => Wanted::Nothing,
        Err(HttpRangeParseError::InvalidRange) => Wanted::Whole,
    }
}

fn unsatisfiable(size: u64) -> Response {
    let error = ServiceError::invalid_argument("range", format!("must begin within the file's {size} bytes"));
    let mut response = Failure::with_status(StatusCode::RANGE_NOT_SATISFIABLE, error).into_response();
    response.headers_mut().insert(header::CONTENT_RANGE, ascii(&format!("bytes */{size}")));
    response
}

fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits and signs are allowed in headers")
}

/// Returns a file's name as it may stand between quotes in a header.
fn quotable(name: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.chars().map(|c| if is_safe(c) { c } else { '_' }).collect()
}

/// Returns the bytes of the chunks. The stream fails, so that the caller does not take a part for the whole, unless they
/// are `length` bytes.
fn exactly(
    length: u64,
    first: Option<FileChunk>,
    mut chunks: Streaming<FileChunk>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    async_stream::try_stream! {
        let mut left = length;
        let mut next = first;
        while let Some(chunk) = next {
            left = left.checked_sub(chunk.data.len() as u64).ok_or_else(|| wrong_length(length))?;
            if !chunk.data.is_empty() {
                yield Bytes::from(chunk.data);
            }
            next = chunks.message().await.map_err(|status| io::Error::other(from_runtime(status)))?;
        }
        if left > 0 {
            Err(wrong_length(length))?;
        }
    }
}

fn wrong_length(length: u64) -> io::Error {
    io::Error::other(format!("the Runtime sent another number of bytes than {length}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let check = |range: &str, size: u64| {
            let mut asked = HeaderMap::new();
            asked.insert(header::RANGE, range.parse().unwrap());
            match wanted(&asked, "\"x\"", size) {
                Wanted::Whole => "whole".to_owned(),
                Wanted::Part(HttpRange { start, length }) => format!("{start}+{length}"),
                Wanted::Nothing => "nothing".to_owned(),
            }
        };
        for (range, size, expected) in [
            ("bytes=0-", 10, "0+10"),
            ("bytes=2-4", 10, "2+3"),
            ("bytes=8-99", 10, "8+2"),
            ("bytes=-3", 10, "7+3"),
            ("bytes=-30", 10, "0+10"),
            ("bytes=10-", 10, "nothing"),
            ("bytes=-0", 10, "nothing"),
            ("bytes=0-", 0, "nothing"),
            ("bytes=-5", 0, "whole"),
            ("bytes=4-2", 10, "whole"),
            ("bytes=0-1,4-5", 10, "whole"),
            ("bytes=99999999999999999999-", 10, "whole"),
            ("lines=0-1", 10, "whole"),
            ("bytes", 10, "whole"),
        ] {
            assert_eq!(check(range, size), expected, "{range} of {size}");
        }
    }

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        assert_eq!(quotable("resid_post.layer3.npy"), "resid_post.layer3.npy");
        assert_eq!(quotable("a\"; x=\r\né"), "a___x____");
    }
}
