//! The rotary embeddings, from config.json in both styles: the frequencies, and the layers that use them.

use serde_json::{Map, Value};

use super::dimensions::Dimensions;
use super::fields::Fields;
use super::limits;
use crate::arch::family::{Family, Positions, Rotary, RotatedLayers};
use crate::arch::rope::{RopeScaling, RopeSpec, long_magnitude, yarn_magnitude};
use crate::error::{Error, Result};

/// The key of the newer style.
const NEW: &str = "rope_parameters";
/// The key of the older style.
const OLD: &str = "rope_scaling";
/// The kinds of layers that may have their own parameters.
const GLOBAL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";
/// The parameters of all kinds of scaling.
const KNOWN: &[&str] = &[
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
    "mscale",
    "mscale_all_dim",
    "truncate",
];

/// The rotary embeddings of a model.
pub(super) struct RopeLayers {
    pub ropes: Vec<RopeSpec>,
    /// For each layer the index in `ropes`; `None` for layers that do not rotate.
    pub layers: Vec<Option<usize>>,
    pub context_length: usize,
}

/// Reads the rotary embeddings. `windows` has an entry for each layer.
pub(super) fn read(
    config: &Fields<'_>,
    family: &Family,
    dimensions: &Dimensions,
    windows: &[Option<usize>],
) -> Result<RopeLayers> {
    let context_length = dimensions.context_length;
    let Positions::Rotary(rotary) = family.positions else {
        return Ok(RopeLayers { ropes: Vec::new(), layers: vec![None; dimensions.layers], context_length });
    };
    let reader = Reader { config, rotary, dimensions };
    let (key, parameters) = match (config.object(NEW)?, config.object(OLD)?) {
        (Some(new), Some(old)) if new != old => return Err(config.unsupported(OLD)),
        (Some(new), _) => (NEW, Some(new)),
        (None, old) => (OLD, old),
    };
    if let RotatedLayers::LocalAndGlobal { key: local_key, theta } = rotary.layers {
        let (global, local) = per_kind(config, key, parameters)?;
        let ropes = vec![
            reader.rope(key, global, rotary.theta_key, rotary.theta)?,
            reader.rope(key, local, local_key, theta)?,
        ];
        let layers = windows.iter().map(|window| Some(usize::from(window.is_some()))).collect();
        return Ok(RopeLayers { ropes, layers, context_length });
    }
    if parameters.is_some_and(|parameters| parameters.values().any(Value::is_object)) {
        return Err(config.unsupported(key));
    }
    let rope = reader.rope(key, parameters, rotary.theta_key, rotary.theta)?;
    let context_length = match rope.scaling {
        // Dynamic rope is made for sequences longer than those of the training.
        RopeScaling::Dynamic { factor, from } => (f64::from(factor) * from as f64) as usize,
        _ => context_length,
    };
    let rotated = rotated_layers(config, family, dimensions.layers, Some(windows))?;
    let layers = rotated.into_iter().map(|rotated| rotated.then_some(0)).collect();
    Ok(RopeLayers { ropes: vec![rope], layers, context_length: context_length.min(limits::CONTEXT) })
}

type Parameters<'a> = Option<&'a Map<String, Value>>;

/// Returns the parameters of layers without a window and of those with one. In the older style only the former have
/// parameters.
fn per_kind<'a>(
    config: &Fields<'_>,
    key: &str,
    parameters: Parameters<'a>,
) -> Result<(Parameters<'a>, Parameters<'a>)> {
    let Some(parameters) = parameters else { return Ok((None, None)) };
    if key == OLD {
        // transformers adds a default under `rope_type`, which overrides `type`: the file cannot have meant that.
        if parameters.contains_key("type") && !parameters.contains_key("rope_type") {
            return Err(config.unsupported(key));
        }
        return Ok((Some(parameters), None));
    }
    if parameters.iter().any(|(kind, value)| ![GLOBAL, LOCAL].contains(&kind.as_str()) || !value.is_object())
    {
        return Err(config.unsupported(key));
    }
    let of = |kind: &str| parameters.get(kind).and_then(Value::as_object);
    Ok((of(GLOBAL), of(LOCAL)))
}

