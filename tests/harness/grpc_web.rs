//! gRPC-web as in a browser: frames in a body, with the status in the last frame.

use millm_proto::runtime::v1::{GenerateRequest, GenerateResponse};
use prost::Message;
use reqwest::Client;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue};
use tonic::{Code, Status};

use super::verdict::{Judged, Verdict, judge_status};

const GENERATE: &str = "/millm.runtime.v1.RuntimeService/Generate";
/// The flag of a frame with trailers.
const TRAILERS: u8 = 0x80;

/// Returns a message in a frame: no compression, then the length.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("frames are small").to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// Generates, and reads the answer to its end.
pub async fn generate(client: &Client, url: &str, request: &GenerateRequest) -> Judged {
    call(client, url, GENERATE, framed(&request.encode_to_vec())).await
}

/// Calls a method with any bytes as its body, frames included. A server that refuses a body before it has read it
/// closes the connection, and in HTTP/1.1 the answer may be lost with it. Then the call is repeated once.
pub async fn call(client: &Client, url: &str, path: &str, body: Vec<u8>) -> Judged {
    let send = async || {
        let request =
            client.post(format!("{url}{path}")).header("content-type", "application/grpc-web+proto");
        request.body(body.clone()).send().await
    };
    let answer = match send().await {
        Err(error) if error.is_request() => send().await,
        sent => sent,
    };
    let answer = answer.map_err(|error| format!("{error:?}"))?;
    let (http, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body = answer.bytes().await.map_err(|error| format!("the body broke off: {error:?}"))?;
    if let Some(status) = Status::from_header_map(&headers) {
        return judge(&status, "");
    }
    let (text, trailers) = frames(&body)?;
    let trailers =
        trailers.ok_or_else(|| format!("HTTP {http} and {} bytes without a status", body.len()))?;
    let status = Status::from_header_map(&trailers).ok_or("trailers without a status")?;
    judge(&status, &text)
}

fn judge(status: &Status, text: &str) -> Judged {
    if status.code() == Code::Ok { Ok(Verdict::taken(text)) } else { judge_status(status) }
}

/// Returns the text of all messages, and the trailers.
fn frames(mut body: &[u8]) -> Result<(String, Option<HeaderMap>), String> {
    let (mut text, mut trailers) = (String::new(), None);
    while !body.is_empty() {
        let head = body.get(..5).ok_or("half a frame")?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let frame = body.get(5..5 + length).ok_or("half a frame")?;
        if head[0] & TRAILERS != 0 {
            trailers = Some(headers(&String::from_utf8_lossy(frame)));
        } else if let Ok(message) = GenerateResponse::decode(frame) {
            text += &message.text;
        }
        body = &body[5 + length..];
    }
    Ok((text, trailers))
}

fn headers(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let name = HeaderName::try_from(name.trim());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value.trim())) {
            headers.insert(name, value);
        }
    }
    headers
}
