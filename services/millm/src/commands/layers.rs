//! `millm show --layers` and `--layer N`: the layers of a model with their modules, tensors and hook points.

use anyhow::{Result, bail};
use millm_api::inspection::layers::{HookPoint, Layer, ModelLayers, Module, Tensor};
use millm_kit::format;
use millm_proto::inspection::v1::DescribeModelRequest;

use crate::{
    client::Server,
    output::{self, Misuse},
};

pub async fn run(server: &Server, model: &str, layer: Option<u32>, json: bool) -> Result<()> {
    let request = DescribeModelRequest { model: model.to_owned() };
    let description = server.inspection().describe_model(request).await.map_err(|s| server.explain(&s))?;
    let model = ModelLayers::from(description.get_ref());
    let Some(number) = layer else {
        return if json { output::json(&model) } else { overview(&model) };
    };
    let Some(layer) = model.layers.iter().find(|layer| layer.layer == number) else {
        let last = model.layers.last().map_or(0, |layer| layer.layer);
        bail!(Misuse(format!("--layer {number}: '{}' has layers 0 to {last}", model.name)));
    };
    if json { output::json(layer) } else { details(layer) }
}

/// Prints all layers, each kind once.
fn overview(model: &ModelLayers) -> Result<()> {
    if let Some(architecture) = &model.architecture {
        let (name, family) = (&architecture.name, &architecture.family);
        output::line(&format!("{}  {name} ({family}), {} layers", model.name, model.layers.len()))?;
    }
    output::line(&sizes(model.parameter_count, model.weights_bytes))?;
    if !model.modules.is_empty() {
        output::line("")?;
        modules(&model.modules)?;
    }
    points(&model.hook_points)?;
    for group in groups(&model.layers) {
        let range = group.range();
        if let Some(same) = group.same_as {
            output::line(&format!("\n{range} as L{same}"))?;
            continue;
        }
        let Some(layer) = model.layers.iter().find(|layer| layer.layer == group.first) else { continue };
        heading(&range, layer)?;
        modules(&layer.modules)?;
        points(&layer.hook_points)?;
    }
    Ok(())
}

fn heading(range: &str, layer: &Layer) -> Result<()> {
    let sizes = sizes(layer.parameter_count, layer.weights_bytes);
    output::line(&format!("\n{range}  {}, {}, {sizes}", layer.attention, layer.mlp))
}

fn sizes(parameters: i64, bytes: i64) -> String {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    format!("{} parameters, {}", format::parameters(unsigned(parameters)), format::bytes(unsigned(bytes)))
}

fn modules(modules: &[Module]) -> Result<()> {
    let row = |module: &Module| {
        let mut dtypes: Vec<&str> = module.tensors.iter().map(|tensor| tensor.dtype.as_str()).collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        vec![
            module.name.clone(),
            module.tensors.len().to_string(),
            dtypes.join(" "),
            format::parameters(u64::try_from(module.parameter_count).unwrap_or(0)),
            format::bytes(u64::try_from(module.weights_bytes).unwrap_or(0)),
        ]
    };
    let rows: Vec<_> = modules.iter().map(row).collect();
    output::table(&["MODULE", "TENSORS", "DTYPE", "PARAMS", "SIZE"], &[1, 3, 4], &rows)
}

/// Prints the names of hook points without their layer.
fn points(points: &[HookPoint]) -> Result<()> {
    if points.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> =
        points.iter().map(|point| point.name.split('.').next().unwrap_or_default()).collect();
    output::line(&format!("hook points: {}", names.join(", ")))
}

/// Prints one layer with its tensors and hook points.
fn details(layer: &Layer) -> Result<()> {
    let sizes = sizes(layer.parameter_count, layer.weights_bytes);
    output::line(&format!("L{}  {}, {}, {sizes}\n", layer.layer, layer.attention, layer.mlp))?;
    let tensor = |tensor: &Tensor| {
        vec![
            tensor.name.clone(),
            shape(&tensor.shape),
            tensor.dtype.clone(),
            format::parameters(u64::try_from(tensor.parameter_count).unwrap_or(0)),
            format::bytes(u64::try_from(tensor.bytes).unwrap_or(0)),
        ]
    };
    let rows: Vec<_> = layer.modules.iter().flat_map(|module| &module.tensors).map(tensor).collect();
    output::table(&["TENSOR", "SHAPE", "DTYPE", "PARAMS", "SIZE"], &[3, 4], &rows)?;
    output::line("")?;
    let point = |point: &HookPoint| {
        vec![
            point.name.clone(),
            shape(&point.shape),
            if point.writable { "yes" } else { "no" }.to_owned(),
            point.transformer_lens.clone().unwrap_or_else(|| "-".to_owned()),
            point.about.clone(),
        ]
    };
    let rows: Vec<_> = layer.hook_points.iter().map(point).collect();
    output::table(&["HOOK POINT", "SHAPE", "WRITABLE", "TRANSFORMERLENS", "ABOUT"], &[], &rows)
}

