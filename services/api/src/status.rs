//! The status of a model, computed from the states of the three services. No service stores it.

use std::fmt;

use millm_proto::{
    catalog::v1::{Model, model},
    downloader::v1::{Download, download},
    gateway::v1 as wire,
    runtime::v1::{LoadState, LoadedModel},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The status of a model, the same in REST, in the command line and on the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The model waits in the queue of downloads.
    Queued,
    /// The model is being downloaded.
    Downloading,
    /// The files are being verified, or are complete and about to be registered.
    Verifying,
    /// The weights are being quantized.
    Quantizing,
    /// The model is complete and can be loaded.
    Ready,
    /// The model is being loaded.
    Loading,
    /// The model answers requests.
    Loaded,
    /// The model is being unloaded.
    Unloading,
    /// The download or the last load failed.
    Error,
    /// The model is being removed.
    Deleting,
}

/// The step that failed, if the status is `error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailedStep {
    /// The download failed: it can be retried.
    Download,
    /// The load failed: the model is complete and can be loaded again.
    Load,
}

impl Status {
    /// Returns the status of a model; `download` and `loaded` are those of this model, when there are any.
    ///
    /// The three services change state at different times, so each case also holds while one of them is behind:
    /// - The Runtime's state comes first: a model in memory is complete, whatever the other states are.
    /// - A READY row whose last load failed is an error, although it can be loaded again.
    /// - A running download comes before the ERROR of its row: a retry starts before the row changes.
    /// - A PENDING row without a download is queued: the Downloader is restarting. After a successful download it is
    ///   verifying: the row becomes READY next. After a cancelled one it is deleting: the row is removed next.
    pub fn of(model: &Model, download: Option<&Download>, loaded: Option<&LoadedModel>) -> Self {
        let load = loaded.map(LoadedModel::state);
        match load {
            Some(LoadState::Loading) => return Self::Loading,
            Some(LoadState::Loaded) => return Self::Loaded,
            Some(LoadState::Unloading) => return Self::Unloading,
            _ => {}
        }
        let running = download.map(Download::state).and_then(Self::of_running_download);
        match model.state() {
            model::State::Deleting => Self::Deleting,
            model::State::Ready if load == Some(LoadState::Failed) => Self::Error,
            model::State::Ready => Self::Ready,
            model::State::Error => running.unwrap_or(Self::Error),
            model::State::Pending | model::State::Unspecified => {
                use download::State;
                match download.map(Download::state) {
                    Some(State::Failed) => Self::Error,
                    Some(State::Succeeded) => Self::Verifying,
                    Some(State::Cancelled) => Self::Deleting,
                    _ => running.unwrap_or(Self::Queued),
                }
            }
        }
    }

    /// Returns the status while a download is waiting or running; `None` once it has ended.
    fn of_running_download(state: download::State) -> Option<Self> {
        use download::State;
        match state {
            State::Queued => Some(Self::Queued),
            State::Resolving | State::Downloading => Some(Self::Downloading),
            State::Verifying | State::Finalizing => Some(Self::Verifying),
            State::Quantizing => Some(Self::Quantizing),
            State::Unspecified | State::Succeeded | State::Failed | State::Cancelled => None,
        }
    }

    /// Returns the step that failed; `None` unless this is [`Status::Error`]. A model that is READY has been downloaded.
    pub fn failed_step(self, model: &Model) -> Option<FailedStep> {
        let step = if model.state() == model::State::Ready { FailedStep::Load } else { FailedStep::Download };
        (self == Self::Error).then_some(step)
    }

