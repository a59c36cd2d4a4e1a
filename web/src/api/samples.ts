// Messages as the services send them, for tests.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { ErrorInfoSchema } from "../gen/google/rpc/error_details_pb";
import { StatusSchema } from "../gen/google/rpc/status_pb";
import { Model_State, ModelSchema, Quantization, Source } from "../gen/millm/catalog/v1/catalog_pb";
import { Download_State, DownloadSchema } from "../gen/millm/downloader/v1/downloader_pb";
import { LoadedModelSchema, LoadState } from "../gen/millm/runtime/v1/runtime_pb";

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
