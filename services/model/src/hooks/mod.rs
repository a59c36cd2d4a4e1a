//! Hook points: the places of a forward pass whose values can be read, by one vocabulary for all architectures. The
//! Runtime, the extraction jobs and every client use these names; TransformerLens' names are aliases.
//!
//! | file | holds |
//! |---|---|
//! | `point` | [`HookPoint`]: names, TransformerLens' names, one line about each |
//! | `hook` | [`Hook`]: a point of one layer, or of the whole model |
//! | `unknown` | [`UnknownHook`]: a name that is no hook point, with the nearest ones |
//! | `name` | [`HookName`]: a hook point as a person writes it |
//! | `layers` | lists of layers: `0,5-10` |
//! | `available` | the points that a model has, and their shapes |
//! | `outline` | [`ModelOutline`]: layers, modules, tensors and hook points of a model |
//! | `describe` | makes an outline |
//! | `expert_groups` | the tensors of many experts as one entry |

mod available;
mod describe;
mod expert_groups;
mod hook;
mod layers;
mod name;
mod outline;
mod point;
mod unknown;

pub use describe::describe;
pub use hook::Hook;
pub use name::HookName;
pub use outline::{HookOutline, LayerOutline, ModelOutline, ModuleOutline, TensorOutline};
pub use point::HookPoint;
pub use unknown::UnknownHook;
