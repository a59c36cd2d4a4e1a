// What a person has typed to add a dataset, whether it can be sent, and where a refusal belongs.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Problem } from "../../api/errors";
import { Source } from "../../gen/millm/catalog/v1/catalog_pb";
import type { Dataset } from "../../gen/millm/catalog/v1/datasets_pb";
import type { AddDatasetRequestSchema } from "../../gen/millm/downloader/v1/downloader_pb";
import { isRepoId } from "../downloads/draft";

export type AddRequest = MessageInitShape<typeof AddDatasetRequestSchema>;

export interface DatasetDraft {
  source: "hub" | "local";
  path: string;
  repo: string;
  config: string;
  split: string;
  revision: string;
  token: string;
  // "" for one derived from the source, and for a column that is found.
  name: string;
  column: string;
}

export const EMPTY_DATASET: DatasetDraft = {
  source: "local",
  path: "",
  repo: "",
  config: "",
  split: "",
  revision: "",
  token: "",
  name: "",
  column: "",
};

export type DatasetField = Exclude<keyof DatasetDraft, "source">;
export type DatasetErrors = Partial<Record<DatasetField, string>>;

const NAME = /^[A-Za-z0-9._-]{1,255}$/;

// What can be said without asking the server. An empty record: send it.
export function validate(draft: DatasetDraft): DatasetErrors {
  const errors: DatasetErrors = {};
  if (draft.source === "local") {
    const path = draft.path.trim();
    if (path === "") {
      errors.path = "Enter the path of a file, of a folder, or a pattern.";
    }
  } else {
    const repo = datasetRepoIn(draft.repo);
    if (repo === "") {
      errors.repo = "Enter a repository id.";
    } else if (!isRepoId(repo) && !/^[A-Za-z0-9._-]+$/.test(repo)) {
      errors.repo = "Expected owner/name, for example roneneldan/TinyStories.";
    }
  }
  const name = draft.name.trim();
  if (name !== "" && !NAME.test(name)) {
    errors.name = "A name has 1 to 255 letters, digits, '-', '_' or '.'.";
  }
  return errors;
}

// The repository id in what was typed or pasted: the address of its page will do too.
export function datasetRepoIn(text: string): string {
  const trimmed = text.trim();
  const page =
    /^https?:\/\/(?:www\.)?(?:huggingface\.co|hf\.co)\/datasets\/([^/?#]+(?:\/(?!(?:tree|blob|resolve|viewer|discussions)(?:\/|$))[^/?#]+)?)/.exec(
      trimmed,
    );
  return page?.[1] ?? trimmed;
}

export function requestOf(draft: DatasetDraft): AddRequest {
  const common = { handle: draft.name.trim(), column: draft.column.trim() };
  if (draft.source === "local") {
    return { ...common, source: { case: "localPath", value: draft.path.trim() } };
  }
  const hub = {
    repoId: datasetRepoIn(draft.repo),
    config: draft.config.trim(),
    split: draft.split.trim(),
    revision: draft.revision.trim(),
    hfToken: draft.token.trim(),
  };
  return { ...common, source: { case: "hub", value: hub } };
}

// Asks again for a dataset that failed: the same source goes on with the same row. A token was used once and forgotten.
export function retryOf(dataset: Dataset): AddRequest {
  const common = { handle: dataset.handle, column: dataset.column };
  if (dataset.source === Source.LOCAL) {
    return { ...common, source: { case: "localPath", value: dataset.localPath } };
  }
  const { repoId, revision, config, split } = dataset;
  return { ...common, source: { case: "hub", value: { repoId, revision, config, split } } };
}

const REASONS: Record<string, DatasetField> = {
  INVALID_REPO_ID: "repo",
  REPO_NOT_FOUND: "repo",
  GATED_MODEL_NO_TOKEN: "token",
  GATED_MODEL_NO_ACCESS: "token",
  INVALID_HF_TOKEN: "token",
  INVALID_DATASET_PATH: "path",
  INVALID_LOCAL_PATH: "path",
};

// The server's names of fields.
const ARGUMENTS: Record<string, DatasetField> = {
  handle: "name",
  name: "name",
  column: "column",
  config: "config",
  split: "split",
  revision: "revision",
  repo_id: "repo",
  local_path: "path",
};

// The field that a server's refusal is about, if it is about one.
export function fieldOf(problem: Problem): DatasetField | undefined {
  return REASONS[problem.reason] ?? ARGUMENTS[problem.metadata.field?.split(".").at(-1) ?? ""];
}
