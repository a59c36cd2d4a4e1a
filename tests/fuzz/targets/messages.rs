//! gRPC messages. The first line is the method. The rest is the message's bytes, or, with `web ` before the method, a
//! whole gRPC-web body with its frames.

use millm_proto::runtime::v1::constraint::Kind;
use millm_proto::runtime::v1::generate_request::Prompt;
use millm_proto::runtime::v1::{
    Constraint, GenerateRequest, Message as Said, Messages, Sampling, TokenizeRequest,
};
use prost::Message;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

use super::languages;
use super::raw::Raw;
use crate::harness::{Judged, Server, Verdict, greedy, grpc_web, judge_status};
use crate::hostile_inputs::{grammars, schemas};
use crate::mutator::Language;
use crate::runner::{Target, run};

/// The methods that are called: none that unloads the model that other inputs need.
const METHODS: [&str; 9] = [
    "millm.runtime.v1.RuntimeService/Generate",
    "millm.runtime.v1.RuntimeService/Tokenize",
    "millm.runtime.v1.RuntimeService/Detokenize",
    "millm.runtime.v1.RuntimeService/EstimateMemory",
    "millm.catalog.v1.CatalogService/GetModel",
    "millm.catalog.v1.CatalogService/ListModels",
    "millm.downloader.v1.DownloaderService/ListDownloads",
    "millm.downloader.v1.DownloaderService/CheckStorage",
    "nobody.Nothing/Never",
];

struct Call;

impl Target for Call {
    const NAME: &'static str = "grpc";
    const MOST: usize = 1 << 20;

    fn language() -> &'static Language {
        &languages::PROTOBUF
    }

    fn seeds() -> Vec<Vec<u8>> {
        let mut requests: Vec<GenerateRequest> = vec![sampled(), chatting()];
        let kinds = schemas::numbers().into_iter().map(|(_, schema)| Kind::JsonSchema(schema.to_string()));
        let kinds = kinds.chain(grammars::larks().into_iter().take(5).map(|(_, lark)| Kind::Grammar(lark)));
        let kinds = kinds.chain(grammars::regexes().into_iter().take(2).map(|(_, regex)| Kind::Regex(regex)));
        requests.extend(kinds.map(held));
        let plain = requests.iter().map(|request| entry(METHODS[0], &request.encode_to_vec()));
        let web = requests.iter().take(6).map(|request| {
            entry(&format!("web {}", METHODS[0]), &grpc_web::framed(&request.encode_to_vec()))
        });
        let text =
            TokenizeRequest { model: String::new(), text: "Hello!".to_owned(), add_special_tokens: true };
        plain.chain(web).chain([entry(METHODS[1], &text.encode_to_vec())]).collect()
    }

    async fn ask(server: &Server, input: &[u8]) -> Judged {
        let line = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
        let (first, rest) =
            (String::from_utf8_lossy(&input[..line]), input.get(line + 1..).unwrap_or_default());
        let method = METHODS.iter().find(|method| first.ends_with(*method)).unwrap_or(&METHODS[0]);
        let path = format!("/{method}");
        if first.starts_with("web ") {
            return grpc_web::call(server.rest().client(), &server.url(), &path, rest.to_vec()).await;
        }
        call(server, &path, rest.to_vec()).await
    }
}

fn entry(method: &str, message: &[u8]) -> Vec<u8> {
    [method.as_bytes(), b"\n", message].concat()
}

fn held(kind: Kind) -> GenerateRequest {
    let constraint = Constraint { kind: Some(kind), field: String::new() };
    GenerateRequest { constraint: Some(constraint), ..greedy(Prompt::Text("Hello!".to_owned()), 4) }
}

fn sampled() -> GenerateRequest {
    let sampling = Sampling {
        temperature: Some(0.7),
        top_k: Some(5),
        seed: Some(7),
        logit_bias: [(5, -1.0), (6, 1.0)].into(),
        ..Sampling::default()
    };
    GenerateRequest {
        sampling: Some(sampling),
        stop: vec!["a".to_owned()],
        logprobs: Some(3),
        prompt_logprobs: true,
        ..greedy(Prompt::Text("Hello!".to_owned()), 4)
    }
}

fn chatting() -> GenerateRequest {
    let said = Said { role: "user".to_owned(), content: "Hello!".to_owned(), ..Said::default() };
    let tools_json = r#"[{"type":"function","function":{"name":"f"}}]"#.to_owned();
    greedy(Prompt::Messages(Messages { messages: vec![said], tools_json }), 4)
}

async fn call(server: &Server, path: &str, message: Vec<u8>) -> Judged {
    let channel = Endpoint::from_shared(server.url()).expect("an address").connect_lazy();
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| format!("{error:?}"))?;
    let path = PathAndQuery::try_from(path).expect("methods are paths");
    let mut stream = match grpc.server_streaming(Request::new(message), path, Raw).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return judge_status(&status),
    };
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Verdict::taken("")),
            Err(status) => return judge_status(&status),
        }
    }
}

#[tokio::test]
async fn grpc() {
    run::<Call>().await;
}
