import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { screen, waitFor } from "@testing-library/react";
import { expect, test } from "vitest";
import { sampleDescription } from "../../api/inspection-samples";
import { joinModels } from "../../api/join";
import { rowOf, sampleDownload, sampleLoad, sampleRow, sampleStatus } from "../../api/samples";
import { renderWith } from "../../app/test-page";
import { Model_State, type ModelSchema, Source } from "../../gen/millm/catalog/v1/catalog_pb";
import {
  type Download,
  Download_State,
  type StartDownloadRequest,
} from "../../gen/millm/downloader/v1/downloader_pb";
import {
  type LoadedModel,
  type LoadModelRequest,
  LoadProgress_Stage,
  LoadState,
} from "../../gen/millm/runtime/v1/runtime_pb";
import { ModelCard } from "./model-card";

type Played = Parameters<typeof renderWith>[1];
type Facts = { row?: MessageInitShape<typeof ModelSchema>; download?: Download; load?: LoadedModel };

function show({ row, download, load }: Facts, played?: Played) {
  const downloads = new Map(download ? [[download.modelId, download]] : []);
  const [model] = joinModels([rowOf(sampleRow(row), download, load)], downloads, load ? [load] : []);
  if (!model) {
    throw new Error("nothing to show");
  }
  return renderWith(<ModelCard model={model} />, played);
}

const status = () => screen.getByTestId("model-status").textContent;
const bar = () => screen.getByRole("progressbar");

test("a ready model: what it is, and Load and Delete", () => {
  show({});
  expect(status()).toBe("Ready");
  expect(screen.getByText("2.5B params • Q4 quantization • up to 1.8 GB in memory")).toBeTruthy();
  expect(screen.getByText("google/gemma-2-2b")).toBeTruthy();
  expect(screen.getByRole("button", { name: "Load gemma-2-2b" })).toBe(screen.getByTestId("load-btn"));
  expect(screen.getByRole("button", { name: "Delete gemma-2-2b" })).toBe(screen.getByTestId("delete-btn"));
});

test("a download: its bar, bytes, speed and time left", () => {
  show({ row: { state: Model_State.PENDING }, download: sampleDownload() });
  expect(status()).toBe("Downloading");
  expect(bar().getAttribute("aria-valuenow")).toBe("25");
  expect(screen.getByText("25% • 1.3 of 4.6 GB")).toBeTruthy();
  expect(screen.getByText("23 MB/s • 2 min 5 s left")).toBeTruthy();
  expect(screen.queryByTestId("delete-btn")).toBeNull();
});

test("a waiting download tells its place, a stalled one that it stalls", () => {
  const row = { state: Model_State.PENDING };
  show({ row, download: sampleDownload({ state: Download_State.QUEUED, queuePosition: 3, fraction: 0 }) });
  expect(status()).toBe("Queued");
  expect(screen.getByText("Waiting: number 3 in the queue")).toBeTruthy();
  const estimatedStartTime = timestampFromMs(Date.now() + 90_000);
  const told = { modelId: 8n, state: Download_State.QUEUED, queuePosition: 1, estimatedStartTime };
  show({ row: { ...row, id: 8n }, download: sampleDownload(told) });
  expect(screen.getByText(/^Waiting: next in the queue, begins in about 1 min \d+ s$/)).toBeTruthy();
  show({ row: { ...row, id: 7n }, download: sampleDownload({ stalled: true, retries: 1 }) });
  expect(screen.getByText("Stalled • 1 retry")).toBeTruthy();
});

test("cancel asks for this model's download", async () => {
  const cancelled: string[] = [];
  const user = show(
    { row: { state: Model_State.PENDING }, download: sampleDownload() },
    {
      downloader: {
        cancelDownload({ name }) {
          cancelled.push(name);
          return {};
        },
      },
    },
  );
  await user.click(screen.getByTestId("cancel-btn"));
  await waitFor(() => expect(cancelled).toEqual(["models/7"]));
});

test("loading and unloading say what they are at", () => {
  const progress = { stage: LoadProgress_Stage.UNLOADING_PREVIOUS, fraction: 0 };
  show({ load: sampleLoad({ state: LoadState.LOADING, progress }) });
  expect(status()).toBe("Loading");
  expect(screen.getByText("Unloading previous model…")).toBeTruthy();
  expect(bar().hasAttribute("aria-valuenow")).toBe(false);
});

test("unloading waits for requests", () => {
  show({ load: sampleLoad({ state: LoadState.UNLOADING, runningRequests: 2 }) });
  expect(status()).toBe("Unloading");
  expect(screen.getByText("Waiting for 2 requests…")).toBeTruthy();
});

test("a loaded model can be unloaded, not deleted", () => {
  show({ load: sampleLoad() });
  expect(status()).toBe("Loaded");
  expect(screen.getByTestId("unload-btn")).toBeTruthy();
  expect(screen.getByTestId<HTMLButtonElement>("delete-btn").disabled).toBe(true);
  expect(screen.getByText("On cpu • 4,096 tokens of context")).toBeTruthy();
});

function runtimeWhere(fits: boolean) {
  const loads: LoadModelRequest[] = [];
  const runtime = {
    estimateMemory: () => ({ fits, totalBytes: 17_000_000_000n, availableBytes: 12_400_000_000n }),
    async *loadModel(request: LoadModelRequest) {
      loads.push(request);
      yield { state: LoadState.LOADED };
    },
  };
  return { loads, runtime };
}

test("a model that fits is loaded at once", async () => {
  const { loads, runtime } = runtimeWhere(true);
  const user = show({}, { runtime });
  await user.click(screen.getByTestId("load-btn"));
  await waitFor(() => expect(loads).toMatchObject([{ model: "models/7", allowInsufficientMemory: false }]));
  expect(screen.queryByRole("dialog")).toBeNull();
});

