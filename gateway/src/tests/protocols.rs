//! Beside the REST APIs: gRPC and gRPC-web, guard, readiness, the page.

use axum::{body::Body, http::Method};
use millm_kit::{Channel, Host, Shutdown};
use millm_proto::catalog::v1::{
    GetModelRequest, Model, catalog_service_client::CatalogServiceClient,
    catalog_service_server::SERVICE_NAME,
};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use url::Url;

use super::fixture::{Fixture, request};

const GET_MODEL: &str = "/millm.catalog.v1.CatalogService/GetModel";

fn framed(message: &impl prost::Message) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((message.encoded_len() as u32).to_be_bytes());
    bytes.extend(message.encode_to_vec());
    bytes
}

#[tokio::test]
async fn grpc_web() {
    let fixture = Fixture::new().await;
    fixture.stage.models.lock().unwrap().push(Model { id: 1, handle: "a".into(), ..Model::default() });
    let call = async |path: &str, name: &str| {
        let request = request("POST", path).header("content-type", "application/grpc-web+proto");
        let body = framed(&GetModelRequest { name: name.into() });
        fixture.send(request.body(Body::from(body)).unwrap()).await
    };
    let (status, headers, bytes) = call(GET_MODEL, "a").await;
    assert_eq!(
        (status.as_u16(), &headers["content-type"]),
        (200, &"application/grpc-web+proto".parse().unwrap())
    );
    let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
    assert_eq!(Model::decode(&bytes[5..5 + length]).unwrap().handle, "a");
    let trailers = String::from_utf8_lossy(&bytes[5 + length..]).to_string();
    assert!(trailers.contains("grpc-status:0"), "{trailers}");
    let (_, headers, bytes) = call(GET_MODEL, "zzz").await;
    let told = format!("{headers:?}{}", String::from_utf8_lossy(&bytes));
    assert!(told.contains("Model%20not%20found"), "{told}");
    let (_, headers, bytes) = call("/millm.nothing.v1.Service/Method", "a").await;
    let told = format!("{headers:?}{}", String::from_utf8_lossy(&bytes));
    assert!(told.contains("12"), "{told}");
}

