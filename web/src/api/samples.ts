// Messages as the services send them, for tests.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { ErrorInfoSchema } from "../gen/google/rpc/error_details_pb";
import { StatusSchema } from "../gen/google/rpc/status_pb";
import {
  type Model,
  Model_State,
  ModelSchema,
  Quantization,
  Source,
} from "../gen/millm/catalog/v1/catalog_pb";
import { type Download, Download_State, DownloadSchema } from "../gen/millm/downloader/v1/downloader_pb";
import { FailedStep, Status } from "../gen/millm/gateway/v1/gateway_pb";
import { type LoadedModel, LoadedModelSchema, LoadState } from "../gen/millm/runtime/v1/runtime_pb";
import type { Row } from "./join";
import table from "./status-table.json";

export function sampleRow(part: MessageInitShape<typeof ModelSchema> = {}) {
  return create(ModelSchema, {
    name: `models/${part.id ?? 7n}`,
    id: 7n,
    handle: "gemma-2-2b",
    source: Source.HUGGINGFACE,
    repoId: "google/gemma-2-2b",
    revision: "main",
    requestedQuantization: Quantization.Q4,
    actualQuantization: Quantization.Q4,
    parameterCount: 2_506_172_416n,
    diskSizeBytes: 1_630_000_000n,
    memoryEstimateBytes: 1_800_000_000n,
    state: Model_State.READY,
    ...part,
  });
}

export function sampleDownload(part: MessageInitShape<typeof DownloadSchema> = {}) {
  return create(DownloadSchema, {
    name: "downloads/7",
    modelId: 7n,
    handle: "gemma-2-2b",
    state: Download_State.DOWNLOADING,
    downloadedBytes: 1_300_000_000n,
    totalBytes: 4_600_000_000n,
    speedBytesPerSecond: 23_400_000n,
    secondsLeft: 125n,
    fraction: 0.25,
    ...part,
  });
}

export function sampleLoad(part: MessageInitShape<typeof LoadedModelSchema> = {}) {
  return create(LoadedModelSchema, {
    modelId: 7n,
    handle: "gemma-2-2b",
    state: LoadState.LOADED,
    device: "cpu",
    contextLength: 4096,
    measuredMemoryBytes: 1_860_000_000n,
    ...part,
  });
}

export function sampleStatus(reason: string, message: string) {
  return create(StatusSchema, {
    code: 14,
    message,
    details: [anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason, domain: "millm" }))],
  });
}

// The row as the server sends it, with the status of the server's own table.
export function rowOf(model: Model, download?: Download, load?: LoadedModel): Row {
  const states = [
    Model_State[model.state],
    download ? Download_State[download.state] : null,
    load ? LoadState[load.state] : null,
  ];
  const entry = table.find((entry) => states.every((state, column) => entry[column] === state));
  const [status, failedStep] = (entry?.slice(3) ?? []).map((word) => (word ?? "unspecified").toUpperCase());
  return {
    model,
    status: Status[status as keyof typeof Status],
    failedStep: FailedStep[failedStep as keyof typeof FailedStep],
  };
}
