//! The hook points: their names, TransformerLens' names, and one line about each.

/// A point of the forward pass, in the order in which values are computed. Widths are those of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HookPoint {
    /// `embed`, `[hidden]`.
    Embed,
    /// `resid_pre`, `[hidden]`.
    ResidPre,
    /// `attn_norm`, `[hidden]`.
    AttnNorm,
    /// `attn_in`, `[hidden]`.
    AttnIn,
    /// `q`, `[heads, head_dim]`.
    Query,
    /// `k`, `[kv_heads, head_dim]`.
    Key,
    /// `v`, `[kv_heads, head_dim]`.
    Value,
    /// `q_rot`, `[heads, head_dim]`.
    QueryRotated,
    /// `k_rot`, `[kv_heads, head_dim]`.
    KeyRotated,
    /// `attn_scores`, `[heads, keys]`.
    AttnScores,
    /// `attn_pattern`, `[heads, keys]`.
    AttnPattern,
    /// `z`, `[heads, head_dim]`.
    HeadOutput,
    /// `attn`, `[hidden]`.
    Attn,
    /// `attn_out`, `[hidden]`.
    AttnOut,
    /// `resid_mid`, `[hidden]`.
    ResidMid,
    /// `mlp_norm`, `[hidden]`.
    MlpNorm,
    /// `mlp_in`, `[hidden]`.
    MlpIn,
    /// `mlp_pre`, `[intermediate]`.
    MlpPre,
    /// `mlp_pre_linear`, `[intermediate]`.
    MlpPreLinear,
    /// `mlp_post`, `[intermediate]`.
    MlpPost,
    /// `router`, `[experts]`.
    Router,
    /// `router_weights`, `[chosen]`.
    RouterWeights,
    /// `router_experts`, `[chosen]`.
    RouterExperts,
    /// `mlp`, `[hidden]`.
    Mlp,
    /// `mlp_out`, `[hidden]`.
    MlpOut,
    /// `resid_post`, `[hidden]`.
    ResidPost,
    /// `final_norm`, `[hidden]`.
    FinalNorm,
    /// `logits`, `[vocabulary]`.
    Logits,
}

/// The texts of one point.
struct Texts {
    point: HookPoint,
    name: &'static str,
    /// TransformerLens' name, without `blocks.L.`; empty where it has none.
    transformer_lens: &'static str,
    about: &'static str,
}

const fn texts(
    point: HookPoint,
    name: &'static str,
    transformer_lens: &'static str,
    about: &'static str,
) -> Texts {
    Texts { point, name, transformer_lens, about }
}

/// One entry for each point, in the order of the enum.
const TEXTS: &[Texts] = {
    use HookPoint as P;
    &[
        texts(
            P::Embed,
            "embed",
            "hook_embed",
            "Token embedding after its multiplier, before positions are added",
        ),
        texts(P::ResidPre, "resid_pre", "hook_resid_pre", "Residual stream before the block"),
        texts(
            P::AttnNorm,
            "attn_norm",
            "ln1.hook_normalized",
            "Attention's input, normed, before the norm's gain",
        ),
        texts(P::AttnIn, "attn_in", "attn.hook_in", "Attention's input, normed, with the norm's gain"),
        texts(P::Query, "q", "attn.hook_q", "Queries as projected, before norm and rotation"),
        texts(P::Key, "k", "attn.hook_k", "Keys as projected, before norm and rotation"),
        texts(P::Value, "v", "attn.hook_v", "Values as projected"),
        texts(P::QueryRotated, "q_rot", "attn.hook_rot_q", "Queries after norm and rotation"),
        texts(P::KeyRotated, "k_rot", "attn.hook_rot_k", "Keys after norm and rotation"),
        texts(
            P::AttnScores,
            "attn_scores",
            "attn.hook_attn_scores",
            "Attention scores after scale, soft cap and mask",
        ),
        texts(
            P::AttnPattern,
            "attn_pattern",
            "attn.hook_pattern",
            "Attention weights; with sinks a token's weights sum to less than 1",
        ),
        texts(
            P::HeadOutput,
            "z",
            "attn.hook_z",
            "Heads' weighted values, the input of the output projection",
        ),
        texts(P::Attn, "attn", "attn.hook_out", "Attention's raw output"),
        texts(
            P::AttnOut,
            "attn_out",
            "hook_attn_out",
            "Attention's output as it is added to the residual stream",
        ),
        texts(P::ResidMid, "resid_mid", "hook_resid_mid", "Residual stream between attention and MLP"),
        texts(
            P::MlpNorm,
            "mlp_norm",
            "ln2.hook_normalized",
            "The MLP's input, normed, before the norm's gain",
        ),
        texts(P::MlpIn, "mlp_in", "mlp.hook_in", "The MLP's input, normed, with the norm's gain"),
        texts(P::MlpPre, "mlp_pre", "mlp.hook_pre", "Neurons before the activation function"),
        texts(
            P::MlpPreLinear,
            "mlp_pre_linear",
            "mlp.hook_pre_linear",
            "Neurons' linear factor, beside the gate",
        ),
        texts(P::MlpPost, "mlp_post", "mlp.hook_post", "Neurons, the input of the down projection"),
        texts(P::Router, "router", "mlp.hook_router_scores", "Router's logits of all experts"),
        texts(
            P::RouterWeights,
            "router_weights",
            "mlp.hook_expert_weights",
            "Weights of the chosen experts, the largest first",
        ),
        texts(
            P::RouterExperts,
            "router_experts",
            "mlp.hook_expert_indices",
            "Numbers of the chosen experts, in the order of their weights",
        ),
        texts(P::Mlp, "mlp", "mlp.hook_out", "The MLP's raw output"),
        texts(P::MlpOut, "mlp_out", "hook_mlp_out", "The MLP's output as it is added to the residual stream"),
        texts(P::ResidPost, "resid_post", "hook_resid_post", "Residual stream after the block"),
        texts(
            P::FinalNorm,
            "final_norm",
            "ln_final.hook_out",
            "Residual stream after the last norm and its gain",
        ),
        texts(P::Logits, "logits", "", "Logits after scale and soft cap"),
    ]
};

