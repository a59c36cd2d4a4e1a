//! The progress of a download. A terminal gets a bar for the whole and one for each file, folded when there are many.
//! A pipe gets a line for each stage and each tenth; `--json` prints every event.

use std::{collections::HashMap, time::SystemTime};

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use millm_api::download::{self, Stage};
use millm_kit::format;
use millm_proto::downloader::v1::{Download, FileProgress, download::State};

use crate::output;

/// Up to this many files have a bar each. Of more files only those in transfer do.
const MAX_FILE_BARS: usize = 6;
const NAME_WIDTH: usize = 34;

/// Shows one download until it ends.
pub struct DownloadProgress {
    all: MultiProgress,
    total: ProgressBar,
    /// The bars of files, by path.
    files: HashMap<String, ProgressBar>,
    /// The line that counts the other files.
    more: Option<ProgressBar>,
    json: bool,
    /// The stage and tenth of the last printed line.
    printed: (i32, u32),
}

impl DownloadProgress {
    /// Returns a display that has shown nothing yet.
    pub fn new(json: bool) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let total = all.add(ProgressBar::new(1000));
        total.set_style(style("{prefix:11} {wide_bar:.cyan/dim} {percent:>3}%  {msg}"));
        Self { all, total, files: HashMap::new(), more: None, json, printed: (-1, 0) }
    }

    /// Shows the present state of the download.
    pub fn show(&mut self, d: &Download) -> Result<()> {
        let state = d.state();
        let ended = matches!(state, State::Succeeded | State::Failed | State::Cancelled);
        if self.json {
            return if ended { Ok(()) } else { output::json(&download::Download::from(d)) };
        }
        if self.all.is_hidden() {
            let step = (d.state, (d.fraction * 10.0) as u32);
            if std::mem::replace(&mut self.printed, step) != step && !ended {
                eprintln!("{:11} {:3.0}%  {}", Stage::from(state).as_str(), d.fraction * 100.0, describe(d));
            }
            return Ok(());
        }
        if ended {
            return Ok(self.all.clear()?);
        }
        self.total.set_prefix(Stage::from(state).as_str());
        self.total.set_position((d.fraction * 1000.0) as u64);
        self.total.set_message(describe(d));
        let shown = if state == State::Downloading { shown_files(d) } else { Vec::new() };
        self.show_files(&shown);
        let done = d.files.iter().filter(|file| file.verified).count();
        let folded = !shown.is_empty() && shown.len() < d.files.len();
        self.show_more(folded.then(|| format!("{done} of {} files are here", d.files.len())));
        Ok(())
    }

    fn show_files(&mut self, shown: &[&FileProgress]) {
        let all = &self.all;
        self.files.retain(|path, bar| {
            let stays = shown.iter().any(|file| file.path == *path);
            if !stays {
                all.remove(bar);
            }
            stays
        });
        for file in shown {
            let bar = self.files.entry(file.path.clone()).or_insert_with(|| {
                let bar = ProgressBar::new(file.total_bytes.max(1) as u64);
                let bar = match &self.more {
                    Some(more) => all.insert_before(more, bar),
                    None => all.add(bar),
                };
                bar.set_style(style(&format!(
                    "  {{prefix:{NAME_WIDTH}}} {{wide_bar:.dim}} {{percent:>3}}%  {{msg}}"
                )));
                bar.set_prefix(elided(&file.path));
                bar
            });
            bar.set_position(file.downloaded_bytes.max(0) as u64);
            let size = format::bytes(file.total_bytes.max(0) as u64);
            bar.set_message(if file.verified { format!("{size}  verified") } else { size });
        }
    }

    fn show_more(&mut self, text: Option<String>) {
        let Some(text) = text else {
            if let Some(more) = self.more.take() {
                self.all.remove(&more);
            }
            return;
        };
        let more = self.more.get_or_insert_with(|| {
            let more = self.all.add(ProgressBar::new(1));
            more.set_style(style("  {msg}"));
            more
        });
        more.set_message(text);
    }
}

/// Returns the style of a bar.
pub fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is valid").progress_chars("━━─")
}

/// The files that get a bar: all when they are few, else those in transfer, so that the screen does not scroll.
fn shown_files(d: &Download) -> Vec<&FileProgress> {
    if d.files.len() <= MAX_FILE_BARS {
        return d.files.iter().collect();
    }
    let moving = |file: &&FileProgress| !file.verified && file.downloaded_bytes > 0;
    d.files.iter().filter(moving).take(MAX_FILE_BARS - 1).collect()
}

/// Shortens a long path at its beginning: the names of shards differ at the end.
fn elided(path: &str) -> String {
    let length = path.chars().count();
    if length <= NAME_WIDTH {
        return path.to_owned();
    }
    let end: String = path.chars().skip(length + 1 - NAME_WIDTH).collect();
    format!("…{end}")
}

/// Seconds until a queued download starts, where the server has an estimate.
pub fn starts_in(d: &Download) -> Option<u64> {
    let start = SystemTime::try_from(d.estimated_start_time?).ok()?;
    Some(start.duration_since(SystemTime::now()).unwrap_or_default().as_secs())
}

/// The text beside the bar, also in `ps`: `12.3 MB of 64 MB  4.1 MB/s  9 s left`.
pub fn describe(d: &Download) -> String {
    let mut parts = Vec::new();
    match d.state() {
        State::Queued if d.queue_position > 0 => {
            parts.push(format!("place {} in the queue", d.queue_position));
            parts.extend(starts_in(d).map(|seconds| format!("starts in about {}", format::seconds(seconds))));
        }
        State::Downloading => {
            let (done, total) =
                (format::bytes(d.downloaded_bytes as u64), format::bytes(d.total_bytes as u64));
            parts.push(format!("{done} of {total}"));
            if d.stalled {
                parts.push("stalled".into());
            } else if d.speed_bytes_per_second > 0 {
                parts.push(format!("{}/s", format::bytes(d.speed_bytes_per_second as u64)));
                if d.seconds_left > 0 {
                    parts.push(format!("{} left", format::seconds(d.seconds_left as u64)));
                }
            }
            if d.retries > 0 {
                parts.push(format!("{} {}", d.retries, if d.retries == 1 { "retry" } else { "retries" }));
            }
        }
        _ if !d.detail.is_empty() => parts.push(d.detail.clone()),
        _ => {}
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_files_are_folded() {
        let file = |n: i64| FileProgress {
            path: format!("{n}"),
            downloaded_bytes: n,
            total_bytes: 100,
            verified: n == 1,
        };
        let names = |files: i64| {
            let download = Download { files: (0..files).map(file).collect(), ..Download::default() };
            shown_files(&download).iter().map(|file| file.path.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(3), "0 1 2");
        assert_eq!(names(30), "2 3 4 5 6");
    }

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(elided("config.json"), "config.json");
        let long = elided("a/very/long/folder/model-00003-of-00030.safetensors");
        assert_eq!((long.chars().count(), long.ends_with("-00003-of-00030.safetensors")), (NAME_WIDTH, true));
    }
}
