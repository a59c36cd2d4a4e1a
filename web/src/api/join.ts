// What a person sees of a model: the join of what the Catalog (the row), the Downloader (its arrival) and the
// Runtime (its loading) know. Nobody stores it; this is the only place in the web app that makes it.
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { type Model, Model_State, Quantization, Source } from "../gen/millm/catalog/v1/catalog_pb";
import { type Download, Download_State } from "../gen/millm/downloader/v1/downloader_pb";
import { type LoadedModel, LoadProgress_Stage, LoadState } from "../gen/millm/runtime/v1/runtime_pb";
import { type Problem, problemOfStatus } from "./errors";

export type ModelStatus =
  | "queued"
  | "downloading"
  | "verifying"
  | "quantizing"
  | "ready"
  | "loading"
  | "loaded"
  | "unloading"
  | "error";

export interface Arrival {
  // Of the whole work, 0 to 1; undefined while nothing is known.
  fraction: number | undefined;
  downloadedBytes: number;
  totalBytes: number;
  bytesPerSecond: number;
  secondsLeft: number;
  // 1 is next; 0 when not waiting.
  queuePosition: number;
  // When a waiting one may begin, in milliseconds since 1970; undefined while that cannot be told.
  estimatedStart: number | undefined;
  stalled: boolean;
  retries: number;
  detail: string;
}

export interface Residence {
  fraction: number;
  stage: LoadProgress_Stage;
  detail: string;
  device: string;
  contextLength: number;
  // Requests running or waiting.
  requests: number;
  memoryBytes: number;
}

export interface ModelView {
  id: bigint;
  // "models/7".
  name: string;
  handle: string;
  source: "hub" | "local";
  // The repository id, or the absolute path.
  origin: string;
  revision: string;
  file: string;
  quantization: Quantization;
  requestedQuantization: Quantization;
  quantizationReason: string;
  architecture: string;
  parameterCount: number;
  diskBytes: number;
  memoryBytes: number;
  trustRemoteCode: boolean;
  hasChatTemplate: boolean;
  status: ModelStatus;
  // Set while queued, downloading, verifying or quantizing.
  arrival: Arrival | undefined;
  // Set while loading, loaded or unloading.
  residence: Residence | undefined;
  problem: Problem | undefined;
  // What failed when the status is "error".
  failed: "download" | "load" | undefined;
}

type Standing = Pick<ModelView, "status"> &
  Partial<Pick<ModelView, "arrival" | "residence" | "problem" | "failed">>;

// All models, newest first. Rows that are being removed are already gone for a person.
export function joinModels(
  rows: Iterable<Model>,
  downloads: ReadonlyMap<bigint, Download>,
  loads: readonly LoadedModel[],
): ModelView[] {
  const loadOf = new Map(loads.map((load) => [load.modelId, load]));
  const views: ModelView[] = [];
  for (const row of rows) {
    const standing = standingOf(row, downloads.get(row.id), loadOf.get(row.id));
    if (standing) {
      views.push(viewOf(row, standing, loadOf.get(row.id)));
    }
  }
  return views.sort((a, b) => (a.id < b.id ? 1 : -1));
}

// The three streams are not in step: each branch also says what holds in the moment when one of them is behind.
function standingOf(
  row: Model,
  download: Download | undefined,
  load: LoadedModel | undefined,
): Standing | undefined {
  if (load) {
    switch (load.state) {
      case LoadState.LOADING:
        return { status: "loading", residence: residenceOf(load) };
      case LoadState.LOADED:
        return { status: "loaded", residence: residenceOf(load) };
      case LoadState.UNLOADING:
        return { status: "unloading", residence: residenceOf(load) };
    }
  }
  switch (row.state) {
    case Model_State.DELETING:
      return undefined;
    case Model_State.READY:
      if (load?.state === LoadState.FAILED) {
        return { status: "error", failed: "load", problem: problemOfStatus(load.progress?.error) };
      }
      return { status: "ready" };
    case Model_State.ERROR:
      // A Retry may be under way before the row says so.
      return (
        (download && arriving(download)) ?? {
          status: "error",
          failed: "download",
          problem: problemOfStatus(row.error) ?? problemOfStatus(download?.error),
        }
      );
    default:
      return pending(download);
  }
}

