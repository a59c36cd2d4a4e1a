import { expect, test } from "vitest";
import { sampleDataset } from "../../api/inspection-samples";
import { Source } from "../../gen/millm/catalog/v1/catalog_pb";
import {
  type DatasetDraft,
  datasetRepoIn,
  EMPTY_DATASET,
  fieldOf,
  requestOf,
  retryOf,
  validate,
} from "./draft";

const draft = (part: Partial<DatasetDraft>): DatasetDraft => ({ ...EMPTY_DATASET, ...part });

test.each([
  [{}, ["path"]],
  [{ path: "/data/x.jsonl" }, []],
  // Relative ones are of the server's working folder.
  [{ path: "texts/*.csv", name: "my-texts" }, []],
  [{ path: "/data", name: "a b" }, ["name"]],
  [{ source: "hub" }, ["repo"]],
  [{ source: "hub", repo: "a/b/c" }, ["repo"]],
  [{ source: "hub", repo: "roneneldan/TinyStories" }, []],
  [{ source: "hub", repo: "squad" }, []],
] as [Partial<DatasetDraft>, string[]][])("%j has something wrong in %j", (part, fields) => {
  expect(Object.keys(validate(draft(part)))).toEqual(fields);
});

test.each([
  [" roneneldan/TinyStories ", "roneneldan/TinyStories"],
  ["https://huggingface.co/datasets/roneneldan/TinyStories/tree/main", "roneneldan/TinyStories"],
  ["https://hf.co/datasets/squad", "squad"],
  ["https://huggingface.co/datasets/squad/viewer", "squad"],
])("%s means %s", (text, repo) => {
  expect(datasetRepoIn(text)).toBe(repo);
});

test("requests", () => {
  expect(requestOf(draft({ path: " /data ", name: "x", column: "text" }))).toEqual({
    handle: "x",
    column: "text",
    source: { case: "localPath", value: "/data" },
  });
  const hub = draft({ source: "hub", repo: "a/b", split: "test", token: " hf_x " });
  expect(requestOf(hub).source).toEqual({
    case: "hub",
    value: { repoId: "a/b", config: "", split: "test", revision: "", hfToken: "hf_x" },
  });
});

test("a failed dataset is asked for again as it was", () => {
  expect(retryOf(sampleDataset())).toMatchObject({
    handle: "tiny-stories",
    source: { case: "hub", value: { repoId: "roneneldan/TinyStories", revision: "main", split: "train" } },
  });
  expect(retryOf(sampleDataset({ source: Source.LOCAL, localPath: "/d" })).source).toEqual({
    case: "localPath",
    value: "/d",
  });
});

test.each([
  ["INVALID_DATASET_PATH", {}, "path"],
  ["INVALID_ARGUMENT", { field: "handle" }, "name"],
  ["INVALID_ARGUMENT", { field: "hub.split" }, "split"],
  ["INSUFFICIENT_DISK", {}, undefined],
])("%s %j is about %s", (reason, metadata, field) => {
  expect(fieldOf({ reason, message: "", metadata })).toBe(field);
});
