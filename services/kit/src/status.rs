//! What a person sees of a model: the join of what the three services own. Nobody stores it.

use std::fmt;

use millm_proto::{
    catalog::v1::{Model, model},
    downloader::v1::{Download, download},
    runtime::v1::{LoadState, LoadedModel},
};

/// One word for a model, the same in CLI and REST (the page's twin is in `web/src/api`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelStatus {
    Queued,
    Downloading,
    Verifying,
    Quantizing,
    Ready,
    Loading,
    Loaded,
    Unloading,
    Error,
}

impl ModelStatus {
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
        }
    }
}

impl fmt::Display for ModelStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// `download` and `loaded` are those of this model, when there are any.
///
/// The Runtime's fact comes first: a loaded model is complete whatever else is said. A row that is PENDING
/// with no download known (the Downloader restarts) is queued. A failed load leaves the model ready.
pub fn join(model: &Model, download: Option<&Download>, loaded: Option<&LoadedModel>) -> ModelStatus {
    match loaded.map(LoadedModel::state) {
        Some(LoadState::Loading) => return ModelStatus::Loading,
        Some(LoadState::Loaded) => return ModelStatus::Loaded,
        Some(LoadState::Unloading) => return ModelStatus::Unloading,
        _ => {}
    }
    match model.state() {
        model::State::Ready => return ModelStatus::Ready,
        model::State::Error => return ModelStatus::Error,
        _ => {}
    }
    use download::State;
    match download.map(Download::state) {
        Some(State::Resolving | State::Downloading) => ModelStatus::Downloading,
        Some(State::Verifying | State::Finalizing) => ModelStatus::Verifying,
        Some(State::Quantizing) => ModelStatus::Quantizing,
        Some(State::Failed) => ModelStatus::Error,
        Some(State::Succeeded) => ModelStatus::Ready,
        _ => ModelStatus::Queued,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(row: model::State, download: Option<download::State>, load: Option<LoadState>, want: &str) {
        let model = Model { state: row.into(), ..Model::default() };
        let download = download.map(|state| Download { state: state.into(), ..Download::default() });
        let loaded = load.map(|state| LoadedModel { state: state.into(), ..LoadedModel::default() });
        assert_eq!(join(&model, download.as_ref(), loaded.as_ref()).as_str(), want);
    }

    #[test]
    fn three_facts_make_one_word() {
        use {LoadState as L, download::State as D, model::State as M};
        check(M::Pending, None, None, "queued");
        check(M::Pending, Some(D::Queued), None, "queued");
        check(M::Pending, Some(D::Resolving), None, "downloading");
        check(M::Pending, Some(D::Downloading), None, "downloading");
        check(M::Pending, Some(D::Verifying), None, "verifying");
        check(M::Pending, Some(D::Quantizing), None, "quantizing");
        check(M::Pending, Some(D::Failed), None, "error");
        check(M::Ready, Some(D::Succeeded), None, "ready");
        check(M::Ready, None, Some(L::Loading), "loading");
        check(M::Ready, None, Some(L::Loaded), "loaded");
        check(M::Ready, None, Some(L::Unloading), "unloading");
        check(M::Ready, None, Some(L::Failed), "ready");
        check(M::Error, None, None, "error");
    }
}
