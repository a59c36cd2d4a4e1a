//! `millm bench`: the engine measured in this process, without a server.

use anyhow::Result;
use millm_runtime::bench::{self, Figures, Model, Pauses, Plan, Report};
use millm_sandbox::Sandbox;

use crate::args::Bench;
use crate::output::{self, line, table};

pub async fn run(args: Bench, json: bool) -> Result<()> {
    let model = match (args.model, args.synthetic) {
        (_, Some(shape)) => Model::Synthetic {
            shape,
            quantization: args.quantization,
            folder: args.keep_in.unwrap_or_else(|| std::env::temp_dir().join("millm-bench")),
        },
        (path, None) => Model::Local(path.unwrap_or_default()),
    };
    let plan = Plan {
        model,
        device: args.device,
        threads: args.threads,
        streams: args.streams,
        rounds: args.rounds,
        llama_cpp: args.llama_cpp,
    };
    let sandbox = Sandbox::of_this_program()?;
    let measure = move || bench::run(&plan, &sandbox, &|what| eprintln!("{what}"));
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
    let Report { weight_bytes, estimated_bytes, taken_bytes, .. } = report;
    line(&format!(
        "weights {}; all estimated at {}, in use {}",
        mib(*weight_bytes),
        mib(*estimated_bytes),
        mib(*taken_bytes)
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
    let Pauses { most, longest } = report.pauses;
    line(&format!(
        "beside a prompt of 2000 tokens answers wait {:.0} ms for a token, {:.1} steps of {streams} streams (99 of 100; {:.0} at the longest)",
        1000.0 * most,
        report.pause_steps,
        1000.0 * longest
    ))?;
    let Report { choosing, .. } = report;
    line(&format!(
        "a JSON schema costs {:.1} % of decode: {:.2} tokens/s instead of {:.2}",
        100.0 * report.constraint_share,
        choosing.held,
        choosing.drawn
    ))?;
    line(&format!(
        "guessing ahead says a text again {:.1} times as fast: {:.2} tokens/s instead of {:.2}",
        report.guessing_gain, choosing.guessed, choosing.repeated
    ))
}
