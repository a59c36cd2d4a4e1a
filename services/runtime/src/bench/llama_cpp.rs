//! llama.cpp's figures for the same file, measured with its own programs: llama-bench, and llama-server for parallel
//! streams.
//!
//! The HTTP client is written here since the runtime has none: two requests to a local server, without TLS, redirects or
//! keep-alive.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    error::BenchError,
    figures::Figures,
    workload::{DECODE, DEEP_DECODE, DEPTH, PREFILL, SHORT_PROMPT, STREAM_DECODE},
};

/// The longest time that the server may take to start, or to answer.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Measures each figure with and without flash attention and returns the better one: on a CPU, flash attention is slow
/// at depth.
pub(crate) fn figures(
    folder: &Path,
    model: &Path,
    threads: usize,
    streams: usize,
) -> Result<Figures, BenchError> {
    let [without, with] = [FlashAttention::Off, FlashAttention::On];
    let without = figures_with(without, folder, model, threads, streams)?;
    Ok(without.best(&figures_with(with, folder, model, threads, streams)?))
}

#[derive(Clone, Copy)]
enum FlashAttention {
    Off,
    On,
}

fn figures_with(
    flash: FlashAttention,
    folder: &Path,
    model: &Path,
    threads: usize,
    streams: usize,
) -> Result<Figures, BenchError> {
    let pair = |name: &str, value: usize| [name.to_owned(), value.to_string()];
    let flash_attention = pair("-fa", usize::from(matches!(flash, FlashAttention::On)));
    let bench = |arguments: &[String]| {
        let arguments = [arguments, flash_attention.as_slice()].concat();
        bench(folder, model, threads, &arguments)
    };
    let flat = bench(&[pair("-p", PREFILL), pair("-n", DECODE)].concat())?;
    let deep = bench(&[pair("-p", 0), pair("-n", DEEP_DECODE), pair("-d", DEPTH)].concat())?;
    let of = |tests: &[Value], kind: &str| {
        let test = tests.iter().find(|test| test[kind].as_u64().is_some_and(|tokens| tokens > 0));
        test.and_then(|test| test["avg_ts"].as_f64()).ok_or_else(|| failed("llama-bench", "reported no rate"))
    };
    let server = Server::start(folder, model, threads, streams, flash)?;
    server.answer(SHORT_PROMPT, 1, 0)?;
    let first_token_seconds = server.begin.elapsed().as_secs_f64();
    Ok(Figures {
        prefill: of(&flat, "n_prompt")?,
        decode: of(&flat, "n_gen")?,
        decode_deep: of(&deep, "n_gen")?,
        streams: server.together(streams)?,
        first_token_seconds,
    })
}

fn failed(program: &str, why: impl ToString) -> BenchError {
    BenchError::LlamaCpp { program: program.to_owned(), why: why.to_string() }
}

/// Runs llama-bench and returns the JSON of each test.
fn bench(
    folder: &Path,
    model: &Path,
    threads: usize,
    arguments: &[String],
) -> Result<Vec<Value>, BenchError> {
    let name = "llama-bench";
    let output = Command::new(folder.join(name))
        .arg("-m")
        .arg(model)
        .args(["-r", "1", "-o", "jsonl", "-t", &threads.to_string()])
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .map_err(|source| BenchError::Io { program: name.to_owned(), source })?;
    if !output.status.success() {
        return Err(failed(name, output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).map_err(|error| failed(name, error))).collect()
}

/// A running llama-server, killed when it is dropped.
struct Server {
    process: Child,
    address: SocketAddr,
    begin: Instant,
}

impl Server {
    fn start(
        folder: &Path,
        model: &Path,
        threads: usize,
        streams: usize,
        flash: FlashAttention,
    ) -> Result<Self, BenchError> {
        let name = "llama-server";
        let io = |source| BenchError::Io { program: name.to_owned(), source };
        // If another program takes the port in the meantime, the server fails to start.
        let address =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).map_err(io)?;
        let context = streams * (SHORT_PROMPT + STREAM_DECODE + 8).next_multiple_of(256);
        let begin = Instant::now();
        let process = Command::new(folder.join(name))
            .arg("-m")
            .arg(model)
            .args(["--host", "127.0.0.1", "--no-webui"])
            .args(["--port", &address.port().to_string(), "-t", &threads.to_string()])
            .args(["-np", &streams.to_string(), "-c", &context.to_string()])
            .args(["-fa", if matches!(flash, FlashAttention::On) { "on" } else { "off" }])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(io)?;
        let mut server = Self { process, address, begin };
        server.wait()?;
        Ok(server)
    }

    fn wait(&mut self) -> Result<(), BenchError> {
        while self.begin.elapsed() < TIMEOUT {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(failed("llama-server", format!("ended with {status}")));
            }
            if self.call("GET /health", "").is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(failed("llama-server", "did not start"))
    }

    /// Returns the tokens per second of all streams, from the last stream's end of prefill to the end.
    fn together(&self, streams: usize) -> Result<f64, BenchError> {
        let spans = std::thread::scope(|scope| {
            let running: Vec<_> = (1..=streams)
                .map(|stream| {
                    scope.spawn(move || {
                        let begin = Instant::now();
                        let answer = self.answer(SHORT_PROMPT, STREAM_DECODE, stream)?;
                        let prefill = answer["timings"]["prompt_ms"].as_f64().unwrap_or(0.0) / 1000.0;
                        Ok((begin + Duration::from_secs_f64(prefill), Instant::now()))
                    })
                })
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(failed("llama-server", "a client panicked")))
            };
            running.into_iter().map(join).collect::<Result<Vec<_>, BenchError>>()
        })?;
        let begin = spans.iter().map(|(begin, _)| *begin).max();
        let end = spans.iter().map(|(_, end)| *end).max();
        let time = begin.zip(end).map(|(begin, end)| end - begin).unwrap_or_default();
        Ok((streams * STREAM_DECODE) as f64 / time.as_secs_f64())
    }

    fn answer(&self, prompt: usize, tokens: usize, seed: usize) -> Result<Value, BenchError> {
        let prompt: Vec<usize> = (0..prompt).map(|i| (977 * seed + 31 * i) % 256).collect();
        let body = json!({
            "prompt": prompt,
            "n_predict": tokens,
            "ignore_eos": true,
            "cache_prompt": false,
            "temperature": 0,
        });
        let answer = self.call("POST /completion", &body.to_string())?;
        serde_json::from_str(&answer).map_err(|error| failed("llama-server", error))
    }

    /// Sends a request and returns the body of the response.
    fn call(&self, request: &str, body: &str) -> Result<String, BenchError> {
        let io = |source| BenchError::Io { program: "llama-server".to_owned(), source };
        let mut stream = TcpStream::connect(self.address).map_err(io)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(io)?;
        let length = body.len();
        let head = format!(
            "{request} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).map_err(io)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(io)?;
        let (head, body) =
            answer.split_once("\r\n\r\n").ok_or_else(|| failed("llama-server", "did not answer in HTTP"))?;
        if head.split(' ').nth(1).is_none_or(|status| status != "200") {
            return Err(failed("llama-server", head.lines().next().unwrap_or_default()));
        }
        Ok(body.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if the server has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
