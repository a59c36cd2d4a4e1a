//! Runs the generations of one request, some at once, and joins their messages into one stream. Dropping the stream
//! cancels them all.

use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{
    FinishReason, GenerateEnd, GenerateRequest, GenerateResponse, GenerateStart, TokenLogprob,
};

use super::memory_bounds::Collected;
use crate::state::{AppState, from_runtime};

/// A message of one of the generations.
#[derive(Debug)]
pub struct Piece {
    /// The index of its generation.
    pub index: usize,
    /// The message.
    pub response: GenerateResponse,
}

/// The messages of all generations, in the order they come.
pub type Pieces = stream::BoxStream<'static, Result<Piece, ServiceError>>;

/// Starts the generations and waits for the first message: an error of the request shows before anything is answered.
/// `requests` are made one by one as they start: each holds a copy of its prompt.
///
/// # Errors
///
/// The Runtime's error of the first message.
pub async fn start(
    app: Arc<AppState>,
    requests: impl Iterator<Item = GenerateRequest> + Send + 'static,
) -> Result<Pieces, ServiceError> {
    let parallel = app.parallel;
    let each = requests.enumerate().map(move |(index, request)| one(app.clone(), index, request).boxed());
    let mut pieces = stream::iter(each).flatten_unordered(parallel).boxed();
    let Some(first) = pieces.next().await else {
        return Err(ServiceError::internal("a request without generations"));
    };
    let first = first?;
    Ok(stream::once(async move { Ok(first) }).chain(pieces).boxed())
}

fn one(
    app: Arc<AppState>,
    index: usize,
    request: GenerateRequest,
) -> impl Stream<Item = Result<Piece, ServiceError>> + Send {
    async_stream::try_stream! {
        let mut stream = app.runtime().generate(request).await.map_err(from_runtime)?.into_inner();
        let mut ended = false;
        while let Some(response) = stream.message().await.map_err(from_runtime)? {
            if let Some(end) = &response.end {
                if end.finish_reason() == FinishReason::Cancelled {
                    Err(ServiceError::service_unavailable("model"))?;
                }
                ended = true;
            }
            yield Piece { index, response };
        }
        if !ended {
            Err(ServiceError::service_unavailable("runtime"))?;
        }
    }
}

/// A complete generation.
#[derive(Debug, Default)]
pub struct Whole {
    /// Its first message.
    pub start: GenerateStart,
    /// All text.
    pub text: String,
    /// The log probabilities of all tokens, if requested.
    pub logprobs: Vec<TokenLogprob>,
    /// Its last message.
    pub end: GenerateEnd,
}

impl Whole {
    fn absorb(&mut self, response: GenerateResponse) {
        if let Some(start) = response.start {
            self.start = GenerateStart { prompt_token_ids: Vec::new(), ..start };
        }
        self.text.push_str(&response.text);
        self.logprobs.extend(response.logprobs);
        if let Some(end) = response.end {
            self.end = end;
        }
    }
}

/// Returns all generations, in the order of the requests.
///
/// # Errors
///
/// The Runtime's error, or the error of [`Collected::add`] when they are too large. Running generations are cancelled
/// then.
pub async fn collect(
    mut pieces: Pieces,
    count: usize,
    collected: &mut Collected,
) -> Result<Vec<Whole>, ServiceError> {
    let mut wholes: Vec<Whole> = (0..count).map(|_| Whole::default()).collect();
    while let Some(piece) = pieces.next().await {
        let Piece { index, response } = piece?;
        collected.add(&response)?;
        wholes[index].absorb(response);
    }
    Ok(wholes)
}
