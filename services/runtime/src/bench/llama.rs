//! llama.cpp's figures for the same file, measured by its own programs: llama-bench, and llama-server for what several
//! clients get.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{BenchError, DECODE, DEEP_DECODE, DEPTH, Figures, PREFILL, SHORT, STREAM_DECODE};

/// A server that is not up by then will not be.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn figures(folder: &Path, model: &Path, threads: usize, streams: usize) -> Result<Figures, BenchError> {
    let bench = |arguments: &[String]| bench(folder, model, threads, arguments);
    let pair = |name: &str, value: usize| [name.to_owned(), value.to_string()];
    let flat = bench(&[pair("-p", PREFILL), pair("-n", DECODE)].concat())?;
    let deep = bench(&[pair("-p", 0), pair("-n", DEEP_DECODE), pair("-d", DEPTH)].concat())?;
    let of = |tests: &[Value], kind: &str| {
        let test = tests.iter().find(|test| test[kind].as_u64().is_some_and(|tokens| tokens > 0));
        test.and_then(|test| test["avg_ts"].as_f64()).ok_or_else(|| failed("llama-bench", "gave no rate"))
    };
    let server = Server::start(folder, model, threads, streams)?;
    server.answer(SHORT, 1, 0)?;
    let first_token_seconds = server.begin.elapsed().as_secs_f64();
    Ok(Figures {
        prefill: of(&flat, "n_prompt")?,
        decode: of(&flat, "n_gen")?,
        decode_deep: of(&deep, "n_gen")?,
        streams: server.together(streams)?,
        first_token_seconds,
    })
}

fn failed(what: &str, why: impl ToString) -> BenchError {
    BenchError::LlamaCpp { what: what.to_owned(), why: why.to_string() }
}

/// One run of llama-bench: a value for each test.
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
        .map_err(|source| BenchError::Io { what: name.to_owned(), source })?;
    if !output.status.success() {
        return Err(failed(name, output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).map_err(|error| failed(name, error))).collect()
}

/// llama-server while it runs.
struct Server {
    process: Child,
    address: SocketAddr,
    begin: Instant,
}

impl Server {
    fn start(folder: &Path, model: &Path, threads: usize, streams: usize) -> Result<Self, BenchError> {
        let name = "llama-server";
        let io = |source| BenchError::Io { what: name.to_owned(), source };
        // The port is free now; that somebody takes it before the server does is told as a failure to start.
        let address =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).map_err(io)?;
        let context = streams * (SHORT + STREAM_DECODE + 8).next_multiple_of(256);
        let begin = Instant::now();
        let process = Command::new(folder.join(name))
            .arg("-m")
            .arg(model)
            .args(["--host", "127.0.0.1", "--no-webui"])
            .args(["--port", &address.port().to_string(), "-t", &threads.to_string()])
            .args(["-np", &streams.to_string(), "-c", &context.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(io)?;
        let mut server = Self { process, address, begin };
        server.wait()?;
        Ok(server)
    }

    fn wait(&mut self) -> Result<(), BenchError> {
        while self.begin.elapsed() < PATIENCE {
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

    /// Tokens per second of all streams, from when the last has its prompt read to the end.
    fn together(&self, streams: usize) -> Result<f64, BenchError> {
        let ends = std::thread::scope(|scope| {
            let running: Vec<_> = (1..=streams)
                .map(|stream| {
                    scope.spawn(move || {
                        let begin = Instant::now();
                        let answer = self.answer(SHORT, STREAM_DECODE, stream)?;
                        let read = answer["timings"]["prompt_ms"].as_f64().unwrap_or(0.0) / 1000.0;
                        Ok((begin + Duration::from_secs_f64(read), Instant::now()))
                    })
                })
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(failed("llama-server", "a client panicked")))
            };
            running.into_iter().map(join).collect::<Result<Vec<_>, BenchError>>()
        })?;
        let begin = ends.iter().map(|(begin, _)| *begin).max();
        let end = ends.iter().map(|(_, end)| *end).max();
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

    /// The body of an answer to a request.
    fn call(&self, request: &str, body: &str) -> Result<String, BenchError> {
        let io = |source| BenchError::Io { what: "llama-server".to_owned(), source };
        let mut stream = TcpStream::connect(self.address).map_err(io)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
        let length = body.len();
        let head = format!(
            "{request} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).map_err(io)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(io)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| failed("llama-server", "no HTTP"))?;
        if head.split(' ').nth(1).is_none_or(|status| status != "200") {
            return Err(failed("llama-server", head.lines().next().unwrap_or_default()));
        }
        Ok(body.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
