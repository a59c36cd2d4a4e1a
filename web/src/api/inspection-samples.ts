// Messages about the inside of models, datasets, templates and extractions, as the services send them, for tests.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Source } from "../gen/millm/catalog/v1/catalog_pb";
import {
  Dataset_State,
  DatasetColumn_Kind,
  DatasetFormat,
  DatasetSchema,
} from "../gen/millm/catalog/v1/datasets_pb";
import { ActivationType, TemplateSchema } from "../gen/millm/catalog/v1/templates_pb";
import {
  Extraction_State,
  ExtractionSchema,
  type LayerDescription,
  LayerDescriptionSchema,
  ModelDescriptionSchema,
} from "../gen/millm/inspection/v1/inspection_pb";

const HIDDEN = 64n;

function tensor(name: string, shape: bigint[], dtype: string) {
  const parameterCount = shape.reduce((product, size) => product * size, 1n);
  return { name, shape, dtype, parameterCount, bytes: parameterCount * 2n };
}

function moduleOf(name: string, tensors: ReturnType<typeof tensor>[]) {
  const sum = (of: (each: ReturnType<typeof tensor>) => bigint) =>
    tensors.reduce((total, each) => total + of(each), 0n);
  return {
    name,
    tensors,
    parameterCount: sum((each) => each.parameterCount),
    weightsBytes: sum((each) => each.bytes),
  };
}

function point(name: string, layer: number, transformerLens: string, about: string, writable = true) {
  return {
    name: `${name}.${layer}`,
    transformerLens: `blocks.${layer}.${transformerLens}`,
    shape: [HIDDEN],
    writable,
    about,
  };
}

export function sampleLayer(
  layer: number,
  part: { attention?: string; dtype?: string } = {},
): LayerDescription {
  const { attention = "attention", dtype = "BF16" } = part;
  const modules = [
    moduleOf("attn_norm", [tensor(`blk.${layer}.attn_norm.weight`, [HIDDEN], "F32")]),
    moduleOf("attn", [
      tensor(`blk.${layer}.attn_q.weight`, [HIDDEN, HIDDEN], dtype),
      tensor(`blk.${layer}.attn_k.weight`, [32n, HIDDEN], dtype),
      tensor(`blk.${layer}.attn_v.weight`, [32n, HIDDEN], dtype),
      tensor(`blk.${layer}.attn_output.weight`, [HIDDEN, HIDDEN], dtype),
    ]),
    moduleOf("mlp_norm", [tensor(`blk.${layer}.ffn_norm.weight`, [HIDDEN], "F32")]),
    moduleOf("mlp", [
      tensor(`blk.${layer}.ffn_gate.weight`, [128n, HIDDEN], dtype),
      tensor(`blk.${layer}.ffn_up.weight`, [128n, HIDDEN], dtype),
      tensor(`blk.${layer}.ffn_down.weight`, [HIDDEN, 128n], dtype),
    ]),
  ];
  return create(LayerDescriptionSchema, {
    layer,
    attention,
    mlp: "gated MLP",
    modules,
    hookPoints: [
      point("resid_pre", layer, "hook_resid_pre", "Residual stream before the block"),
      point("attn_norm", layer, "ln1.hook_normalized", "Attention's input, before the gain", false),
      point("attn", layer, "attn.hook_out", "Attention's raw output"),
      point("resid_mid", layer, "hook_resid_mid", "Residual stream between attention and MLP"),
      point("mlp", layer, "mlp.hook_out", "The MLP's raw output"),
      point("resid_post", layer, "hook_resid_post", "Residual stream after the block"),
    ],
    parameterCount: modules.reduce((sum, each) => sum + each.parameterCount, 0n),
    weightsBytes: modules.reduce((sum, each) => sum + each.weightsBytes, 0n),
  });
}