test("a model that does not fit asks first", async () => {
  const { loads, runtime } = runtimeWhere(false);
  const user = show({}, { runtime });
  await user.click(screen.getByTestId("load-btn"));
  await screen.findByRole("dialog", { name: "Not enough memory" });
  expect(screen.getByText(/requires ~17 GB, only 12 GB available/)).toBeTruthy();
  expect(loads).toEqual([]);
  await user.click(screen.getByTestId("load-anyway-btn"));
  await waitFor(() => expect(loads).toMatchObject([{ allowInsufficientMemory: true }]));
});

test("a refused load is told", async () => {
  const user = show(
    {},
    {
      runtime: {
        estimateMemory() {
          throw new ConnectError("Model not found: 'models/7'.", Code.NotFound);
        },
      },
    },
  );
  await user.click(screen.getByTestId("load-btn"));
  expect((await screen.findByRole("alert")).textContent).toContain("Model not found: 'models/7'.");
});

test("deleting asks first, says what goes, and gives the focus back", async () => {
  const removed: string[] = [];
  const user = show(
    {},
    {
      downloader: {
        removeModel({ name }) {
          removed.push(name);
          return {};
        },
      },
    },
  );
  await user.click(screen.getByTestId("delete-btn"));
  expect(await screen.findByRole("dialog", { name: "Delete gemma-2-2b?" })).toBeTruthy();
  expect(screen.getByText(/frees 1.6 GB/)).toBeTruthy();
  await user.click(screen.getByRole("button", { name: "Keep" }));
  expect(removed).toEqual([]);
  await waitFor(() => expect(document.activeElement).toBe(screen.getByTestId("delete-btn")));

  await user.click(screen.getByTestId("delete-btn"));
  await user.click(screen.getByTestId("confirm-delete-btn"));
  await waitFor(() => expect(removed).toEqual(["models/7"]));
});

test("a local model says so, and that its files stay", async () => {
  const user = show({ row: { source: Source.LOCAL, localPath: "/models/tiny" } });
  expect(screen.getByText("Local")).toBeTruthy();
  expect(screen.getByText("/models/tiny")).toBeTruthy();
  await user.click(screen.getByTestId("delete-btn"));
  expect(await screen.findByText(/stay where they are/)).toBeTruthy();
});

function retried() {
  const asked: StartDownloadRequest[] = [];
  const downloader = {
    startDownload(request: StartDownloadRequest) {
      asked.push(request);
      return {};
    },
  };
  return { asked, downloader };
}

test("a failed download says why and can be retried as it was asked for", async () => {
  const { asked, downloader } = retried();
  const error = sampleStatus("MODEL_DOWNLOAD_FAILED", "Download failed: reset.");
  const user = show({ row: { state: Model_State.ERROR, error, trustRemoteCode: true } }, { downloader });
  expect(status()).toBe("Error");
  expect(screen.getByText("Download failed: reset.")).toBeTruthy();
  await user.click(screen.getByTestId("retry-btn"));
  await waitFor(() => expect(asked).toHaveLength(1));
  expect(asked[0]).toMatchObject({
    trustRemoteCode: true,
    source: { case: "hub", value: { repoId: "google/gemma-2-2b", revision: "main", hfToken: "" } },
  });
});

test("a retry that needs a token asks for it", async () => {
  const { asked, downloader } = retried();
  const error = sampleStatus("GATED_MODEL_NO_TOKEN", "'a/b' is gated.");
  const user = show({ row: { state: Model_State.ERROR, error } }, { downloader });
  await user.click(screen.getByTestId("retry-btn"));
  await user.type(await screen.findByLabelText("Access token"), "hf_x{Enter}");
  await waitFor(() => expect(asked).toHaveLength(1));
  expect(asked[0]?.source).toMatchObject({ value: { hfToken: "hf_x" } });
});

const extract = () => screen.queryByTestId("extract-btn");

test("activations are extracted from a model that is there and at rest", async () => {
  const user = show({ load: sampleLoad() }, { inspection: { describeModel: () => sampleDescription() } });
  expect(extract()).toBe(screen.getByRole("button", { name: "Extract activations from gemma-2-2b" }));
  await user.click(screen.getByTestId("extract-btn"));
  expect(await screen.findByRole("dialog", { name: "Extract activations from gemma-2-2b" })).toBeTruthy();
  await user.click(screen.getByRole("button", { name: "Cancel" }));
  await waitFor(() => expect(document.activeElement).toBe(extract()));
});

test.each([
  ["ready", true, {}],
  ["loaded", true, { load: sampleLoad() }],
  ["loading", false, { load: sampleLoad({ state: LoadState.LOADING }) }],
  ["unloading", false, { load: sampleLoad({ state: LoadState.UNLOADING }) }],
  ["downloading", false, { row: { state: Model_State.PENDING }, download: sampleDownload() }],
  ["failed", false, { row: { state: Model_State.ERROR } }],
] as [string, boolean, Facts][])("a %s model can be extracted from: %s", (_status, extractable, facts) => {
  show(facts);
  expect(extract() !== null).toBe(extractable);
});

test("the name leads to what the model is made of, once its files are there", () => {
  show({});
  expect(screen.getByRole("link", { name: "gemma-2-2b" }).getAttribute("href")).toBe("/models/7");
});

test("a model on its way has nothing to look into", () => {
  show({ row: { state: Model_State.PENDING }, download: sampleDownload() });
  expect(screen.queryByRole("link")).toBeNull();
});
