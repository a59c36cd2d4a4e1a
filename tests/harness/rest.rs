//! A REST client: JSON in, status and JSON out.

use std::sync::Once;

use reqwest::{Client, Method, Response};
use serde_json::Value;

use super::{DEADLINE, within};

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Rest {
    client: Client,
    url: String,
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// The body as JSON; null if it is not JSON.
    pub json: Value,
    pub text: String,
}

impl Answer {
    /// Returns `data` of the management API's envelope. The call must have succeeded.
    pub fn data(self) -> Value {
        assert!(self.status == 200 && self.json["success"] == true, "{} {}", self.status, self.text);
        self.json["data"].clone()
    }

    /// Returns the error's code: of the management API's envelope, or of OpenAI's body.
    pub fn code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.json["error"]["message"].as_str().unwrap_or_default()
    }
}

impl Rest {
    pub fn new(url: &str) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            rustls::crypto::ring::default_provider().install_default().expect("installed once");
        });
        let client = Client::builder().timeout(DEADLINE).build().expect("no more than defaults");
        Self { client, url: url.to_owned() }
    }

    /// Returns whether `/readyz` reports that the server is ready.
    pub async fn ready(&self) -> bool {
        let answer = self.client.get(format!("{}/readyz", self.url)).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None, &[]).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, Some(body), &[]).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PATCH, path, Some(body), &[]).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None, &[]).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.call(Method::GET, path, None, headers).await
    }

    /// Sends a request and returns without waiting for the body.
    pub async fn open(&self, path: &str, body: &Value) -> Response {
        self.client.post(format!("{}{path}", self.url)).json(body).send().await.expect("an answer")
    }

    /// Sends any bytes as a body. An error is a broken connection.
    pub async fn send(&self, path: &str, body: Vec<u8>) -> Result<Answer, reqwest::Error> {
        let request = self.client.post(format!("{}{path}", self.url));
        let answer = request.header("content-type", "application/json").body(body).send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok(Answer { status, json: serde_json::from_str(&text).unwrap_or(Value::Null), text })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(body);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = within(path, request.send()).await.unwrap_or_else(|e| panic!("{path}: {e:?}"));
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a whole body");
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status, json, text }
    }

    /// Returns the greedy continuation of a prompt of token ids.
    pub async fn greedy(&self, model: &str, prompt: &Value, max_tokens: u32) -> String {
        let body = serde_json::json!({
            "model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0,
        });
        let answer = self.post("/v1/completions", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json["choices"][0]["text"].as_str().expect("a text").to_owned()
    }

    /// Returns the greedy answer to a question.
    pub async fn chat(&self, model: &str, question: &str) -> String {
        let body = serde_json::json!({
            "model": model, "temperature": 0, "messages": [{ "role": "user", "content": question }],
        });
        let answer = self.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
    }
}
