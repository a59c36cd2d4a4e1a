import { Code, ConnectError } from "@connectrpc/connect";
import { screen, waitFor } from "@testing-library/react";
import { Route, Routes } from "react-router";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { sampleExtraction, sampleStatistics } from "../../api/inspection-samples";
import { sampleStatus } from "../../api/samples";
import { renderWith } from "../../app/test-page";
import { type Extraction, Extraction_State } from "../../gen/millm/inspection/v1/inspection_pb";
import { ExtractionPage } from "./extraction-page";
import { ExtractionsPage } from "./extractions-page";

// There is no canvas to draw on here.
vi.mock("uplot", () => ({
  default: class {
    setSize() {}
    redraw() {}
    destroy() {}
  },
}));

const FILES = ["resid_post.layer0.npy", "statistics.json"].map((name) => ({
  name,
  sizeBytes: 1_200_000n,
  sha256: "0123456789abcdef".repeat(4),
}));
const finished = sampleExtraction({
  state: Extraction_State.SUCCEEDED,
  samplesDone: 1000n,
  tokensDone: 512_000n,
  files: FILES,
});

beforeEach(() => {
  vi.spyOn(globalThis, "fetch").mockImplementation(async () => Response.json(sampleStatistics()));
});
afterEach(() => void vi.restoreAllMocks());

// `listed` is what the server lists, `told` what the feed says.
function page(path: string, listed: Extraction[], told: Extraction[] = []) {
  const state = { listed };
  const asked: [string, string][] = [];
  const act = (what: string) => (request: { name: string }) => {
    asked.push([what, request.name]);
    return sampleExtraction({ id: what === "replay" ? "b2" : "a1" });
  };
  const user = renderWith(
    <Routes>
      <Route path="/extractions" element={<ExtractionsPage />} />
      <Route path="/extractions/:id" element={<ExtractionPage />} />
    </Routes>,
    {
      path,
      extractions: told,
      inspection: {
        listExtractions: () => ({ extractions: state.listed }),
        getExtraction({ name }) {
          const found = state.listed.find(({ id }) => id === name);
          if (!found) {
            throw new ConnectError(`Extraction not found: '${name}'.`, Code.NotFound);
          }
          return found;
        },
        cancelExtraction: act("cancel"),
        resumeExtraction: act("resume"),
        replayExtraction: act("replay"),
        deleteExtraction({ name }) {
          asked.push(["delete", name]);
          state.listed = [];
          return {};
        },
      },
    },
  );
  return { user, asked };
}

const states = () => screen.getAllByTestId("extraction-state").map((badge) => badge.textContent);

test("each extraction with its progress, as the feed tells it now", async () => {
  const running = sampleExtraction({ samplesDone: 250n, tokensDone: 128_000n });
  const { user, asked } = page("/extractions", [sampleExtraction()], [running]);
  const bar = await screen.findByRole("progressbar", { name: "gemma-2-2b over tiny-stories" });
  expect(bar.getAttribute("aria-valuenow")).toBe("25");
  expect(screen.getByText("25% • 250 of 1,000 samples • 128,000 tokens")).toBeTruthy();
  expect(screen.getByText("41 samples/s • 21 s left")).toBeTruthy();
  expect(screen.getByTestId<HTMLButtonElement>("delete-extraction-btn").disabled).toBe(true);
  await user.click(screen.getByTestId("cancel-extraction-btn"));
  await waitFor(() => expect(asked).toEqual([["cancel", "extractions/a1"]]));
});

test("one that the list does not have yet is asked for", async () => {
  let listings = 0;
  renderWith(<ExtractionsPage />, {
    extractions: [sampleExtraction()],
    inspection: {
      listExtractions() {
        listings += 1;
        return { extractions: listings > 1 ? [sampleExtraction()] : [] };
      },
    },
  });
  expect(await screen.findByTestId("extraction-card")).toBeTruthy();
  expect(listings).toBe(2);
});

test("none, and a list that cannot be had", async () => {
  page("/extractions", []);
  expect(await screen.findByText("No extractions yet")).toBeTruthy();
});

