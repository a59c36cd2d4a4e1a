//! `millm bench`: the engine measured in this process, without a server.

use anyhow::Result;
use millm_runtime::bench::{
    self, BenchOptions, DecodingModes, Figures, InterTokenLatency, ModelSource, Report,
};
use millm_sandbox::Sandbox;

use crate::args::Bench;
use crate::output::{self, line, table};

/// Measures the engine and prints the figures.
pub async fn run(args: Bench, json: bool) -> Result<()> {
    let model = match (args.model, args.synthetic) {
        (_, Some(shape)) => ModelSource::Synthetic {
            shape,
            quantization: args.quantization,
            folder: args.keep_in.unwrap_or_else(|| std::env::temp_dir().join("millm-bench")),
        },
        (path, None) => ModelSource::Local(path.unwrap_or_default()),
    };
    let options = BenchOptions {
        model,
        device: args.device,
        threads: args.threads,
        kernels: args.kernels,
        streams: args.streams,
        rounds: args.rounds,
        llama_cpp: args.llama_cpp,
    };
    let sandbox = Sandbox::of_this_program()?;
    let measure = move || bench::run(&options, &sandbox, &|what| eprintln!("{what}"));
    let report = tokio::task::spawn_blocking(measure).await??;
    if json { output::json(&report) } else { show(&report) }
}

/// A row's name, and which figure it shows.
type Figure = (String, fn(&Figures) -> f64);

fn show(report: &Report) -> Result<()> {
    let Report { model, threads, streams, rounds, .. } = report;
    let device = match report.device.as_str() {
        "cpu" => format!("{threads} threads"),
        device => device.to_owned(),
    };
    line(&format!("{model}, {device}, medians of {rounds}"))?;
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let Report { weight_bytes, estimated_bytes, used_bytes, .. } = report;
    line(&format!(
        "weights {}; all estimated at {}, in use {}",
        mib(*weight_bytes),
        mib(*estimated_bytes),
        mib(*used_bytes)
    ))?;
    if let (Some(bandwidth), Some(share)) = (report.bandwidth, report.roofline_share) {
        line(&format!(
            "memory {:.1} GB/s, {} a token: decode is at {:.0} % of that",
            bandwidth / 1e9,
            mib(report.bytes_per_token),
            100.0 * share
        ))?;
    }
    let figures: [Figure; 5] = [
        ("prefill 512, tokens/s".into(), |f| f.prefill),
        ("decode 128, tokens/s".into(), |f| f.decode),
        ("decode at 1536, tokens/s".into(), |f| f.decode_deep),
        (format!("{streams} streams, tokens/s in all"), |f| f.streams),
        ("load to first token, s".into(), |f| f.first_token_seconds),
    ];
    let rows: Vec<Vec<String>> = figures
        .into_iter()
        .map(|(name, of)| {
            let own = of(&report.millm);
            let theirs = report.llama_cpp.as_ref().map(of);
            let cell =
                |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
            vec![name, cell(Some(own)), cell(theirs), cell(theirs.map(|theirs| own / theirs))]
        })
        .collect();
    table(&["", "miLLM", "llama.cpp", "ratio"], &[1, 2, 3], &rows)?;
    let InterTokenLatency { p99_seconds, max_seconds } = report.inter_token_latency;
    line(&format!(
        "inter-token latency during a prefill of 2000 tokens: p99 {:.0} ms, {:.1} decode steps of {streams} streams (maximum {:.0} ms)",
        1000.0 * p99_seconds,
        report.p99_latency_steps,
        1000.0 * max_seconds
    ))?;
    let DecodingModes { sampled, constrained, greedy, speculative } = report.decoding_modes;
    line(&format!(
        "a JSON schema costs {:.1} % of decode: {constrained:.2} tokens/s instead of {sampled:.2}",
        100.0 * report.constraint_overhead
    ))?;
    line(&format!(
        "speculative decoding repeats a text {:.1} times as fast: {speculative:.2} tokens/s instead of {greedy:.2}",
        report.speculation_speedup
    ))
}
