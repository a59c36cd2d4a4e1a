// The lines of a model's card.
import { type ModelView, quantizationLabel } from "../../api/join";
import { LoadProgress_Stage } from "../../gen/millm/runtime/v1/runtime_pb";
import { formatBytes, formatCount, plural } from "../../ui/format";

// "2.5B params • Q4 quantization • up to 1.8 GB in memory"; what is not known yet is left out.
export function factsOf(model: ModelView): string {
  const facts: string[] = [];
  if (model.parameterCount > 0) {
    facts.push(`${formatCount(model.parameterCount)} params`);
  }
  const quantization = quantizationLabel(model.quantization);
  if (quantization !== "") {
    facts.push(`${quantization} quantization`);
  }
  if (model.memoryBytes > 0) {
    facts.push(`up to ${formatBytes(model.memoryBytes)} in memory`);
  }
  return facts.join(" • ");
}

const STAGES: Partial<Record<LoadProgress_Stage, string>> = {
  [LoadProgress_Stage.UNLOADING_PREVIOUS]: "Unloading previous model…",
  [LoadProgress_Stage.READING]: "Reading the model…",
  [LoadProgress_Stage.LOADING_WEIGHTS]: "Loading weights…",
  [LoadProgress_Stage.WARMING_UP]: "Warming up…",
};

export function stageText(model: ModelView): string {
  const { residence } = model;
  if (!residence) {
    return "";
  }
  if (model.status === "unloading") {
    return residence.requests > 0
      ? `Waiting for ${plural(residence.requests, "request")}…`
      : "Freeing memory…";
  }
  return STAGES[residence.stage] ?? "Loading…";
}

// What a loaded model is doing: "On cpu • 4,096 tokens of context • 2 requests".
export function residenceText(model: ModelView): string {
  const { residence } = model;
  if (!residence) {
    return "";
  }
  const parts: string[] = [];
  if (residence.device !== "") {
    parts.push(`On ${residence.device}`);
  }
  if (residence.contextLength > 0) {
    parts.push(`${residence.contextLength.toLocaleString("en")} tokens of context`);
  }
  if (residence.requests > 0) {
    parts.push(plural(residence.requests, "request"));
  }
  return parts.join(" • ");
}
