//! Architectures: the families of models as data, and the specification that a config or a GGUF header is read into.
//!
//! | file | holds |
//! |---|---|
//! | `kinds` | the small choices that families and specifications share: norms, activations, rope layouts |
//! | `tensor_names` | canonical tensor names, and the names under which files store them |
//! | `family` | the fields in which families differ |
//! | `families/` | one constant for each family |
//! | `registry` | finds a family by any of its names |
//! | `rope` | rotary frequencies, with every scaling resolved |
//! | `spec` | [`ModelSpec`]: all that the decoder needs to know |
//! | `expected_tensors` | the tensors that a model of some specification has |
//! | `tensor_location` | the rows of a stored tensor that make up one of the decoder's |

pub(crate) mod expected_tensors;
pub(crate) mod families;
pub(crate) mod family;
pub(crate) mod kinds;
mod registry;
pub(crate) mod rope;
pub(crate) mod spec;
pub(crate) mod tensor_location;
pub(crate) mod tensor_names;

pub use expected_tensors::ExpectedTensor;
pub use family::{
    AttentionScale, ConfigKeys, Defaults, ExpertKeys, Family, GgufFormat, KvHeads, MlpWidth, Norm, Packing,
    Positions, Presence, QkNormPresence, Residual, Rotary, RotatedLayers, Scale, Scales, Window, Wrapper,
};
pub use kinds::{Activation, MlpKind, NormKind, NormPlace, QkNorm, RopeLayout, Yarn};
pub use rope::{RopeRegime, RopeScaling, RopeSpec};
pub use spec::{Experts, LayerSpec, ModelSpec, NormSpec};
pub use tensor_names::{Rows, TensorName};
