// Modules, tensors and hook points in words.
import type { ModuleDescription } from "../../gen/millm/inspection/v1/inspection_pb";
import { formatBytes, formatCount, plural } from "../../ui/format";

const MODULES: Record<string, string> = {
  embed: "Token embedding",
  pos_embed: "Position embedding",
  final_norm: "Final norm",
  output: "Output",
  attn_norm: "Attention norm",
  attn: "Attention",
  attn_post_norm: "Norm after attention",
  mlp_norm: "MLP norm",
  mlp: "MLP",
  router: "Router",
  experts: "Experts",
  mlp_post_norm: "Norm after MLP",
};

export function moduleName(name: string): string {
  return MODULES[name] ?? name;
}

// "2 tensors • 8.4M parameters • 17 MB".
export function factsOfModule({ tensors, parameterCount, weightsBytes }: ModuleDescription): string {
  return [
    plural(tensors.length, "tensor"),
    `${formatCount(Number(parameterCount))} parameters`,
    formatBytes(Number(weightsBytes)),
  ].join(" • ");
}

// "4,096 × 11,008"; 0 stands for the number of keys.
export function shapeText(shape: readonly bigint[]): string {
  return shape.length === 0
    ? "1"
    : shape.map((size) => (size === 0n ? "keys" : size.toLocaleString("en"))).join(" × ");
}

// "3.2%" of the whole.
export function shareText(part: bigint, whole: bigint): string {
  if (whole <= 0n) {
    return "";
  }
  const percent = (Number(part) / Number(whole)) * 100;
  return percent > 0 && percent < 0.1 ? "less than 0.1%" : `${percent.toFixed(1)}%`;
}
