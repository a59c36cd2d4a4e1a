import { expect, test } from "vitest";
import { Model_State } from "../gen/millm/catalog/v1/catalog_pb";
import { Extraction_State } from "../gen/millm/inspection/v1/inspection_pb";
import { LoadState } from "../gen/millm/runtime/v1/runtime_pb";
import { sampleExtraction } from "./inspection-samples";
import { joinModels, type ModelView } from "./join";
import { extractionNotices, noticesBetween } from "./notices";
import { rowOf, sampleLoad, sampleRow, sampleStatus } from "./samples";

function view(row: ReturnType<typeof sampleRow>, state?: LoadState): ModelView[] {
  const load = state === undefined ? undefined : sampleLoad({ state });
  return joinModels([rowOf(row, undefined, load)], new Map(), load ? [load] : []);
}

const pending = view(sampleRow({ state: Model_State.PENDING }));
const ready = view(sampleRow());
const loading = view(sampleRow(), LoadState.LOADING);
const loaded = view(sampleRow(), LoadState.LOADED);
const unloading = view(sampleRow(), LoadState.UNLOADING);
const failed = view(sampleRow({ state: Model_State.ERROR, error: sampleStatus("X", "Download failed.") }));

test.each([
  ["a finished download", pending, ready, [{ tone: "success", text: "gemma-2-2b is ready." }]],
  ["a finished load", loading, loaded, [{ tone: "success", text: "gemma-2-2b is loaded." }]],
  ["a failed download", pending, failed, [{ tone: "error", text: "Download failed." }]],
  ["a model that was always there", ready, ready, []],
  ["a model seen for the first time", [], ready, []],
  ["an unload", unloading, ready, []],
  ["a model that is gone", ready, [], []],
] as const)("%s", (_what, before, after, notices) => {
  expect(noticesBetween(before, after)).toEqual(notices);
});

const RUNNING = Extraction_State.RUNNING;
const finished = [
  { tone: "success", text: "Extraction from gemma-2-2b over tiny-stories is finished." },
] as const;

test.each([
  ["a finished extraction", RUNNING, Extraction_State.SUCCEEDED, finished],
  ["a failed one", RUNNING, Extraction_State.FAILED, [{ tone: "error", text: "The disk is full." }]],
  ["a cancelled one", RUNNING, Extraction_State.CANCELLED, []],
  ["one that begins", Extraction_State.QUEUED, RUNNING, []],
  ["one that was finished before", Extraction_State.SUCCEEDED, Extraction_State.SUCCEEDED, []],
  ["one seen for the first time", undefined, Extraction_State.SUCCEEDED, []],
] as const)("%s", (_what, before, after, notices) => {
  const told = (state: Extraction_State | undefined) =>
    new Map(
      state === undefined
        ? []
        : [["a1", sampleExtraction({ state, error: sampleStatus("X", "The disk is full.") })]],
    );
  expect(extractionNotices(told(before), told(after))).toEqual(notices);
});