/// Returns a shape as `[32, keys]`.
fn shape(shape: &[u64]) -> String {
    let size = |size: &u64| if *size == 0 { "keys".to_owned() } else { size.to_string() };
    format!("[{}]", shape.iter().map(size).collect::<Vec<_>>().join(", "))
}

/// Consecutive layers that are shown together: one that is like none before it, or some that are like the same one.
#[derive(Debug, PartialEq)]
struct Group {
    first: u32,
    last: u32,
    same_as: Option<u32>,
}

impl Group {
    fn range(&self) -> String {
        if self.first == self.last {
            format!("L{}", self.first)
        } else {
            format!("L{}–L{}", self.first, self.last)
        }
    }
}

fn groups(layers: &[Layer]) -> Vec<Group> {
    let kinds: Vec<Layer> = layers.iter().map(kind).collect();
    let mut groups: Vec<Group> = Vec::new();
    for (place, layer) in layers.iter().enumerate() {
        let same = kinds[..place].iter().position(|kind| *kind == kinds[place]);
        let same_as = same.map(|same| layers[same].layer);
        match groups.last_mut() {
            Some(group) if same_as.is_some() && group.same_as == same_as => group.last = layer.layer,
            _ => groups.push(Group { first: layer.layer, last: layer.layer, same_as }),
        }
    }
    groups
}

/// Returns the layer without what its number alone makes different.
fn kind(layer: &Layer) -> Layer {
    let number = layer.layer;
    let mut kind = Layer { layer: 0, ..layer.clone() };
    for tensor in kind.modules.iter_mut().flat_map(|module| &mut module.tensors) {
        tensor.name = tensor.name.replacen(&format!("blk.{number}."), "blk.", 1);
    }
    for point in &mut kind.hook_points {
        if let Some(name) = point.name.strip_suffix(&format!(".{number}")) {
            point.name = name.to_owned();
        }
        point.transformer_lens = None;
        point.about.clear();
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(number: u32, dtype: &str) -> Layer {
        let tensor = Tensor {
            name: format!("blk.{number}.attn_q.weight"),
            shape: vec![4, 4],
            dtype: dtype.into(),
            parameter_count: 16,
            bytes: 64,
        };
        let point = HookPoint {
            name: format!("resid_post.{number}"),
            transformer_lens: Some(format!("blocks.{number}.hook_resid_post")),
            shape: vec![4],
            writable: true,
            about: String::new(),
        };
        Layer {
            layer: number,
            attention: "attention".into(),
            mlp: "MLP".into(),
            modules: vec![Module {
                name: "attn".into(),
                tensors: vec![tensor],
                parameter_count: 16,
                weights_bytes: 64,
            }],
            hook_points: vec![point],
            parameter_count: 16,
            weights_bytes: 64,
        }
    }

    #[test]
    fn equal_layers_are_shown_once() {
        let shown = |dtypes: &[&str]| {
            let layers: Vec<Layer> = (0..).zip(dtypes).map(|(number, dtype)| layer(number, dtype)).collect();
            let text = |group: &Group| match group.same_as {
                Some(same) => format!("{} as L{same}", group.range()),
                None => group.range(),
            };
            groups(&layers).iter().map(text).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(shown(&["F32"; 12]), "L0; L1–L11 as L0");
        assert_eq!(shown(&["Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K"]), "L0; L1; L2 as L1; L3 as L0; L4 as L1");
        assert_eq!(shown(&["F32"]), "L0");
        assert_eq!(shown(&[]), "");
    }

    #[test]
    fn the_number_of_keys_has_a_name() {
        assert_eq!((shape(&[8, 0]).as_str(), shape(&[]).as_str()), ("[8, keys]", "[]"));
    }
}
