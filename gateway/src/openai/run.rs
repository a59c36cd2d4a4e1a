//! Runs the generations of one request: a prompt for each choice, some at once, their messages as one stream.
//! Dropping the stream cancels them all.

use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{
    FinishReason, GenerateEnd, GenerateRequest, GenerateResponse, GenerateStart, TokenLogprob,
};

use super::bounds::Collected;
use crate::app::{App, from_runtime};

/// A message of one of the generations.
#[derive(Debug)]
pub struct Piece {
    /// Which of the requests.
    pub index: usize,
    pub response: GenerateResponse,
}

pub type Pieces = stream::BoxStream<'static, Result<Piece, ServiceError>>;

/// Starts them and waits for the first message: what is wrong with a request shows before anything is answered.
/// `requests` are made as they are started: each holds a prompt of its own.
pub async fn start(
    app: Arc<App>,
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
    app: Arc<App>,
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

/// A generation, complete.
#[derive(Debug, Default)]
pub struct Whole {
    pub start: GenerateStart,
    pub text: String,
    pub logprobs: Vec<TokenLogprob>,
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

/// All of them, in the order of the requests. Errors: INVALID_ARGUMENT when they are more than `collected` allows; what
/// is still running is cancelled then.
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