    /// Returns the status as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Quantizing => "quantizing",
            Self::Ready => "ready",
            Self::Loading => "loading",
            Self::Loaded => "loaded",
            Self::Unloading => "unloading",
            Self::Error => "error",
            Self::Deleting => "deleting",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Status> for wire::Status {
    fn from(status: Status) -> Self {
        match status {
            Status::Queued => Self::Queued,
            Status::Downloading => Self::Downloading,
            Status::Verifying => Self::Verifying,
            Status::Quantizing => Self::Quantizing,
            Status::Ready => Self::Ready,
            Status::Loading => Self::Loading,
            Status::Loaded => Self::Loaded,
            Status::Unloading => Self::Unloading,
            Status::Error => Self::Error,
            Status::Deleting => Self::Deleting,
        }
    }
}

impl From<FailedStep> for wire::FailedStep {
    fn from(step: FailedStep) -> Self {
        match step {
            FailedStep::Download => Self::Download,
            FailedStep::Load => Self::Load,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, path::Path};

    use {LoadState as L, download::State as D, model::State as M};

    use super::*;

    fn status(row: M, download: Option<D>, load: Option<L>) -> Status {
        let model = Model { state: row.into(), ..Model::default() };
        let download = download.map(|state| Download { state: state.into(), ..Download::default() });
        let loaded = load.map(|state| LoadedModel { state: state.into(), ..LoadedModel::default() });
        Status::of(&model, download.as_ref(), loaded.as_ref())
    }

    #[test]
    fn three_states_make_one_word() {
        let check = |row, download, load, want| assert_eq!(status(row, download, load).as_str(), want);
        check(M::Pending, None, None, "queued");
        check(M::Pending, Some(D::Queued), None, "queued");
        check(M::Pending, Some(D::Resolving), None, "downloading");
        check(M::Pending, Some(D::Downloading), None, "downloading");
        check(M::Pending, Some(D::Verifying), None, "verifying");
        check(M::Pending, Some(D::Quantizing), None, "quantizing");
        check(M::Pending, Some(D::Finalizing), None, "verifying");
        check(M::Pending, Some(D::Succeeded), None, "verifying");
        check(M::Pending, Some(D::Failed), None, "error");
        check(M::Pending, Some(D::Cancelled), None, "deleting");
        check(M::Ready, Some(D::Succeeded), None, "ready");
        check(M::Ready, None, Some(L::Loading), "loading");
        check(M::Ready, None, Some(L::Loaded), "loaded");
        check(M::Ready, None, Some(L::Unloading), "unloading");
        check(M::Ready, None, Some(L::Unloaded), "ready");
        check(M::Ready, None, Some(L::Failed), "error");
        check(M::Error, None, None, "error");
        check(M::Error, Some(D::Downloading), None, "downloading");
        check(M::Error, Some(D::Failed), None, "error");
        check(M::Deleting, Some(D::Cancelled), None, "deleting");
    }

    #[test]
    fn the_failed_step_is_the_load_of_a_complete_model() {
        let of =
            |row: M, status: Status| status.failed_step(&Model { state: row.into(), ..Model::default() });
        assert_eq!(of(M::Ready, Status::Error), Some(FailedStep::Load));
        assert_eq!(of(M::Pending, Status::Error), Some(FailedStep::Download));
        assert_eq!(of(M::Error, Status::Error), Some(FailedStep::Download));
        assert_eq!(of(M::Ready, Status::Ready), None);
    }

    #[test]
    fn words_are_those_of_json() {
        use Status::{Deleting, Error, Loaded, Loading, Quantizing, Queued, Ready, Unloading, Verifying};
        for status in [
            Queued,
            Status::Downloading,
            Verifying,
            Quantizing,
            Ready,
            Loading,
            Loaded,
            Unloading,
            Error,
            Deleting,
        ] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
            let wire = wire::Status::from(status).as_str_name();
            assert_eq!(wire, format!("STATUS_{}", status.as_str().to_uppercase()));
        }
    }

    /// Every combination of the three states with its word: `[row, download, load, status, failed step]`, one a line.
    fn table() -> String {
        const ROWS: [M; 5] = [M::Unspecified, M::Pending, M::Ready, M::Error, M::Deleting];
        let text = |name: Option<&str>| name.map_or_else(|| "null".to_owned(), |name| format!("{name:?}"));
        let downloads = (0..=9).map(|n| D::try_from(n).unwrap()).map(Some);
        let loads = (0..=5).map(|n| L::try_from(n).unwrap()).map(Some);
        let mut table = String::new();
        for row in ROWS {
            for download in std::iter::once(None).chain(downloads.clone()) {
                for load in std::iter::once(None).chain(loads.clone()) {
                    let separator = if table.is_empty() { "[\n  " } else { ",\n  " };
                    let row_name = row.as_str_name().trim_start_matches("STATE_");
                    let download_name =
                        text(download.map(|state| state.as_str_name().trim_start_matches("STATE_")));
                    let load_name =
                        text(load.map(|state| state.as_str_name().trim_start_matches("LOAD_STATE_")));
                    let word = status(row, download, load);
                    let model = Model { state: row.into(), ..Model::default() };
                    let step =
                        word.failed_step(&model).map(|step| wire::FailedStep::from(step).as_str_name());
                    let step = step.map(|step| step.trim_start_matches("FAILED_STEP_").to_lowercase());
                    let step = text(step.as_deref());
                    write!(
                        table,
                        "{separator}[\"{row_name}\", {download_name}, {load_name}, \"{word}\", {step}]"
                    )
                    .unwrap();
                }
            }
        }
        table + "\n]\n"
    }

    /// The page's tests read this file. `MILLM_WRITE_FIXTURES=1` writes it anew.
    #[test]
    fn the_table_of_all_combinations_is_the_pages_fixture() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web/src/api/status-table.json");
        if std::env::var_os("MILLM_WRITE_FIXTURES").is_some() {
            fs::write(&path, table()).unwrap();
        }
        let file = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(file.lines().count(), 5 * 11 * 7 + 2);
        assert!(file == table(), "{} is old: run this test with MILLM_WRITE_FIXTURES=1", path.display());
    }
}