/// Texts are found by the number of their point.
const _: () = {
    let mut index = 0;
    while index < TEXTS.len() {
        assert!(TEXTS[index].point as usize == index);
        index += 1;
    }
};

impl HookPoint {
    /// All points, in the order in which they are computed.
    pub const ALL: &'static [Self] = &[
        Self::Embed,
        Self::ResidPre,
        Self::AttnNorm,
        Self::AttnIn,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::QueryRotated,
        Self::KeyRotated,
        Self::AttnScores,
        Self::AttnPattern,
        Self::HeadOutput,
        Self::Attn,
        Self::AttnOut,
        Self::ResidMid,
        Self::MlpNorm,
        Self::MlpIn,
        Self::MlpPre,
        Self::MlpPreLinear,
        Self::MlpPost,
        Self::Router,
        Self::RouterWeights,
        Self::RouterExperts,
        Self::Mlp,
        Self::MlpOut,
        Self::ResidPost,
        Self::FinalNorm,
        Self::Logits,
    ];

    const fn texts(self) -> &'static Texts {
        &TEXTS[self as usize]
    }

    /// Returns the point's name: `resid_post`, `q_rot`, `z`, `logits`.
    pub const fn name(self) -> &'static str {
        self.texts().name
    }

    /// Returns TransformerLens' name, without the `blocks.L.` that a point of a layer has there; `None` where it has
    /// none.
    pub const fn transformer_lens(self) -> Option<&'static str> {
        let name = self.texts().transformer_lens;
        if name.is_empty() { None } else { Some(name) }
    }

    /// Returns one line for people.
    pub const fn about(self) -> &'static str {
        self.texts().about
    }

    /// Returns whether each layer has such a point. The others belong to the whole model.
    pub const fn is_per_layer(self) -> bool {
        !matches!(self, Self::Embed | Self::FinalNorm | Self::Logits)
    }

    /// Returns whether an intervention may change the values. Values that are computed for hooks only may not be
    /// changed, and neither may a choice that has been made.
    pub const fn is_writable(self) -> bool {
        !matches!(
            self,
            Self::AttnNorm | Self::MlpNorm | Self::MlpPreLinear | Self::RouterWeights | Self::RouterExperts
        )
    }

    /// Returns whether a token's values have one for each key: attention's scores and weights.
    pub const fn is_attention(self) -> bool {
        matches!(self, Self::AttnScores | Self::AttnPattern)
    }
}

impl std::fmt::Display for HookPoint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_point_has_its_own_texts() {
        assert_eq!(HookPoint::ALL.len(), TEXTS.len());
        for (point, texts) in HookPoint::ALL.iter().zip(TEXTS) {
            assert_eq!(texts.point, *point);
            assert!(!texts.about.is_empty() && !texts.about.ends_with('.'), "{point}");
        }
        assert!(HookPoint::ALL.is_sorted());
        let names: HashSet<_> = TEXTS.iter().map(|texts| texts.name).collect();
        let theirs: HashSet<_> = TEXTS.iter().map(|texts| texts.transformer_lens).collect();
        assert_eq!((names.len(), theirs.len()), (TEXTS.len(), TEXTS.len()));
        assert!(names.is_disjoint(&theirs));
    }

    #[test]
    fn the_documentation_has_each_point() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/hooks.md");
        let page = std::fs::read_to_string(path).unwrap();
        for point in HookPoint::ALL {
            let [name, theirs] = [Some(point.name()), point.transformer_lens()].map(|name| match name {
                Some(name) if point.is_per_layer() && name == point.name() => format!("`{name}.L`"),
                Some(name) if point.is_per_layer() => format!("`blocks.L.{name}`"),
                Some(name) => format!("`{name}`"),
                None => "–".to_owned(),
            });
            let row = format!("| {name} | {theirs} | {} |", point.about());
            assert!(page.contains(&row), "docs/hooks.md lacks the row {row}");
        }
    }

    #[test]
    fn three_points_belong_to_no_layer() {
        let global: Vec<_> = HookPoint::ALL.iter().filter(|point| !point.is_per_layer()).collect();
        assert_eq!(global, [&HookPoint::Embed, &HookPoint::FinalNorm, &HookPoint::Logits]);
    }
}