#[tokio::test]
async fn native_grpc_over_a_socket() {
    let fixture = Fixture::new().await;
    fixture.stage.models.lock().unwrap().push(Model { id: 1, handle: "a".into(), ..Model::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = fixture.host.shutdown.clone();
    let server = tokio::spawn(fixture.host.serve(listener, fixture.routes));
    let channel = Channel::remote(&Url::parse(&format!("http://{address}")).unwrap()).unwrap();
    let mut catalog = CatalogServiceClient::new(channel.clone());
    let model = catalog.get_model(GetModelRequest { name: "a".into() }).await.unwrap().into_inner();
    assert_eq!(model.handle, "a");
    let status = catalog.get_model(GetModelRequest { name: "b".into() }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(millm_kit::ServiceError::from(status).message, "Model not found: 'b'.");
    let request = HealthCheckRequest { service: SERVICE_NAME.into() };
    HealthClient::new(channel).check(request).await.unwrap();
    shutdown.stopping.cancel();
    shutdown.forced.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused_by_every_protocol() {
    let fixture = Fixture::new().await;
    let send = async |path: &str, kind: &str, header: (&str, &str)| {
        let mut request = request("POST", path).header("content-type", kind).body(Body::from("{}")).unwrap();
        let name: axum::http::HeaderName = header.0.parse().unwrap();
        request.headers_mut().insert(name, header.1.parse().unwrap());
        fixture.send(request).await
    };
    for header in [("host", "evil.example"), ("origin", "http://evil.example")] {
        for path in ["/v1/chat/completions", "/api/models", "/", "/healthz"] {
            let (status, headers, bytes) = send(path, "application/json", header).await;
            assert_eq!(status.as_u16(), 403);
            assert!(headers.get("access-control-allow-origin").is_none());
            let answer: Value = serde_json::from_slice(&bytes).unwrap();
            let code = if path.starts_with("/v1") { "forbidden" } else { "FORBIDDEN" };
            assert_eq!(answer["error"]["code"], code);
        }
        let (status, headers, _) = send(GET_MODEL, "application/grpc", header).await;
        assert_eq!((status.as_u16(), &headers["grpc-status"]), (403, &"7".parse().unwrap()));
    }
}

#[tokio::test]
async fn allowed_origins_may_read_the_answers() {
    let fixture = Fixture::new().await;
    let origin = "http://localhost:5173";
    let preflight = request("OPTIONS", GET_MODEL)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,x-grpc-web");
    let (status, headers, _) = fixture.send(preflight.body(Body::empty()).unwrap()).await;
    assert_eq!(status.as_u16(), 200);
    assert_eq!(headers["access-control-allow-origin"], origin);
    assert_eq!(headers["access-control-allow-headers"], "content-type,x-grpc-web");
    let get = request("GET", "/v1/models").header("origin", origin);
    let (status, headers, _) = fixture.send(get.body(Body::empty()).unwrap()).await;
    assert_eq!((status.as_u16(), &headers["access-control-allow-origin"]), (200, &origin.parse().unwrap()));
    let own = request("GET", "/v1/models").header("origin", "http://localhost:8000");
    let (status, headers, _) = fixture.send(own.body(Body::empty()).unwrap()).await;
    assert!(status.as_u16() == 200 && headers.get("access-control-allow-origin").is_none());
}

#[tokio::test]
async fn readiness_is_that_of_the_services() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.get("/healthz").await, (200, json!({"status": "ok"})));
    let services = json!({"catalog": "serving", "downloader": "serving", "runtime": "serving"});
    assert_eq!(fixture.get("/readyz").await, (200, json!({"ready": true, "services": services})));
    let health = fixture.host.health();
    health.set_service_status(SERVICE_NAME, tonic_health::ServingStatus::NotServing).await;
    let (status, answer) = fixture.get("/readyz").await;
    assert_eq!((status, &answer["services"]["catalog"]), (503, &json!("not serving")));
    fixture.host.shutdown.stopping.cancel();
    assert_eq!(fixture.get("/readyz").await.1["services"]["gateway"], "stopping");
}

#[tokio::test]
async fn services_that_are_away() {
    // A port that was free a moment ago: nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let away = Channel::remote(&Url::parse(&format!("http://{free}")).unwrap()).unwrap();
    let host = Host::new(Shutdown::default());
    let services = crate::Services { catalog: away.clone(), downloader: away.clone(), runtime: away };
    let settings = millm_kit::Settings::load(None, |_| None, &[]).unwrap();
    let routes = crate::Gateway::build(&settings, free, services, &host).routes(host.standard_routes());
    let fixture = Fixture { routes, ..Fixture::new().await };
    let (status, answer) = fixture.get("/readyz").await;
    assert_eq!((status, &answer["services"]["runtime"]), (503, &json!("not answering")));
    let (status, answer) = fixture.get("/api/models").await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("SERVICE_UNAVAILABLE")));
    assert_eq!(answer["error"]["message"], "The catalog is not answering. Try again soon.");
    let (status, answer) = fixture.get("/v1/models").await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("service_unavailable")));
}

#[tokio::test]
async fn the_page_and_what_is_not_there() {
    let fixture = Fixture::new().await;
    for path in ["/", "/models", "/chat"] {
        let page = request("GET", path).header("accept", "text/html,*/*");
        let (status, headers, _) = fixture.send(page.body(Body::empty()).unwrap()).await;
        assert_eq!(status.as_u16(), 200);
        assert!(headers["content-type"].to_str().unwrap().starts_with("text/html"));
    }
    for (method, path) in
        [(Method::GET, "/api/nothing"), (Method::POST, "/models"), (Method::GET, "/assets/x.js")]
    {
        let (status, answer) = fixture.call(method.as_str(), path, json!({})).await;
        assert_eq!((status, &answer["error"]["code"]), (404, &json!("NOT_FOUND")), "{path}");
    }
}
