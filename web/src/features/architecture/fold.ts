// Folds a model's layers: those that repeat what came right before are told in one line, "L1–L31, like L0".
import type { LayerDescription } from "../../gen/millm/inspection/v1/inspection_pb";

// First and last layer.
export type Span = readonly [first: number, last: number];

export type Folded =
  | { kind: "layer"; layer: LayerDescription }
  // The layers that repeat the ones of `like`, in turn.
  | { kind: "run"; layers: LayerDescription[]; like: Span };

// The longest pattern that is looked for: Gemma 3 repeats every 6 layers.
const LONGEST_PERIOD = 12;

// `layoutOf` tells layers apart. Each layout is shown once as a layer; what is like an earlier layer is a run.
export function foldLayers(
  layers: readonly LayerDescription[],
  layoutOf: (layer: LayerDescription) => string,
): Folded[] {
  const layouts = layers.map(layoutOf);
  const folded: Folded[] = [];
  // By layout, the layer that is shown for it.
  const shown = new Map<string, number>();

  function add(layer: LayerDescription, layout: string) {
    const like = shown.get(layout);
    const last = folded.at(-1);
    if (like === undefined) {
      shown.set(layout, layer.layer);
      folded.push({ kind: "layer", layer });
    } else if (last?.kind === "run" && last.like[0] === like && last.like[1] === like) {
      last.layers.push(layer);
    } else {
      folded.push({ kind: "run", layers: [layer], like: [like, like] });
    }
  }

  let next = 0;
  while (next < layers.length) {
    const { period, end } = repetitionAt(next, layouts);
    const pattern = layers.slice(next, next + period);
    const rest = layers.slice(next + period, end);
    pattern.forEach((layer, index) => {
      add(layer, layouts[next + index] ?? "");
    });
    const [first, last] = [pattern[0], pattern.at(-1)];
    if (period === 1) {
      for (const layer of rest) {
        add(layer, layouts[next] ?? "");
      }
    } else if (first && last) {
      folded.push({ kind: "run", layers: rest, like: [first.layer, last.layer] });
    }
    next = end;
  }
  return folded;
}

// The pattern that begins here and reaches furthest; a single layer where nothing repeats.
function repetitionAt(start: number, layouts: readonly string[]): { period: number; end: number } {
  let best = { period: 1, end: start + 1 };
  for (let period = 1; period <= LONGEST_PERIOD; period += 1) {
    let end = start + period;
    while (end < layouts.length && layouts[end] === layouts[end - period]) {
      end += 1;
    }
    // A pattern has been seen twice before it is one.
    if (end >= start + 2 * period && end > best.end) {
      best = { period, end };
    }
  }
  return best;
}

// What a layer is made of, to the types of its tensors.
export function layoutOf(layer: LayerDescription): string {
  return layout(layer, (dtype) => dtype);
}

// The same without the types: mixed quantizations change them from layer to layer.
export function structureOf(layer: LayerDescription): string {
  return layout(layer, () => "");
}

function layout(layer: LayerDescription, dtypeOf: (dtype: string) => string): string {
  return JSON.stringify([
    layer.attention,
    layer.mlp,
    layer.modules.map((module) => [
      module.name,
      module.tensors.map(({ name, shape, dtype }) => [
        nameWithoutLayer(name, layer.layer),
        shape.map(String),
        dtypeOf(dtype),
      ]),
    ]),
    layer.hookPoints.map(({ name, shape }) => [nameWithoutLayer(name, layer.layer), shape.map(String)]),
  ]);
}

// "blk.3.attn_q.weight" is "blk.attn_q.weight", "resid_post.3" is "resid_post".
export function nameWithoutLayer(name: string, layer: number): string {
  const parts = name.split(".");
  const place = parts.indexOf(String(layer));
  return place < 0 ? name : parts.filter((_, index) => index !== place).join(".");
}

// "L1–L31", "L4".
export function spanText([first, last]: Span): string {
  return first === last ? `L${first}` : `L${first}–L${last}`;
}

// "L1–L31, like L0"; where a pattern repeats: "L6–L33, like L0–L5 in turn".
export function runText(layers: readonly LayerDescription[], like: Span): string {
  const span: Span = [layers[0]?.layer ?? 0, layers.at(-1)?.layer ?? 0];
  return `${spanText(span)}, like ${spanText(like)}${like[0] === like[1] ? "" : " in turn"}`;
}
