import { expect, test } from "vitest";
import { Model_State, Quantization, Source } from "../gen/millm/catalog/v1/catalog_pb";
import { type Download, Download_State } from "../gen/millm/downloader/v1/downloader_pb";
import { type LoadedModel, LoadProgress_Stage, LoadState } from "../gen/millm/runtime/v1/runtime_pb";
import { joinModels } from "./join";
import { rowOf, sampleDownload, sampleLoad, sampleRow, sampleStatus } from "./samples";
import table from "./status-table.json";

function seen(state: Model_State, download?: Download, load?: LoadedModel) {
  const downloads = new Map(download ? [[download.modelId, download]] : []);
  return joinModels([rowOf(sampleRow({ state }), download, load)], downloads, load ? [load] : [])[0];
}

const { PENDING, READY, ERROR, DELETING } = Model_State;

test("every combination of the three services' states shows the word of the server's table", () => {
  for (const [row, download, load, word] of table) {
    const view = seen(
      Model_State[row as keyof typeof Model_State],
      download === null
        ? undefined
        : sampleDownload({ state: Download_State[download as keyof typeof Download_State] }),
      load === null ? undefined : sampleLoad({ state: LoadState[load as keyof typeof LoadState] }),
    );
    expect(view?.status ?? "deleting", `${row} ${download} ${load}`).toBe(word);
  }
});

test.each([
  [Download_State.QUEUED, "queued"],
  [Download_State.RESOLVING, "downloading"],
  [Download_State.DOWNLOADING, "downloading"],
  [Download_State.VERIFYING, "verifying"],
  [Download_State.QUANTIZING, "quantizing"],
  [Download_State.FINALIZING, "verifying"],
  [Download_State.SUCCEEDED, "verifying"],
  [Download_State.FAILED, "error"],
  [Download_State.CANCELLED, undefined],
] as const)("a pending row with a download in state %i is %s", (state, status) => {
  expect(seen(PENDING, sampleDownload({ state }))?.status).toBe(status);
});

test("a pending row whose download is not known yet is queued", () => {
  expect(seen(PENDING)).toMatchObject({
    status: "queued",
    arrival: { fraction: undefined, queuePosition: 0 },
  });
});

test.each([
  [LoadState.LOADING, "loading"],
  [LoadState.LOADED, "loaded"],
  [LoadState.UNLOADING, "unloading"],
  [LoadState.UNLOADED, "ready"],
  [LoadState.FAILED, "error"],
] as const)("a ready row with a load in state %i is %s", (state, status) => {
  expect(seen(READY, undefined, sampleLoad({ state }))?.status).toBe(status);
});

test("a ready row is ready, whatever its ended download still says", () => {
  for (const state of [Download_State.QUANTIZING, Download_State.SUCCEEDED, Download_State.FAILED]) {
    expect(seen(READY, sampleDownload({ state }))).toMatchObject({ status: "ready", arrival: undefined });
  }
});

test("a row that is being removed is gone", () => {
  expect(seen(DELETING)).toBeUndefined();
});

test("a failed download says why: in the row, or before the row knows", () => {
  const status = sampleStatus("MODEL_DOWNLOAD_FAILED", "Download failed: reset.");
  const problem = { reason: "MODEL_DOWNLOAD_FAILED", message: "Download failed: reset." };
  const row = sampleRow({ state: ERROR, error: status });
  expect(joinModels([rowOf(row)], new Map(), [])[0]).toMatchObject({
    status: "error",
    failed: "download",
    problem,
  });
  const early = seen(PENDING, sampleDownload({ state: Download_State.FAILED, error: status }));
  expect(early).toMatchObject({ status: "error", failed: "download", problem });
});

test("a retry under way hides the old error", () => {
  const view = seen(ERROR, sampleDownload({ state: Download_State.DOWNLOADING }));
  expect(view).toMatchObject({ status: "downloading", problem: undefined, failed: undefined });
  expect(seen(ERROR, sampleDownload({ state: Download_State.FAILED }))?.status).toBe("error");
});

test("a failed load leaves the model loadable and says why", () => {
  const error = sampleStatus("MODEL_LOAD_FAILED", "Out of memory loading model.");
  const view = seen(READY, undefined, sampleLoad({ state: LoadState.FAILED, progress: { error } }));
  expect(view).toMatchObject({
    status: "error",
    failed: "load",
    residence: undefined,
    problem: { reason: "MODEL_LOAD_FAILED", message: "Out of memory loading model." },
  });
});

test("a download's figures are numbers", () => {
  const view = seen(PENDING, sampleDownload({ stalled: true, retries: 2 }));
  expect(view?.arrival).toEqual({
    fraction: 0.25,
    downloadedBytes: 1.3e9,
    totalBytes: 4.6e9,
    bytesPerSecond: 23.4e6,
    secondsLeft: 125,
    queuePosition: 0,
    stalled: true,
    retries: 2,
    detail: "",
  });
});

test("while loading the estimate counts, once loaded the larger of estimated and measured", () => {
  const progress = { stage: LoadProgress_Stage.LOADING_WEIGHTS, fraction: 0.4 };
  const loading = seen(READY, undefined, sampleLoad({ state: LoadState.LOADING, progress }));
  expect(loading).toMatchObject({ memoryBytes: 1.8e9, residence: { fraction: 0.4, stage: 3 } });
  const loaded = seen(READY, undefined, sampleLoad({ runningRequests: 1, waitingRequests: 2 }));
  expect(loaded).toMatchObject({ memoryBytes: 1.86e9, residence: { requests: 3, device: "cpu" } });
  const unused = sampleLoad({ estimatedMemoryBytes: 2_100_000_000n });
  expect(seen(READY, undefined, unused)).toMatchObject({ memoryBytes: 2.1e9 });
});

test("a local model shows its path, and what it got rather than what was asked", () => {
  const row = sampleRow({
    source: Source.LOCAL,
    localPath: "/models/tiny",
    requestedQuantization: Quantization.Q2,
    actualQuantization: Quantization.Q4,
  });
  expect(joinModels([rowOf(row)], new Map(), [])[0]).toMatchObject({
    source: "local",
    origin: "/models/tiny",
    quantization: Quantization.Q4,
    requestedQuantization: Quantization.Q2,
  });
});

test("the newest model comes first", () => {
  const rows = [2n, 10n, 1n].map((id) => rowOf(sampleRow({ id })));
  expect(joinModels(rows, new Map(), []).map((model) => model.id)).toEqual([10n, 2n, 1n]);
});
