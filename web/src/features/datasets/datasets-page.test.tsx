import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { screen, waitFor, within } from "@testing-library/react";
import { expect, test } from "vitest";
import { sampleDataset } from "../../api/inspection-samples";
import { sampleStatus } from "../../api/samples";
import { renderWith } from "../../app/test-page";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb";
import { type Dataset, Dataset_State } from "../../gen/millm/catalog/v1/datasets_pb";
import {
  type AddDatasetProgressSchema,
  type AddDatasetRequest,
  ReadDatasetRowsResponseSchema,
} from "../../gen/millm/downloader/v1/downloader_pb";
import { DatasetsPage } from "./datasets-page";

type Progress = MessageInitShape<typeof AddDatasetProgressSchema>;

// A server whose datasets a test changes.
function page(datasets: Dataset[], add?: (request: AddDatasetRequest) => AsyncIterable<Progress>) {
  const state = { datasets };
  const asked: AddDatasetRequest[] = [];
  const removed: string[] = [];
  const offsets: bigint[] = [];
  const user = renderWith(<DatasetsPage />, {
    path: "/datasets",
    datasets: { listDatasets: () => ({ datasets: state.datasets }) },
    downloader: {
      async *addDataset(request) {
        asked.push(request);
        yield* add?.(request) ?? [];
      },
      removeDataset({ name }) {
        removed.push(name);
        state.datasets = state.datasets.filter((dataset) => dataset.name !== name);
        return {};
      },
      readDatasetRows({ offset }) {
        offsets.push(offset);
        return create(ReadDatasetRowsResponseSchema, {
          rowsJson: [JSON.stringify({ text: `row at ${offset}`, id: 1 })],
        });
      },
    },
  });
  return { user, state, asked, removed, offsets };
}

const cards = () => screen.findAllByTestId("dataset-card");

test("each dataset with its source, rows, columns, size and state", async () => {
  const failed = sampleDataset({
    id: 4n,
    handle: "broken",
    state: Dataset_State.ERROR,
    error: sampleStatus("INVALID_DATASET", "train.jsonl, row 3: expected an object."),
  });
  page([sampleDataset(), failed]);
  const [newest, oldest] = await cards();
  expect(newest?.textContent).toContain("broken");
  expect(newest?.textContent).toContain("train.jsonl, row 3: expected an object.");
  for (const text of ["1,000 rows • 1 file • 3.4 MB • Parquet", "Ready", "text text", "chat messages"]) {
    expect(oldest?.textContent).toContain(text);
  }
  expect(oldest?.textContent).toContain("roneneldan/TinyStories • train • main @ 0123456789");
});

test("no datasets, and a list that cannot be had", async () => {
  page([]);
  expect(await screen.findByText("No datasets yet")).toBeTruthy();
});

test("a list that cannot be had is told", async () => {
  renderWith(<DatasetsPage />, {
    datasets: {
      listDatasets() {
        throw new ConnectError("The catalog is away.", Code.Unavailable);
      },
    },
  });
  expect((await screen.findByRole("alert")).textContent).toContain("The catalog is away.");
  expect(screen.getByRole("button", { name: "Try again" })).toBeTruthy();
});

test("a dataset is added, and its progress is shown until it is ready", async () => {
  let goOn = () => {};
  const pending = sampleDataset({ state: Dataset_State.PENDING, files: [], columns: [] });
  const { user, state, asked } = page([], async function* () {
    state.datasets = [pending];
    yield { dataset: pending, detail: "reading and hashing", bytesDone: 1_000_000n, bytesTotal: 4_000_000n };
    await new Promise<void>((resolve) => {
      goOn = resolve;
    });
    state.datasets = [sampleDataset()];
    yield { dataset: sampleDataset() };
  });
  await user.click(await screen.findByTestId("add-dataset-btn"));
  await user.type(await screen.findByLabelText("Path on the server"), "/data/x.jsonl");
  await user.type(screen.getByLabelText(/^Name/), "stories");
  await user.click(screen.getByTestId("submit-dataset-btn"));
  await waitFor(() => expect(screen.queryByRole("dialog")).toBeNull());
  expect(asked).toMatchObject([{ handle: "stories", source: { case: "localPath", value: "/data/x.jsonl" } }]);
  const bar = await screen.findByRole("progressbar", { name: "tiny-stories: being added" });
  expect(bar.getAttribute("aria-valuenow")).toBe("25");
  expect(screen.getByText("25% • 1.0 of 4.0 MB")).toBeTruthy();
  expect(screen.getByText("Reading and hashing")).toBeTruthy();
  goOn();
  expect(await screen.findByText("tiny-stories is ready: 1,000 rows.")).toBeTruthy();
  await waitFor(() => expect(screen.getByTestId("dataset-state").textContent).toBe("Ready"));
});

