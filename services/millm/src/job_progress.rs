//! The progress of an extraction and of a dataset that is added. A terminal gets a bar, a pipe a line for each state and
//! each tenth; `--json` prints every message.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget};
use millm_api::inspection::{
    dataset::DatasetProgress,
    extraction::{self as api, ExtractionProgress, ExtractionState},
};
use millm_kit::format;
use millm_proto::{downloader::v1::AddDatasetProgress, inspection::v1::Extraction};

use crate::{output, progress::style};

/// The positions of a bar.
const STEPS: u64 = 1000;

/// One bar on stderr, or its lines.
struct Bar {
    bar: ProgressBar,
    /// The state and tenth of the last printed line.
    printed: Option<(String, u32)>,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr_with_hz(10));
        bar.set_style(style("{prefix:11} {wide_bar:.cyan/dim} {percent:>3}%  {msg}"));
        Self { bar, printed: None }
    }

    fn show(&mut self, state: &str, fraction: f64, text: &str) {
        if self.bar.is_hidden() {
            let step = (state.to_owned(), (fraction * 10.0) as u32);
            if self.printed.as_ref() != Some(&step) {
                eprintln!("{state:11} {:3.0}%  {text}", fraction * 100.0);
                self.printed = Some(step);
            }
            return;
        }
        self.bar.set_prefix(state.to_owned());
        self.bar.set_position((fraction * STEPS as f64) as u64);
        self.bar.set_message(text.to_owned());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Shows one extraction until it is over.
pub struct ExtractionBar {
    bar: Bar,
    json: bool,
}

impl ExtractionBar {
    pub fn new(json: bool) -> Self {
        Self { bar: Bar::new(), json }
    }

    /// Shows the present state.
    pub fn show(&mut self, extraction: &Extraction) -> Result<()> {
        if api::is_over(extraction.state()) {
            return Ok(());
        }
        let progress = ExtractionProgress::from(extraction);
        if self.json {
            return output::json(&progress);
        }
        self.bar.show(progress.state.as_str(), api::fraction(extraction), &describe(&progress));
        Ok(())
    }
}

/// Returns the text beside the bar: `12 of 100 samples  3.4 samples/s  9 s left`.
fn describe(progress: &ExtractionProgress) -> String {
    if progress.state == ExtractionState::Queued {
        return "waits for its turn".to_owned();
    }
    let mut parts = vec![format!("{} of {} samples", progress.samples_done, progress.samples_total)];
    parts.extend(progress.samples_per_second.map(|rate| format!("{rate:.1} samples/s")));
    let left = progress.seconds_left.and_then(|seconds| u64::try_from(seconds).ok());
    parts.extend(left.map(|seconds| format!("{} left", format::seconds(seconds))));
    parts.join("  ")
}

/// Shows a dataset that is added.
pub struct DatasetBar {
    bar: Bar,
    json: bool,
}

impl DatasetBar {
    pub fn new(json: bool) -> Self {
        Self { bar: Bar::new(), json }
    }

    /// Shows a message.
    pub fn show(&mut self, progress: &AddDatasetProgress) -> Result<()> {
        if self.json {
            return output::json(&DatasetProgress::from(progress));
        }
        let (done, total) = (progress.bytes_done.max(0) as u64, progress.bytes_total.max(0) as u64);
        let fraction = (done as f64 / total.max(1) as f64).min(1.0);
        let size = if total > 0 {
            format!("{} of {}", format::bytes(done), format::bytes(total))
        } else {
            String::new()
        };
        let text = [size, progress.detail.clone()].into_iter().filter(|part| !part.is_empty());
        self.bar.show("adding", fraction, &text.collect::<Vec<_>>().join("  "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use millm_proto::inspection::v1::extraction::State;

    use super::*;

    #[test]
    fn what_is_unknown_is_not_said() {
        let mut extraction = Extraction { samples_done: 3, samples_total: 9, ..Extraction::default() };
        extraction.set_state(State::Running);
        let text = |extraction: &Extraction| describe(&ExtractionProgress::from(extraction));
        assert_eq!(text(&extraction), "3 of 9 samples");
        extraction.samples_per_second = 1.25;
        extraction.time_left = Some(prost_types::Duration { seconds: 4, nanos: 900_000_000 });
        assert_eq!(text(&extraction), "3 of 9 samples  1.2 samples/s  5 s left");
        extraction.set_state(State::Queued);
        assert_eq!(text(&extraction), "waits for its turn");
    }
}
