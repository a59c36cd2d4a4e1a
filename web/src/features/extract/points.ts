// The hook points of the dialog: three that most people want, the model's others, and what a template may name besides.
import type { HookPoint, ModelDescription } from "../../gen/millm/inspection/v1/inspection_pb";
import { nameWithoutLayer } from "../architecture/fold";

export interface PointChoice {
  // As it is sent: "residual", "resid_pre", "logits".
  name: string;
  label: string;
  about: string;
  // Whether each layer has it.
  layered: boolean;
}

export const MAIN_POINTS: readonly PointChoice[] = [
  {
    name: "residual",
    label: "Residual stream",
    about: "The residual stream after each layer (resid_post)",
    layered: true,
  },
  { name: "mlp", label: "MLP output", about: "The MLP’s raw output (mlp)", layered: true },
  {
    name: "attention",
    label: "Attention output",
    about: "The attention module’s raw output (attn)",
    layered: true,
  },
];

// Names that mean one of the three.
const MAIN_NAMES: Record<string, string> = {
  residual: "residual",
  resid_post: "residual",
  mlp: "mlp",
  attention: "attention",
  attn: "attention",
};

// The model's points that are not among the three, in the order of computation.
export function otherPoints(model: ModelDescription): PointChoice[] {
  const choices = new Map<string, PointChoice>();
  const add = ({ name, about }: HookPoint, layer?: number) => {
    const point = layer === undefined ? name : nameWithoutLayer(name, layer);
    if (!(point in MAIN_NAMES) && !choices.has(point)) {
      choices.set(point, { name: point, label: point, about, layered: layer !== undefined });
    }
  };
  for (const { layer, hookPoints } of model.layers) {
    for (const point of hookPoints) {
      add(point, layer);
    }
  }
  for (const point of model.hookPoints) {
    add(point);
  }
  return [...choices.values()];
}

// Each name once, the three by their short names.
export function normalPoints(names: readonly string[]): string[] {
  return [...new Set(names.map((name) => MAIN_NAMES[name] ?? name))];
}

// Whether a name is for the layers that are chosen: it has no layer of its own, and its point has layers.
export function needsLayers(name: string, others: readonly PointChoice[]): boolean {
  if (/(^|\.)\d+(\.|$)/.test(name)) {
    return false;
  }
  return [...MAIN_POINTS, ...others].find((point) => point.name === name)?.layered ?? true;
}