/// Returns for each layer whether it rotates queries and keys.
pub(super) fn rotated_layers(
    config: &Fields<'_>,
    family: &Family,
    layers: usize,
    windows: Option<&[Option<usize>]>,
) -> Result<Vec<bool>> {
    let Positions::Rotary(rotary) = family.positions else { return Ok(vec![false; layers]) };
    let interval = match (rotary.layers, windows) {
        (RotatedLayers::Windowed, Some(windows)) => return Ok(windows.iter().map(Option::is_some).collect()),
        (RotatedLayers::Listed { interval }, _) => interval,
        _ => return Ok(vec![true; layers]),
    };
    let interval = config.count("no_rope_layer_interval", limits::LAYERS)?.unwrap_or(interval);
    let Some(list) = config.get("no_rope_layers") else {
        return Ok((0..layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect());
    };
    let wrong = || {
        config.invalid("no_rope_layers", &format!("expected 0 or 1 for each of num_hidden_layers = {layers}"))
    };
    let list = list.as_array().filter(|list| list.len() == layers).ok_or_else(wrong)?;
    let flag = |value: &Value| value.as_u64().filter(|flag| *flag <= 1).map(|flag| flag == 1);
    list.iter().map(|value| flag(value).ok_or_else(wrong)).collect()
}

/// Reads the parameters of one rotary embedding.
struct Reader<'a> {
    config: &'a Fields<'a>,
    rotary: Rotary,
    dimensions: &'a Dimensions,
}