export function sampleDescription(part: MessageInitShape<typeof ModelDescriptionSchema> = {}) {
  const layers = Array.from({ length: 12 }, (_, layer) => sampleLayer(layer));
  const modules = [
    moduleOf("embed", [tensor("token_embd.weight", [1024n, HIDDEN], "BF16")]),
    moduleOf("final_norm", [tensor("output_norm.weight", [HIDDEN], "F32")]),
  ];
  return create(ModelDescriptionSchema, {
    modelId: 7n,
    handle: "gemma-2-2b",
    architecture: {
      name: "LlamaForCausalLM",
      family: "llama",
      layers: 12,
      hiddenSize: 64,
      heads: 8,
      kvHeads: 4,
      headDim: 8,
      intermediateSize: 128,
      vocabularySize: 1024,
      contextLength: 2048,
    },
    parameterCount: 2_506_172_416n,
    weightsBytes: 1_630_000_000n,
    hookPoints: [
      { name: "embed", transformerLens: "hook_embed", shape: [HIDDEN], writable: true, about: "Embedding" },
      { name: "logits", shape: [1024n], writable: true, about: "Logits" },
    ],
    layers,
    modules,
    configJson: JSON.stringify({
      architectures: ["LlamaForCausalLM"],
      hidden_size: 64,
      rope_scaling: { rope_type: "llama3", factor: 8 },
      tie_word_embeddings: true,
    }),
    ...part,
  } as MessageInitShape<typeof ModelDescriptionSchema>);
}

export function sampleDataset(part: MessageInitShape<typeof DatasetSchema> = {}) {
  return create(DatasetSchema, {
    name: `datasets/${part.id ?? 3n}`,
    id: 3n,
    handle: "tiny-stories",
    source: Source.HUGGINGFACE,
    repoId: "roneneldan/TinyStories",
    revision: "main",
    commit: "0123456789abcdef",
    split: "train",
    files: [{ path: "/data/train.parquet", sizeBytes: 3_400_000n, sha256: "ab", rows: 1000n }],
    format: DatasetFormat.PARQUET,
    rows: 1000n,
    columns: [
      { name: "text", kind: DatasetColumn_Kind.TEXT },
      { name: "chat", kind: DatasetColumn_Kind.MESSAGES },
      { name: "id", kind: DatasetColumn_Kind.OTHER },
    ],
    column: "text",
    state: Dataset_State.READY,
    ...part,
  } as MessageInitShape<typeof DatasetSchema>);
}

export function sampleTemplate(part: MessageInitShape<typeof TemplateSchema> = {}) {
  return create(TemplateSchema, {
    name: `templates/${part.id ?? 5n}`,
    id: 5n,
    handle: "residual-mlp_layers0-11_1000samples_1430",
    settings: {
      points: ["residual", "mlp"],
      layers: "0-3,11",
      maxSamples: 200n,
      sequenceLength: 128,
      dtype: ActivationType.F16,
      positions: "last",
      pack: true,
    },
    etag: "e1",
    ...part,
  } as MessageInitShape<typeof TemplateSchema>);
}

export function sampleExtraction(part: MessageInitShape<typeof ExtractionSchema> = {}) {
  const id = part.id ?? "a1";
  return create(ExtractionSchema, {
    name: `extractions/${id}`,
    id,
    state: Extraction_State.RUNNING,
    config: {
      model: "models/7",
      dataset: "datasets/3",
      settings: { points: ["residual", "mlp"], layers: "0,5-10", sequenceLength: 512 },
    },
    modelId: 7n,
    modelHandle: "gemma-2-2b",
    datasetHandle: "tiny-stories",
    samplesDone: 120n,
    samplesTotal: 1000n,
    tokensDone: 61_440n,
    samplesPerSecond: 41.2,
    timeLeft: { seconds: 21n, nanos: 0 },
    batchSize: 8,
    diskBytes: 1_200_000n,
    createTime: timestampFromMs(1_747_060_200_000),
    startTime: timestampFromMs(1_747_060_201_000),
    ...part,
  } as MessageInitShape<typeof ExtractionSchema>);
}

// As in the statistics.json of a finished extraction.
export function sampleStatistics() {
  const report = (point: string, mean: number) => ({
    point,
    tokens: 4096,
    values: 4096 * 64,
    non_finite: 0,
    mean,
    standard_deviation: 1.5,
    max: 40 + mean,
    min: -40,
    sparsity: 0.002,
    kurtosis: 3.1,
    percentiles: { "50": 0 },
    histogram: { edges: [-1, 1], counts: [9] },
    norm: { mean: 12 + mean, max: 90, min: 1, percentiles: {} },
    dimensions: { mean: [mean], max: [40] },
    largest_norms: [{ sample: 1, position: 0, token: 2, norm: 90 }],
  });
  return {
    version: 1,
    definitions: { sparsity: "share of numbers below 0.001 of the root mean square" },
    points: [
      report("resid_post.0", 0.5),
      report("mlp.0", -0.25),
      report("resid_post.5", 1.25),
      { ...report("mlp.5", 0), mean: null },
      report("logits", 2),
    ],
  };
}