test("what is wrong is said beside its field, by the page or by the server", async () => {
  const { user, asked } = page([], async function* () {
    yield* [];
    const value = { reason: "INVALID_DATASET_PATH", domain: "millm" };
    throw new ConnectError("Invalid dataset path: it is outside the allowed folders.", 3, undefined, [
      { desc: ErrorInfoSchema, value },
    ]);
  });
  await user.click(await screen.findByTestId("add-dataset-btn"));
  await user.click(await screen.findByTestId("submit-dataset-btn"));
  expect((await screen.findByRole("alert")).textContent).toContain("Enter the path");
  expect(asked).toEqual([]);
  const path = screen.getByLabelText("Path on the server");
  expect(document.activeElement).toBe(path);
  await user.type(path, "/etc/passwd");
  await user.click(screen.getByTestId("submit-dataset-btn"));
  expect((await screen.findByRole("alert")).textContent).toContain("outside the allowed folders");
  expect(path.getAttribute("aria-invalid")).toBe("true");
});

test("a hub's dataset is asked for with its configuration, split and revision", async () => {
  const { user, asked } = page([], async function* () {
    yield { dataset: sampleDataset() };
  });
  await user.click(await screen.findByTestId("add-dataset-btn"));
  await user.click(await screen.findByLabelText("Hugging Face"));
  await user.type(screen.getByLabelText("Hugging Face dataset"), "roneneldan/TinyStories");
  await user.type(screen.getByLabelText(/^Configuration/), "default");
  await user.type(screen.getByLabelText(/^Split/), "validation");
  await user.type(screen.getByLabelText(/^Revision/), "v1");
  await user.type(screen.getByLabelText(/^Column/), "story");
  await user.click(screen.getByTestId("submit-dataset-btn"));
  await waitFor(() => expect(asked).toHaveLength(1));
  expect(asked[0]).toMatchObject({
    column: "story",
    source: {
      case: "hub",
      value: { repoId: "roneneldan/TinyStories", config: "default", split: "validation", revision: "v1" },
    },
  });
});

test("rows are read a page at a time", async () => {
  const { user, offsets } = page([sampleDataset({ rows: 25n })]);
  await user.click(await screen.findByTestId("rows-btn"));
  const dialog = await screen.findByRole("dialog", { name: "Rows of tiny-stories" });
  expect(await within(dialog).findByText("row at 0")).toBeTruthy();
  expect(within(dialog).getByRole("status").textContent).toBe("1 to 20 of 25");
  expect(within(dialog).getByRole<HTMLButtonElement>("button", { name: "Previous" }).disabled).toBe(true);
  await user.click(within(dialog).getByRole("button", { name: "Next" }));
  expect(await within(dialog).findByText("row at 20")).toBeTruthy();
  expect(within(dialog).getByRole("status").textContent).toBe("21 to 25 of 25");
  expect(within(dialog).getByRole<HTMLButtonElement>("button", { name: "Next" }).disabled).toBe(true);
  expect(offsets).toEqual([0n, 20n]);
});

test("deleting asks first and says what goes", async () => {
  const { user, removed } = page([sampleDataset()]);
  await user.click(await screen.findByTestId("delete-dataset-btn"));
  expect(await screen.findByText(/which frees 3.4 MB/)).toBeTruthy();
  await user.click(screen.getByRole("button", { name: "Keep" }));
  expect(removed).toEqual([]);
  await user.click(screen.getByTestId("delete-dataset-btn"));
  await user.click(await screen.findByTestId("confirm-delete-dataset-btn"));
  expect(await screen.findByText("No datasets yet")).toBeTruthy();
  expect(removed).toEqual(["datasets/3"]);
});

test("a failed dataset can be tried again", async () => {
  const failed = sampleDataset({ state: Dataset_State.ERROR });
  const { user, asked } = page([failed], async function* () {
    yield { dataset: failed, error: sampleStatus("X", "Still no.") };
  });
  await user.click(await screen.findByRole("button", { name: "Retry tiny-stories" }));
  expect(await screen.findByText("Still no.")).toBeTruthy();
  expect(asked[0]?.source).toMatchObject({ case: "hub", value: { repoId: "roneneldan/TinyStories" } });
});