impl Reader<'_> {
    /// Reads one set of parameters. An absent base is read from the outer config under `theta_key`, or is `theta`.
    fn rope(&self, key: &str, parameters: Parameters<'_>, theta_key: &str, theta: f64) -> Result<RopeSpec> {
        let file = format!("config.json {key}");
        let nothing = Map::new();
        let fields = Fields::new(&file, parameters.unwrap_or(&nothing));
        let named = |field: &str| unsupported(&fields, key, field);
        if let Some((unknown, _)) = fields.unread().find(|(field, _)| !KNOWN.contains(field)) {
            return Err(named(unknown));
        }
        let outer = self.config.positive(theta_key)?;
        let theta = fields.positive("rope_theta")?.or(outer).unwrap_or(theta);
        if theta <= 1.0 {
            return Err(fields.invalid("rope_theta", "expected a number above 1"));
        }
        // Another family's name of the key, which this family's config class would ignore.
        let foreign = self.config.positive("rope_theta")?;
        if self.rotary.theta_key != "rope_theta" && foreign.is_some_and(|other| differ(other, theta)) {
            return Err(self.config.unsupported("rope_theta"));
        }
        let rotated = self.rotated_dimensions(&fields, key)?;
        let scaling = match (parameters, self.rotary.scaling) {
            (None, Some(default)) => default.into(),
            _ => self.scaling(&fields, key, rotated)?,
        };
        Ok(RopeSpec::new(self.rotary.layout, rotated, theta, scaling))
    }

    /// Returns how many dimensions of a head are rotated.
    fn rotated_dimensions(&self, fields: &Fields<'_>, key: &str) -> Result<usize> {
        const FIELD: &str = "partial_rotary_factor";
        let head_dim = self.dimensions.head_dim;
        let Some((outer, default)) = self.rotary.partial else {
            if fields.positive(FIELD)?.is_some_and(|share| differ(share, 1.0)) {
                return Err(unsupported(fields, key, FIELD));
            }
            return Ok(head_dim);
        };
        let share = fields.positive(FIELD)?.or(self.config.positive(outer)?).unwrap_or(default);
        if outer != FIELD && self.config.positive(FIELD)?.is_some_and(|other| differ(other, share)) {
            return Err(self.config.unsupported(FIELD));
        }
        let rotated = (head_dim as f64 * share) as usize;
        if rotated > head_dim || rotated < 2 || !rotated.is_multiple_of(2) {
            let why = format!("rotates {rotated} of {head_dim} dimensions, expected an even number of them");
            let inner = fields.get(FIELD).is_some();
            return Err(if inner { fields.invalid(FIELD, &why) } else { self.config.invalid(outer, &why) });
        }
        Ok(rotated)
    }

    fn scaling(&self, fields: &Fields<'_>, key: &str, rotated: usize) -> Result<RopeScaling> {
        let kind = match fields.text("rope_type")? {
            Some(kind) => kind,
            // The key's name before transformers 4.43.
            None => fields.text("type")?.unwrap_or("default"),
        };
        let kind = match kind {
            "su" | "yarn" if self.rotary.long_only => "longrope",
            "default" | "longrope" => kind,
            _ if self.rotary.long_only => "unsupported",
            kind => kind,
        };
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: number(fields, "factor")? }),
            "dynamic" if rotated > 2 => Ok(RopeScaling::Dynamic {
                factor: number(fields, "factor")?,
                from: self.dimensions.context_length,
            }),
            "llama3" => self.llama3(fields),
            "yarn" => self.yarn(fields, key),
            "longrope" => self.longrope(fields, rotated),
            _ => {
                let field = if fields.get("rope_type").is_some() { "rope_type" } else { "type" };
                Err(unsupported(fields, key, field))
            }
        }
    }

    /// Returns whether each kind of layer has its own parameters.
    fn by_kind(&self) -> bool {
        matches!(self.rotary.layers, RotatedLayers::LocalAndGlobal { .. })
    }

    /// Returns the tokens of the pretraining's context: from the outer config or the family where the parameters are for
    /// all layers, or else from the parameters, or else the model's context.
    fn original_context(&self, fields: &Fields<'_>) -> Result<usize> {
        const FIELD: &str = "original_max_position_embeddings";
        let inner = fields.count(FIELD, limits::CONTEXT)?;
        let outer = self.config.count(FIELD, limits::CONTEXT)?.or(self.rotary.original_context);
        let outer = outer.filter(|_| !self.by_kind());
        Ok(outer.or(inner).unwrap_or(self.dimensions.context_length))
    }

    fn llama3(&self, fields: &Fields<'_>) -> Result<RopeScaling> {
        let original_context = self.original_context(fields)? as f32;
        let (low_freq_factor, high_freq_factor) =
            (number(fields, "low_freq_factor")?, number(fields, "high_freq_factor")?);
        if high_freq_factor <= low_freq_factor {
            return Err(fields.invalid("high_freq_factor", "must be above low_freq_factor"));
        }
        let factor = number(fields, "factor")?;
        Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context })
    }

    fn yarn(&self, fields: &Fields<'_>, key: &str) -> Result<RopeScaling> {
        let truncate = fields.flag("truncate")?.unwrap_or(true);
        if self.by_kind() && !truncate {
            return Err(unsupported(fields, key, "truncate"));
        }
        let original_context = self.original_context(fields)? as f64;
        let growth = self.dimensions.context_length as f64 / original_context;
        let factor = match fields.positive("factor")? {
            Some(factor) => factor,
            None if fields.is_null("factor") => growth,
            None => return Err(fields.invalid("factor", "is required")),
        };
        let magnitude = match (fields.positive("mscale")?, fields.positive("mscale_all_dim")?) {
            (Some(mscale), Some(all)) => yarn_magnitude(factor, mscale) / yarn_magnitude(factor, all),
            _ => yarn_magnitude(factor, 1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: fields.positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: fields.positive("beta_slow")?.unwrap_or(1.0),
            original_context,
            truncate,
            attention_factor: fields.positive("attention_factor")?.unwrap_or(magnitude) as f32,
        })
    }

    fn longrope(&self, fields: &Fields<'_>, rotated: usize) -> Result<RopeScaling> {
        let original_context = self.original_context(fields)?;
        let growth = self.dimensions.context_length as f64 / original_context as f64;
        let factor = fields.positive("factor")?.unwrap_or(growth);
        let magnitude = long_magnitude(factor, original_context as f64);
        Ok(RopeScaling::LongRope {
            short: fields.factors("short_factor", rotated / 2)?,
            long: fields.factors("long_factor", rotated / 2)?,
            original_context,
            attention_factor: fields.positive("attention_factor")?.unwrap_or(magnitude) as f32,
        })
    }
}

fn number(fields: &Fields<'_>, field: &str) -> Result<f32> {
    fields.required_positive(field).map(|value| value as f32)
}

/// Makes an [`Error::UnsupportedField`] that names the object too.
fn unsupported(fields: &Fields<'_>, key: &str, field: &str) -> Error {
    match fields.unsupported(field) {
        Error::UnsupportedField { field, value } => {
            Error::UnsupportedField { field: format!("{key}.{field}"), value }
        }
        other => other,
    }
}

fn differ(a: f64, b: f64) -> bool {
    (a - b).abs() > 1e-9 * b.abs()
}
