//! How a download shows: on a terminal a bar for all of it and one for each file, folded when there are many; elsewhere
//! a line per stage and per tenth; with `--json` every event.

use std::collections::HashMap;

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use millm_kit::{format, view};
use millm_proto::downloader::v1::{Download, FileProgress, download::State};

use crate::{
    output,
    pull::{Event, describe},
};

/// As many files have a bar each; of more, those that move.
const MOST_FILES: usize = 6;
const NAME_WIDTH: usize = 34;

pub struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    /// By path.
    files: HashMap<String, ProgressBar>,
    /// How many more there are.
    more: Option<ProgressBar>,
    json: bool,
    /// The stage and tenth that were said last.
    said: (i32, u32),
}

impl Bars {
    pub fn new(json: bool) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let total = all.add(ProgressBar::new(1000));
        total.set_style(style("{prefix:11} {wide_bar:.cyan/dim} {percent:>3}%  {msg}"));
        Self { all, total, files: HashMap::new(), more: None, json, said: (-1, 0) }
    }

    pub fn show(&mut self, d: &Download) -> Result<()> {
        let state = d.state();
        let ended = matches!(state, State::Succeeded | State::Failed | State::Cancelled);
        if self.json {
            return if ended { Ok(()) } else { output::json(&Event::from(d)) };
        }
        if self.all.is_hidden() {
            let step = (d.state, (d.fraction * 10.0) as u32);
            if std::mem::replace(&mut self.said, step) != step && !ended {
                eprintln!("{:11} {:3.0}%  {}", view::download_state(state), d.fraction * 100.0, describe(d));
            }
            return Ok(());
        }
        if ended {
            return Ok(self.all.clear()?);
        }
        self.total.set_prefix(view::download_state(state));
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

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is valid").progress_chars("━━─")
}

/// All when they are few; else those under way, so that the screen does not scroll.
fn shown_files(d: &Download) -> Vec<&FileProgress> {
    if d.files.len() <= MOST_FILES {
        return d.files.iter().collect();
    }
    let moving = |file: &&FileProgress| !file.verified && file.downloaded_bytes > 0;
    d.files.iter().filter(moving).take(MOST_FILES - 1).collect()
}

/// The end of a long name: there shards differ.
fn elided(path: &str) -> String {
    let length = path.chars().count();
    if length <= NAME_WIDTH {
        return path.to_owned();
    }
    let end: String = path.chars().skip(length + 1 - NAME_WIDTH).collect();
    format!("…{end}")
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
