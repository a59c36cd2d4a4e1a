//! Extractions as events of `GET /api/events`. Each listener follows the Runtime by a watch of its own.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::Stream;
use millm_api::{
    Error,
    events::Event,
    inspection::extraction::{
        Extraction, ExtractionCompleted, ExtractionFailed, ExtractionProgress, failure, is_over,
    },
};
use millm_proto::inspection::v1::{self as inspection, WatchExtractionsRequest, extraction::State};

use crate::state::AppState;

/// Between two attempts to watch a service that is away.
const RETRY: Duration = Duration::from_secs(1);

/// Returns the events of all extractions, without end.
pub fn follow(app: Arc<AppState>) -> impl Stream<Item = Event> + Send {
    async_stream::stream! {
        // Endings before this listener came are not news.
        let mut ended = HashSet::new();
        let mut first = true;
        loop {
            if first && let Ok(present) = app.extractions("").await {
                ended.extend(present.iter().filter_map(ending));
                first = false;
            }
            if let Ok(watch) = app.inspection().watch_extractions(WatchExtractionsRequest {}).await {
                let mut watch = watch.into_inner();
                while let Ok(Some(extraction)) = watch.message().await {
                    if let Some(ending) = ending(&extraction)
                        && !ended.insert(ending)
                    {
                        continue;
                    }
                    if let Some(event) = event(&extraction) {
                        yield event;
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Tells one ending of an extraction from another: id, state, seconds and nanoseconds. One that is resumed ends again.
type Ending = (String, i32, i64, i32);

fn ending(extraction: &inspection::Extraction) -> Option<Ending> {
    let time = extraction.end_time.unwrap_or_default();
    let ending = (extraction.id.clone(), extraction.state, time.seconds, time.nanos);
    is_over(extraction.state()).then_some(ending)
}

fn event(extraction: &inspection::Extraction) -> Option<Event> {
    let (extraction_id, model_id) = (extraction.id.clone(), extraction.model_id);
    if let Some(error) = failure(extraction) {
        let error = Error::from(&error);
        return Some(Event::ExtractionError(ExtractionFailed { extraction_id, model_id, error }));
    }
    match extraction.state() {
        State::Succeeded => {
            let extraction = Box::new(Extraction::from(extraction));
            let completed = ExtractionCompleted { extraction_id, model_id, extraction };
            Some(Event::ExtractionComplete(completed))
        }
        State::Queued | State::Running => {
            Some(Event::ExtractionProgress(ExtractionProgress::from(extraction)))
        }
        State::Unspecified | State::Failed | State::Cancelled | State::Interrupted => None,
    }
}

#[cfg(test)]
mod tests {
    use millm_kit::ServiceError;
    use serde_json::json;

    use super::*;

    #[test]
    fn extractions_become_events() {
        let mut extraction = inspection::Extraction {
            id: "7".into(),
            model_id: 3,
            samples_done: 1,
            samples_total: 8,
            state: State::Running.into(),
            ..Default::default()
        };
        let told = |extraction: &inspection::Extraction| {
            let event = event(extraction).unwrap();
            (event.name(), serde_json::to_value(event).unwrap())
        };
        let (name, data) = told(&extraction);
        assert_eq!((name, &data["progress"]), ("extraction:progress", &json!(12.5)));
        assert_eq!((&data["extraction_id"], &data["model_id"]), (&json!("7"), &json!(3)));
        assert_eq!(ending(&extraction), None);
        extraction.set_state(State::Failed);
        extraction.error = Some(ServiceError::insufficient_disk(9, 5).to_rpc());
        let (name, data) = told(&extraction);
        assert_eq!((name, &data["error"]["code"]), ("extraction:error", &json!("INSUFFICIENT_DISK")));
        extraction.error = None;
        extraction.set_state(State::Cancelled);
        assert_eq!(told(&extraction).1["error"]["code"], "CANCELLED");
        extraction.set_state(State::Succeeded);
        let (name, data) = told(&extraction);
        assert_eq!((name, &data["extraction"]["state"]), ("extraction:complete", &json!("succeeded")));
        assert!(ending(&extraction).is_some());
    }
}