function pending(download: Download | undefined): Standing | undefined {
  switch (download?.state) {
    case Download_State.CANCELLED:
      // The row goes next.
      return undefined;
    case Download_State.FAILED:
      return { status: "error", failed: "download", problem: problemOfStatus(download.error) };
    case Download_State.SUCCEEDED:
      // The row is about to become READY: done, but not loadable yet.
      return { status: "verifying", arrival: { ...arrivalOf(download), fraction: 1, secondsLeft: 0 } };
    default:
      return (download && arriving(download)) ?? { status: "queued", arrival: NOT_STARTED };
  }
}

// Undefined for downloads that have ended.
function arriving(download: Download): Standing | undefined {
  const arrival = arrivalOf(download);
  switch (download.state) {
    case Download_State.QUEUED:
      return { status: "queued", arrival };
    case Download_State.RESOLVING:
      return { status: "downloading", arrival: { ...arrival, fraction: download.fraction || undefined } };
    case Download_State.DOWNLOADING:
      return { status: "downloading", arrival };
    case Download_State.VERIFYING:
    case Download_State.FINALIZING:
      return { status: "verifying", arrival };
    case Download_State.QUANTIZING:
      return { status: "quantizing", arrival };
    default:
      return undefined;
  }
}

const NOT_STARTED: Arrival = {
  fraction: undefined,
  downloadedBytes: 0,
  totalBytes: 0,
  bytesPerSecond: 0,
  secondsLeft: 0,
  queuePosition: 0,
  estimatedStart: undefined,
  stalled: false,
  retries: 0,
  detail: "",
};

function arrivalOf(download: Download): Arrival {
  return {
    fraction: download.state === Download_State.QUEUED ? download.fraction || undefined : download.fraction,
    downloadedBytes: Number(download.downloadedBytes),
    totalBytes: Number(download.totalBytes),
    bytesPerSecond: Number(download.speedBytesPerSecond),
    secondsLeft: Number(download.secondsLeft),
    queuePosition: download.queuePosition,
    estimatedStart: download.estimatedStartTime && timestampMs(download.estimatedStartTime),
    stalled: download.stalled,
    retries: download.retries,
    detail: download.detail,
  };
}

function residenceOf(load: LoadedModel): Residence {
  return {
    fraction: load.progress?.fraction ?? 0,
    stage: load.progress?.stage ?? LoadProgress_Stage.UNSPECIFIED,
    detail: load.progress?.detail ?? "",
    device: load.device,
    contextLength: load.contextLength,
    requests: load.runningRequests + load.waitingRequests,
    memoryBytes: Number(load.measuredMemoryBytes) || Number(load.estimatedMemoryBytes),
  };
}

function viewOf(row: Model, standing: Standing, load: LoadedModel | undefined): ModelView {
  const local = row.source === Source.LOCAL;
  const resident = standing.residence !== undefined && load?.state !== LoadState.LOADING;
  return {
    id: row.id,
    name: row.name || `models/${row.id}`,
    handle: row.handle,
    source: local ? "local" : "hub",
    origin: local ? row.localPath : row.repoId,
    revision: row.revision,
    file: row.file,
    quantization: row.actualQuantization || row.requestedQuantization,
    requestedQuantization: row.requestedQuantization,
    quantizationReason: row.quantizationReason,
    architecture: row.architecture?.name ?? "",
    parameterCount: Number(row.parameterCount),
    diskBytes: Number(row.diskSizeBytes),
    memoryBytes: (resident && standing.residence?.memoryBytes) || Number(row.memoryEstimateBytes),
    trustRemoteCode: row.trustRemoteCode,
    hasChatTemplate: row.hasChatTemplate,
    arrival: undefined,
    residence: undefined,
    problem: undefined,
    failed: undefined,
    ...standing,
  };
}

const LABELS: Record<ModelStatus, string> = {
  queued: "Queued",
  downloading: "Downloading",
  verifying: "Verifying",
  quantizing: "Quantizing",
  ready: "Ready",
  loading: "Loading",
  loaded: "Loaded",
  unloading: "Unloading",
  error: "Error",
};

export function statusLabel(status: ModelStatus): string {
  return LABELS[status];
}

const QUANTIZATIONS: Record<Quantization, string> = {
  [Quantization.UNSPECIFIED]: "",
  [Quantization.Q2]: "Q2",
  [Quantization.Q4]: "Q4",
  [Quantization.Q8]: "Q8",
  [Quantization.FP16]: "FP16",
  [Quantization.NATIVE]: "Native",
};

// Short, as on badges and buttons: "Q4".
export function quantizationLabel(quantization: Quantization): string {
  return QUANTIZATIONS[quantization] ?? "";
}
