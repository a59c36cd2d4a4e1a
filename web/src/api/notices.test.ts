import { expect, test } from "vitest";
import { Model_State } from "../gen/millm/catalog/v1/catalog_pb";
import { LoadState } from "../gen/millm/runtime/v1/runtime_pb";
import { joinModels, type ModelView } from "./join";
import { noticesBetween } from "./notices";
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
