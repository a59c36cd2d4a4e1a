//! Loading and unloading of models.
//!
//! One task, the [`actor`], owns the list of models. Everybody else has a [`Loader`]: it sends commands to the actor and
//! watches the list. [`load`] and [`unload`] are jobs that do the long work and report to the actor. Requests find their
//! model with [`Loader::lookup`]; with loading on demand they wait for it ([`demand`]).

mod actor;
mod admission;
mod command;
mod demand;
mod handle;
mod idle;
mod load;
mod loaded_model;
mod memory_meter;
mod requests;
mod unload;

use millm_kit::Shutdown;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use crate::options::LoaderOptions;

use self::{actor::Actor, loaded_model::Models};

pub(crate) use command::LoadRequest;
pub(crate) use demand::Lookup;
pub(crate) use handle::Loader;
pub(crate) use loaded_model::{Entry, LoadedModel, Phase};
pub(crate) use requests::RequestGuard;

/// Commands that may wait for the actor. It answers each without delay.
const COMMAND_CAPACITY: usize = 64;

/// Starts the actor in `tasks` and returns its handle. It ends at `shutdown`, when all models are unloaded.
pub(crate) fn start(options: LoaderOptions, tasks: &TaskTracker, shutdown: &Shutdown) -> Loader {
    let (commands, inbox) = mpsc::channel(COMMAND_CAPACITY);
    let (publish, models) = watch::channel(Models::new());
    let loader = Loader::new(commands, models, options);
    let actor = Actor::new(publish, loader.clone(), tasks.clone(), shutdown.clone());
    tasks.spawn(actor.run(inbox));
    loader
}
