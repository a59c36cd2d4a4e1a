// What can be done with a model, and which of it is being done right now.
import { useMutation } from "@connectrpc/connect-query";
import { useMutation as useStream } from "@tanstack/react-query";
import { useRuntime } from "../../api/context";
import { type Problem, problemOf } from "../../api/errors";
import type { ModelView } from "../../api/join";
import { DownloaderService } from "../../gen/millm/downloader/v1/downloader_pb";
import { type MemoryEstimate, RuntimeService } from "../../gen/millm/runtime/v1/runtime_pb";

export type Action = "cancel" | "load" | "unload" | "delete" | "retry";

export interface ModelActions {
  // The actions that were asked for and not yet answered.
  busy: ReadonlySet<Action>;
  // Loads when it fits; otherwise hands over the estimate, for a person to decide.
  load(onTight: (estimate: MemoryEstimate) => void): void;
  loadAnyway(): void;
  unload(): void;
  cancel(): void;
  // Calls back when it is answered, well or badly.
  remove(onEnd: () => void): void;
  // Resolves with the refusal, if there is one, so that a dialog can show it.
  retry(token: string): Promise<Problem | undefined>;
}

export function useModelActions(model: ModelView): ModelActions {
  const runtime = useRuntime();
  const { name } = model;
  const estimate = useMutation(RuntimeService.method.estimateMemory);
  // The watches tell how far it is; the stream is read to its end because a refusal comes through it.
  const load = useStream({
    mutationFn: (allowInsufficientMemory: boolean) =>
      drain(runtime.loadModel({ model: name, allowInsufficientMemory })),
  });
  const unload = useStream({ mutationFn: () => drain(runtime.unloadModel({ model: name })) });
  const cancel = useMutation(DownloaderService.method.cancelDownload);
  const remove = useMutation(DownloaderService.method.removeModel);
  // The request holds the token: it is forgotten with the answer.
  const retry = useMutation(DownloaderService.method.startDownload, {
    meta: { refusalShown: true },
    gcTime: 0,
  });

  const pending: Record<Action, boolean> = {
    cancel: cancel.isPending,
    load: estimate.isPending || load.isPending,
    unload: unload.isPending,
    delete: remove.isPending,
    retry: retry.isPending,
  };

  return {
    busy: new Set(ACTIONS.filter((action) => pending[action])),
    load: (onTight) =>
      estimate.mutate(
        { model: name },
        { onSuccess: (found) => (found.fits ? load.mutate(false) : onTight(found)) },
      ),
    loadAnyway: () => load.mutate(true),
    unload: () => unload.mutate(),
    cancel: () => cancel.mutate({ name }),
    remove: (onEnd) => remove.mutate({ name }, { onSettled: onEnd }),
    retry: async (token) => {
      try {
        await retry.mutateAsync(retryRequest(model, token));
        return undefined;
      } catch (cause) {
        return problemOf(cause) ?? undefined;
      } finally {
        retry.reset();
      }
    },
  };
}

const ACTIONS: Action[] = ["cancel", "load", "unload", "delete", "retry"];

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
