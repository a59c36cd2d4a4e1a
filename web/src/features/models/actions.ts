// What can be done with a model, and which of it is being done right now.
import { useState } from "react";
import { useClients } from "../../api/context";
import { type Problem, problemOf } from "../../api/errors";
import type { ModelView } from "../../api/join";
import type { MemoryEstimate } from "../../gen/millm/runtime/v1/runtime_pb";
import { useToast } from "../../ui/toasts";

export type Action = "cancel" | "load" | "unload" | "delete" | "retry";

export interface ModelActions {
  // The action that was asked for and not yet answered.
  busy: Action | undefined;
  // Loads when it fits; otherwise answers with the estimate, for a person to decide.
  load(): Promise<MemoryEstimate | undefined>;
  loadAnyway(): Promise<void>;
  unload(): Promise<void>;
  cancel(): Promise<void>;
  // Resolves with true when the model is gone.
  remove(): Promise<boolean>;
  // Resolves with the refusal, if there is one, so that a dialog can show it.
  retry(token: string): Promise<Problem | undefined>;
}

export function useModelActions(model: ModelView): ModelActions {
  const { downloader, runtime } = useClients();
  const toast = useToast();
  const [busy, setBusy] = useState<Action>();

  async function doing<T>(action: Action, work: () => Promise<T>, failed?: (problem: Problem) => void) {
    setBusy(action);
    try {
      return await work();
    } catch (cause) {
      const problem = problemOf(cause);
      if (problem) {
        (failed ?? ((p) => toast({ tone: "error", text: p.message })))(problem);
      }
      return undefined;
    } finally {
      // Another action may have begun: a load's stream ends a moment after its model can be unloaded.
      setBusy((now) => (now === action ? undefined : now));
    }
  }

  // The watches tell how far it is; the stream is read to its end because a refusal comes through it.
  async function loadNow(allowInsufficientMemory: boolean) {
    await drain(runtime.loadModel({ model: model.name, allowInsufficientMemory }));
  }

  return {
    busy,
    load: () =>
      doing("load", async () => {
        const estimate = await runtime.estimateMemory({ model: model.name });
        if (!estimate.fits) {
          return estimate;
        }
        await loadNow(false);
        return undefined;
      }),
    loadAnyway: () => doing("load", () => loadNow(true)),
    unload: () => doing("unload", () => drain(runtime.unloadModel({ model: model.name }))),
    cancel: async () => {
      await doing("cancel", () => downloader.cancelDownload({ name: model.name }));
    },
    remove: async () => {
      const removed = await doing("delete", async () => {
        await downloader.removeModel({ name: model.name });
        return true;
      });
      return removed ?? false;
    },
    retry: async (token) => {
      let refusal: Problem | undefined;
      await doing(
        "retry",
        () => downloader.startDownload(retryRequest(model, token)),
        (problem) => {
          refusal = problem;
        },
      );
      return refusal;
    },
  };
}

// Asking again for a model in error goes on with the same row.
function retryRequest(model: ModelView, hfToken: string) {
  const common = { quantization: model.requestedQuantization, trustRemoteCode: model.trustRemoteCode };
  if (model.source === "local") {
    return { ...common, source: { case: "localPath" as const, value: model.origin } };
  }
  const { origin: repoId, revision, file } = model;
  return { ...common, source: { case: "hub" as const, value: { repoId, revision, file, hfToken } } };
}

async function drain(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream) {
    // Only its end matters.
  }
}
