import { expect, test } from "vitest";
import { sampleDataset, sampleDescription, sampleTemplate } from "../../api/inspection-samples";
import { ActivationType, type ExtractionSettings } from "../../gen/millm/catalog/v1/templates_pb";
import {
  configOf,
  EMPTY_EXTRACT,
  type ExtractDraft,
  fieldOf,
  settingsOf,
  validate,
  withColumn,
  withSettings,
} from "./draft";
import { needsLayers, normalPoints, otherPoints } from "./points";

const others = otherPoints(sampleDescription());
const draft = (part: Partial<ExtractDraft>): ExtractDraft => ({
  ...EMPTY_EXTRACT,
  dataset: "datasets/3",
  layers: "0",
  ...part,
});

test("the model's other points, in the order of computation", () => {
  expect(others.map(({ name, layered }) => [name, layered])).toEqual([
    ["resid_pre", true],
    ["attn_norm", true],
    ["resid_mid", true],
    ["embed", false],
    ["logits", false],
  ]);
});

test("names of the same point are one", () => {
  expect(normalPoints(["resid_post", "residual", "attn", "mlp", "q.3"])).toEqual([
    "residual",
    "attention",
    "mlp",
    "q.3",
  ]);
});

test.each([
  ["residual", true],
  ["resid_pre", true],
  ["logits", false],
  ["resid_post.3", false],
  ["blocks.3.attn.hook_q", false],
  // Not known here: the server decides.
  ["router", true],
])("%s needs layers: %s", (name, needs) => {
  expect(needsLayers(name, others)).toBe(needs);
});

test.each([
  [{}, []],
  [{ dataset: "" }, ["dataset"]],
  [{ points: [] }, ["points"]],
  [{ layers: " " }, ["layers"]],
  [{ layers: "", points: ["logits", "resid_post.3"] }, []],
  [{ maxSamples: "", sequenceLength: "", batchSize: "" }, []],
  [{ maxSamples: "0" }, ["maxSamples"]],
  [{ sequenceLength: "1e3", batchSize: "-4" }, ["sequenceLength", "batchSize"]],
  [{ batchSize: "4294967296" }, ["batchSize"]],
] as [Partial<ExtractDraft>, string[]][])("%j has something wrong in %j", (part, fields) => {
  expect(Object.keys(validate(draft(part), others))).toEqual(fields);
});

test("a template is taken over and saved as it was", () => {
  const settings = sampleTemplate().settings as ExtractionSettings;
  const taken = withSettings(draft({}), settings);
  expect(taken).toMatchObject({
    dataset: "datasets/3",
    points: ["residual", "mlp"],
    layers: "0-3,11",
    maxSamples: "200",
    sequenceLength: "128",
    batchSize: "",
    positions: "last",
    dtype: ActivationType.F16,
    pack: true,
    specialTokens: true,
  });
  expect(settingsOf(taken)).toMatchObject({
    points: ["residual", "mlp"],
    layers: "0-3,11",
    maxSamples: 200n,
    sequenceLength: 128,
    batchSize: 0,
    positions: "last",
    dtype: ActivationType.F16,
    pack: true,
    noSpecialTokens: false,
  });
});

test("what a template leaves open is open", () => {
  const settings = sampleTemplate({ settings: { points: ["mlp"] } }).settings as ExtractionSettings;
  expect(withSettings(draft({}), settings)).toMatchObject({
    layers: "all",
    maxSamples: "",
    sequenceLength: "",
    dtype: ActivationType.F32,
  });
});

test("the request names the model and the dataset", () => {
  expect(configOf("models/7", draft({ column: "text" }))).toMatchObject({
    model: "models/7",
    dataset: "datasets/3",
    column: "text",
    settings: { maxSamples: 1000n },
  });
});

test("messages are rendered with the chat template, token ids are not", () => {
  const dataset = sampleDataset();
  expect(withColumn(draft({}), dataset, "chat").chatTemplate).toBe(true);
  expect(withColumn(draft({ chatTemplate: true }), dataset, "").chatTemplate).toBe(true);
  expect(withColumn(draft({ chatTemplate: true }), dataset, "id").chatTemplate).toBe(false);
  expect(withColumn(draft({}), undefined, "").dataset).toBe("");
});

test.each([
  ["settings.sequence_length", "sequenceLength"],
  ["positions", "positions"],
  ["settings.format", undefined],
])("a refusal of %s is about %s", (field, place) => {
  expect(fieldOf({ reason: "INVALID_ARGUMENT", message: "", metadata: { field } })).toBe(place);
});
