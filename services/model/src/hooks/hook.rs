//! A hook: a point of one layer, or of the whole model.

use std::cmp::Ordering;

use super::point::HookPoint;

/// A hook point of one layer, or of the whole model. Hooks are ordered as a forward pass computes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hook {
    /// The point.
    pub point: HookPoint,
    /// The layer, from 0; `None` for points of the whole model.
    pub layer: Option<usize>,
}

impl Hook {
    /// Returns the hook at a point of a layer.
    pub const fn at(point: HookPoint, layer: usize) -> Self {
        Self { point, layer: Some(layer) }
    }

    /// Returns the hook at a point of the whole model.
    pub const fn global(point: HookPoint) -> Self {
        Self { point, layer: None }
    }

    /// Returns the name: `resid_post.3`, `logits`.
    pub fn name(self) -> String {
        self.to_string()
    }

    /// Returns TransformerLens' name: `blocks.3.hook_resid_post`; `None` where it has none.
    pub fn transformer_lens(self) -> Option<String> {
        let name = self.point.transformer_lens()?;
        Some(self.layer.map_or_else(|| name.to_owned(), |layer| format!("blocks.{layer}.{name}")))
    }

    /// Returns the name of a file for its values, without extension: `resid_post.layer3`, `logits`.
    pub fn file_stem(self) -> String {
        let name = self.point.name();
        self.layer.map_or_else(|| name.to_owned(), |layer| format!("{name}.layer{layer}"))
    }

    /// Returns its place in a forward pass.
    fn place(self) -> (u8, Option<usize>, HookPoint) {
        let stage = match self.point {
            HookPoint::Embed => 0,
            HookPoint::FinalNorm | HookPoint::Logits => 2,
            _ => 1,
        };
        (stage, self.layer, self.point)
    }
}

impl std::fmt::Display for Hook {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.layer {
            Some(layer) => write!(out, "{}.{layer}", self.point),
            None => out.write_str(self.point.name()),
        }
    }
}

impl Ord for Hook {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for Hook {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_have_names_for_people_files_and_transformer_lens() {
        let check = |hook: Hook, name: &str, theirs: Option<&str>, file: &str| {
            assert_eq!(hook.name(), name);
            assert_eq!(hook.transformer_lens().as_deref(), theirs);
            assert_eq!(hook.file_stem(), file);
        };
        let residual = Hook::at(HookPoint::ResidPost, 3);
        check(residual, "resid_post.3", Some("blocks.3.hook_resid_post"), "resid_post.layer3");
        let rotated = Hook::at(HookPoint::QueryRotated, 0);
        check(rotated, "q_rot.0", Some("blocks.0.attn.hook_rot_q"), "q_rot.layer0");
        check(Hook::global(HookPoint::Embed), "embed", Some("hook_embed"), "embed");
        check(Hook::global(HookPoint::Logits), "logits", None, "logits");
    }

    #[test]
    fn hooks_are_ordered_as_they_are_computed() {
        let mut hooks = vec![
            Hook::global(HookPoint::Logits),
            Hook::at(HookPoint::ResidPre, 1),
            Hook::at(HookPoint::ResidPost, 0),
            Hook::global(HookPoint::FinalNorm),
            Hook::at(HookPoint::Mlp, 0),
            Hook::global(HookPoint::Embed),
        ];
        hooks.sort();
        let names: Vec<String> = hooks.into_iter().map(Hook::name).collect();
        assert_eq!(names, ["embed", "mlp.0", "resid_post.0", "resid_pre.1", "final_norm", "logits"]);
    }
}
