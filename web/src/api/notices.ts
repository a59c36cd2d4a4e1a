// What is worth telling when the models change under the reader's eyes: work that ended, well or badly.
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
