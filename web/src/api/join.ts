// What a person sees of a model: its row and its status, which come from the server together, and the figures of its
// download and its load. Nobody stores it; this is the only place in the web app that makes it.
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { type Model, Quantization, Source } from "../gen/millm/catalog/v1/catalog_pb";
import { type Download, Download_State } from "../gen/millm/downloader/v1/downloader_pb";
import { FailedStep, Status } from "../gen/millm/gateway/v1/gateway_pb";
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

// A model as the server sends it. The server alone joins what its services know into the status.
export interface Row {
  model: Model;
  status: Status;
  // Of the status ERROR.
  failedStep: FailedStep;
}

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
  // The larger of the estimate and the measured peak, as `millm ps` shows it: the KV cache grows into the estimate.
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
  // Weights, KV cache, activations and overhead, at most.
  memoryBytes: number;
  trustRemoteCode: boolean;
  hasChatTemplate: boolean;
  status: ModelStatus;
  // Set while queued, downloading, verifying or quantizing.
  arrival: Arrival | undefined;
  // Set while loading, loaded or unloading, once the runtime has told of it.
  residence: Residence | undefined;
  problem: Problem | undefined;
  // What failed when the status is "error".
  failed: "download" | "load" | undefined;
}

type Standing = Pick<ModelView, "status"> &
  Partial<Pick<ModelView, "arrival" | "residence" | "problem" | "failed">>;

// All models, newest first. Rows that are being removed are already gone for a person.
export function joinModels(
  rows: Iterable<Row>,
  downloads: ReadonlyMap<bigint, Download>,
  loads: readonly LoadedModel[],
): ModelView[] {
  const loadOf = new Map(loads.map((load) => [load.modelId, load]));
  const views: ModelView[] = [];
  for (const row of rows) {
    const { id } = row.model;
    const standing = standingOf(row, downloads.get(id), loadOf.get(id));
    if (standing) {
      views.push(viewOf(row.model, standing, loadOf.get(id)));
    }
  }
  return views.sort((a, b) => (a.id < b.id ? 1 : -1));
}

// The streams are not in step: the status is the server's, and figures are shown when they come.
function standingOf(
  { model, status, failedStep }: Row,
  download: Download | undefined,
  load: LoadedModel | undefined,
): Standing | undefined {
  switch (status) {
    case Status.QUEUED:
      return { status: "queued", arrival: arrivalOf(download) };
    case Status.DOWNLOADING:
      return { status: "downloading", arrival: arrivalOf(download) };
    case Status.VERIFYING:
      return { status: "verifying", arrival: arrivalOf(download) };
    case Status.QUANTIZING:
      return { status: "quantizing", arrival: arrivalOf(download) };
    case Status.READY:
      return { status: "ready" };
    case Status.LOADING:
      return { status: "loading", residence: load && residenceOf(load) };
    case Status.LOADED:
      return { status: "loaded", residence: load && residenceOf(load) };
    case Status.UNLOADING:
      return { status: "unloading", residence: load && residenceOf(load) };
    case Status.ERROR:
      return failedStep === FailedStep.LOAD
        ? { status: "error", failed: "load", problem: problemOfStatus(load?.progress?.error) }
        : {
            status: "error",
            failed: "download",
            problem: problemOfStatus(model.error) ?? problemOfStatus(download?.error),
          };
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

function arrivalOf(download: Download | undefined): Arrival {
  if (!download) {
    return NOT_STARTED;
  }
  const arrival = {
    fraction: fractionOf(download),
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
  // The row is about to become READY: done, but not loadable yet.
  return download.state === Download_State.SUCCEEDED ? { ...arrival, secondsLeft: 0 } : arrival;
}

function fractionOf({ state, fraction }: Download): number | undefined {
  switch (state) {
    case Download_State.QUEUED:
    case Download_State.RESOLVING:
      return fraction || undefined;
    case Download_State.SUCCEEDED:
      return 1;
    default:
      return fraction;
  }
}

function residenceOf(load: LoadedModel): Residence {
  return {
    fraction: load.progress?.fraction ?? 0,
    stage: load.progress?.stage ?? LoadProgress_Stage.UNSPECIFIED,
    detail: load.progress?.detail ?? "",
    device: load.device,
    contextLength: load.contextLength,
    requests: load.runningRequests + load.waitingRequests,
    memoryBytes: Math.max(Number(load.measuredMemoryBytes), Number(load.estimatedMemoryBytes)),
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
