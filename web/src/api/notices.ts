// What is worth telling when models and extractions change under the reader's eyes: work that ended, well or badly.
import { type Extraction, Extraction_State } from "../gen/millm/inspection/v1/inspection_pb";
import { problemOfStatus } from "./errors";
import type { ModelStatus, ModelView } from "./join";

export interface Notice {
  tone: "success" | "error";
  text: string;
}

const ARRIVING = new Set<ModelStatus>(["queued", "downloading", "verifying", "quantizing"]);

export function noticesBetween(before: readonly ModelView[], after: readonly ModelView[]): Notice[] {
  const was = new Map(before.map((model) => [model.id, model.status]));
  const notices: Notice[] = [];
  for (const model of after) {
    const earlier = was.get(model.id);
    if (earlier === undefined || earlier === model.status) {
      continue;
    }
    if (model.status === "error") {
      notices.push({
        tone: "error",
        text: model.problem?.message ?? `${model.handle}: something went wrong.`,
      });
    } else if (model.status === "ready" && ARRIVING.has(earlier)) {
      notices.push({ tone: "success", text: `${model.handle} is ready.` });
    } else if (model.status === "loaded" && earlier !== "unloading") {
      notices.push({ tone: "success", text: `${model.handle} is loaded.` });
    }
  }
  return notices;
}

export function extractionNotices(
  before: ReadonlyMap<string, Extraction>,
  after: ReadonlyMap<string, Extraction>,
): Notice[] {
  const notices: Notice[] = [];
  for (const { id, state, modelHandle, datasetHandle, error } of after.values()) {
    const earlier = before.get(id)?.state;
    if (earlier !== Extraction_State.QUEUED && earlier !== Extraction_State.RUNNING) {
      continue;
    }
    const text = `Extraction from ${modelHandle} over ${datasetHandle}`;
    if (state === Extraction_State.SUCCEEDED) {
      notices.push({ tone: "success", text: `${text} is finished.` });
    } else if (state === Extraction_State.FAILED) {
      notices.push({ tone: "error", text: problemOfStatus(error)?.message ?? `${text} has failed.` });
    }
  }
  return notices;
}