test("a list that cannot be had is told", async () => {
  renderWith(<ExtractionsPage />, {
    inspection: {
      listExtractions() {
        throw new ConnectError("The runtime is away.", Code.Unavailable);
      },
    },
  });
  expect((await screen.findByRole("alert")).textContent).toContain("The runtime is away.");
});

test("a failed one says why, and can be resumed", async () => {
  const failed = sampleExtraction({
    state: Extraction_State.FAILED,
    error: sampleStatus("INSUFFICIENT_DISK", "Insufficient disk space."),
  });
  const { user, asked } = page("/extractions", [failed]);
  expect(await screen.findByText("Insufficient disk space.")).toBeTruthy();
  await user.click(screen.getByTestId("resume-extraction-btn"));
  await waitFor(() => expect(asked).toEqual([["resume", "extractions/a1"]]));
});

test("deleting asks first, and leaves the page of what is gone", async () => {
  const { user, asked } = page("/extractions/a1", [finished], [finished]);
  await user.click(await screen.findByTestId("delete-extraction-btn"));
  expect(await screen.findByText(/frees 1.2 MB/)).toBeTruthy();
  await user.click(screen.getByTestId("confirm-delete-extraction-btn"));
  expect(await screen.findByText("No extractions yet")).toBeTruthy();
  expect(asked).toEqual([["delete", "extractions/a1"]]);
});

test("the results: files with links and checksums", async () => {
  page("/extractions/a1", [finished]);
  const link = await screen.findByRole<HTMLAnchorElement>("link", { name: "resid_post.layer0.npy" });
  expect(link.getAttribute("href")).toBe("/api/extractions/a1/files/resid_post.layer0.npy");
  expect(link.download).toBe("resid_post.layer0.npy");
  expect(screen.getByRole("button", { name: "Copy SHA-256 of statistics.json" })).toBeTruthy();
});

test("the results: statistics as a plot and as a table", async () => {
  const { user } = page("/extractions/a1", [finished]);
  expect(
    await screen.findByRole("img", {
      name: "Mean by layer: resid_post from 0.5 (L0) to 1.25 (L5); mlp from -0.25 (L0) to -0.25 (L0)",
    }),
  ).toBeTruthy();
  await user.selectOptions(screen.getByTestId("metric-select"), "Max");
  expect(await screen.findByRole("img", { name: /^Max by layer: resid_post from 40.5/ })).toBeTruthy();
  const rows = [...screen.getByTestId("statistics-table").querySelectorAll("tbody tr")];
  expect(rows.map((row) => [...row.children].map((cell) => cell.textContent))).toContainEqual([
    "mlp.5",
    "–",
    "40",
    "1.5",
    "0.002",
    "12",
    "4,096",
  ]);
  expect(rows.at(-1)?.textContent).toContain("logits");
});

test("statistics that cannot be read are told", async () => {
  vi.mocked(fetch).mockResolvedValue(Response.json({ version: 9 }));
  page("/extractions/a1", [finished]);
  expect((await screen.findByRole("alert")).textContent).toContain("have version 9");
});

test("a replay is started, and what came of it is told", async () => {
  const replay = sampleExtraction({
    id: "b2",
    state: Extraction_State.SUCCEEDED,
    replayOf: "extractions/a1",
    replay: { identical: false, file: "mlp.layer3.npy", sample: 7n, position: 12 },
  });
  const { user, asked } = page("/extractions/a1", [finished, replay], [finished, replay]);
  expect(await screen.findByText("First difference: mlp.layer3.npy, sample 7, position 12")).toBeTruthy();
  await user.click(screen.getByTestId("replay-btn"));
  expect(await screen.findByRole("link", { name: "extraction a1" })).toBeTruthy();
  expect(asked).toEqual([["replay", "extractions/a1"]]);
  expect(states()).toEqual(["Finished"]);
});

test("an identical replay says so", async () => {
  const replay = { identical: true };
  page("/extractions/a1", [sampleExtraction({ state: Extraction_State.SUCCEEDED, replay })]);
  expect(await screen.findByText("The replay is identical, to the byte.")).toBeTruthy();
});

test("an extraction that does not exist", async () => {
  page("/extractions/zz", []);
  expect((await screen.findByRole("alert")).textContent).toContain("Extraction not found: 'zz'.");
});
