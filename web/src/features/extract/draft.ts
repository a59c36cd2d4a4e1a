// What a person has chosen for an extraction: read from a template, checked, and made into a request.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Problem } from "../../api/errors";
import type { Dataset } from "../../gen/millm/catalog/v1/datasets_pb";
import { DatasetColumn_Kind } from "../../gen/millm/catalog/v1/datasets_pb";
import {
  ActivationFormat,
  ActivationType,
  type ExtractionSettings,
  type ExtractionSettingsSchema,
} from "../../gen/millm/catalog/v1/templates_pb";
import type { ExtractionConfigSchema } from "../../gen/millm/inspection/v1/inspection_pb";
import { needsLayers, normalPoints, type PointChoice } from "./points";

export interface ExtractDraft {
  // Resource name; "" until one is chosen.
  dataset: string;
  // "" for the dataset's own.
  column: string;
  points: readonly string[];
  // As written: "all", "0,5-10".
  layers: string;
  // Numbers as written; "" leaves the choice to the server.
  maxSamples: string;
  sequenceLength: string;
  batchSize: string;
  positions: string;
  dtype: ActivationType;
  format: ActivationFormat;
  pack: boolean;
  split: boolean;
  chatTemplate: boolean;
  specialTokens: boolean;
}

export const EMPTY_EXTRACT: ExtractDraft = {
  dataset: "",
  column: "",
  points: ["residual"],
  layers: "",
  maxSamples: "1000",
  sequenceLength: "512",
  batchSize: "",
  positions: "",
  dtype: ActivationType.F32,
  format: ActivationFormat.UNSPECIFIED,
  pack: false,
  split: false,
  chatTemplate: false,
  specialTokens: true,
};

// The draft with a template's settings; the dataset stays.
export function withSettings(draft: ExtractDraft, settings: ExtractionSettings): ExtractDraft {
  const number = (n: bigint | number) => (n > 0 ? String(n) : "");
  return {
    ...draft,
    points: normalPoints(settings.points),
    layers: settings.layers || "all",
    maxSamples: number(settings.maxSamples),
    sequenceLength: number(settings.sequenceLength),
    batchSize: number(settings.batchSize),
    positions: settings.positions === "all" ? "" : settings.positions,
    dtype: settings.dtype || ActivationType.F32,
    format: settings.format,
    pack: settings.pack,
    split: settings.split,
    chatTemplate: settings.chatTemplate,
    specialTokens: !settings.noSpecialTokens,
  };
}

export type ExtractField = "dataset" | "points" | "layers" | NumberField | "positions" | "column";
export type NumberField = "maxSamples" | "sequenceLength" | "batchSize";
export type ExtractErrors = Partial<Record<ExtractField, string>>;

const LARGEST: Record<NumberField, number> = {
  maxSamples: Number.MAX_SAFE_INTEGER,
  sequenceLength: 0xffff_ffff,
  batchSize: 0xffff_ffff,
};

// What can be said without asking the server about the settings alone. An empty record: they can be saved.
export function validateSettings(draft: ExtractDraft, others: readonly PointChoice[]): ExtractErrors {
  const errors: ExtractErrors = {};
  if (draft.points.length === 0) {
    errors.points = "Choose at least one hook point.";
  } else if (draft.layers.trim() === "" && draft.points.some((name) => needsLayers(name, others))) {
    errors.layers = "Choose at least one layer.";
  }
  for (const field of ["maxSamples", "sequenceLength", "batchSize"] as const) {
    const text = draft[field].trim();
    if (text !== "" && (!/^\d+$/.test(text) || Number(text) < 1 || Number(text) > LARGEST[field])) {
      errors[field] = "Expected a whole number from 1 on, or nothing.";
    }
  }
  return errors;
}

export function validate(draft: ExtractDraft, others: readonly PointChoice[]): ExtractErrors {
  const errors = validateSettings(draft, others);
  return draft.dataset === "" ? { dataset: "Choose a dataset.", ...errors } : errors;
}

export function settingsOf(draft: ExtractDraft): MessageInitShape<typeof ExtractionSettingsSchema> {
  return {
    points: [...draft.points],
    layers: draft.layers.trim(),
    maxSamples: BigInt(draft.maxSamples.trim() || 0),
    sequenceLength: Number(draft.sequenceLength),
    batchSize: Number(draft.batchSize),
    dtype: draft.dtype,
    positions: draft.positions.trim(),
    pack: draft.pack,
    split: draft.split,
    chatTemplate: draft.chatTemplate,
    noSpecialTokens: !draft.specialTokens,
    format: draft.format,
  };
}

export function configOf(
  model: string,
  draft: ExtractDraft,
): MessageInitShape<typeof ExtractionConfigSchema> {
  return { model, dataset: draft.dataset, column: draft.column, settings: settingsOf(draft) };
}

// What the column that would be read holds.
export function kindRead(dataset: Dataset | undefined, column: string): DatasetColumn_Kind {
  const name = column || dataset?.column;
  return dataset?.columns.find((each) => each.name === name)?.kind ?? DatasetColumn_Kind.UNSPECIFIED;
}

// The draft with another dataset or column. Messages need the chat template, and token ids have none.
export function withColumn(draft: ExtractDraft, dataset: Dataset | undefined, column: string): ExtractDraft {
  const kind = kindRead(dataset, column);
  const chatTemplate =
    kind === DatasetColumn_Kind.MESSAGES || (kind === DatasetColumn_Kind.TEXT && draft.chatTemplate);
  return { ...draft, dataset: dataset?.name ?? "", column, chatTemplate };
}

// The server's names of fields.
const FIELDS: Record<string, ExtractField> = {
  points: "points",
  layers: "layers",
  max_samples: "maxSamples",
  sequence_length: "sequenceLength",
  batch_size: "batchSize",
  positions: "positions",
  dataset: "dataset",
  column: "column",
};

// The field that a refusal is about, if it is about one.
export function fieldOf(problem: Problem): ExtractField | undefined {
  return FIELDS[problem.metadata.field?.split(".").at(-1) ?? ""];
}
