// The page's picture of the server, kept by three watches: models, downloads, runtime. Components read it; nobody
// else writes it.
import { type Model, WatchModelsResponse_Kind } from "../gen/millm/catalog/v1/catalog_pb";
import type { Download } from "../gen/millm/downloader/v1/downloader_pb";
import type { Device, RuntimeStatus } from "../gen/millm/runtime/v1/runtime_pb";
import type { Clients } from "./clients";
import { joinModels, type ModelView } from "./join";
import { type Watch, watchUntil } from "./watch";

export type Feed = "models" | "downloads" | "runtime";

export interface LiveState {
  models: readonly ModelView[];
  // False until the first list has come: "no models" is not known before.
  listed: boolean;
  devices: readonly Device[];
  // Feeds that were lost and are being asked for again.
  lost: readonly Feed[];
}

export interface Live {
  current(): LiveState;
  subscribe(listener: () => void): () => void;
  // Opens the watches and follows the page's visibility; returns what closes them.
  start(page: Document): () => void;
}

const EMPTY: LiveState = { models: [], listed: false, devices: [], lost: [] };

export function createLive(clients: Clients): Live {
  let rows = new Map<bigint, Model>();
  // Rows of a list that is still coming; shown when it is complete, so that a reconnect does not flicker.
  let incoming: Map<bigint, Model> | undefined;
  let downloads = new Map<bigint, Download>();
  let status: RuntimeStatus | undefined;
  let state = EMPTY;
  const listeners = new Set<() => void>();

  function publish(change: Partial<LiveState> = {}) {
    state = {
      ...state,
      models: joinModels(rows.values(), downloads, status?.models ?? []),
      devices: status?.devices ?? [],
      ...change,
    };
    for (const listener of listeners) {
      listener();
    }
  }

  function found(feed: Feed) {
    if (state.lost.includes(feed)) {
      publish({ lost: state.lost.filter((other) => other !== feed) });
    }
  }

  function lose(feed: Feed) {
    if (!state.lost.includes(feed)) {
      publish({ lost: [...state.lost, feed] });
    }
  }

  const models: Watch<{ kind: WatchModelsResponse_Kind; model?: Model }> = {
    open: (signal, connected) => clients.catalog.watchModels({}, { signal, onHeader: connected }),
    onConnected() {
      incoming = new Map();
      found("models");
    },
    onMessage({ kind, model }) {
      if (kind === WatchModelsResponse_Kind.SNAPSHOT_COMPLETE) {
        rows = incoming ?? rows;
        incoming = undefined;
        publish({ listed: true });
        return;
      }
      if (!model) {
        return;
      }
      const target = incoming ?? rows;
      if (kind === WatchModelsResponse_Kind.DELETED) {
        target.delete(model.id);
      } else {
        target.set(model.id, model);
      }
      if (!incoming) {
        publish();
      }
    },
    onLost: () => lose("models"),
  };

  const arrivals: Watch<Download> = {
    open: (signal, connected) => clients.downloader.watchDownloads({}, { signal, onHeader: connected }),
    onConnected() {
      downloads = new Map();
      found("downloads");
    },
    onMessage(download) {
      downloads.set(download.modelId, download);
      publish();
    },
    onLost: () => lose("downloads"),
  };

  const runtime: Watch<RuntimeStatus> = {
    open: (signal, connected) => clients.runtime.watchStatus({}, { signal, onHeader: connected }),
    onConnected: () => found("runtime"),
    onMessage(message) {
      status = message;
      publish();
    },
    onLost() {
      // Without the runtime nothing is known to be loaded.
      status = undefined;
      lose("runtime");
    },
  };

  function open(): AbortController {
    const stop = new AbortController();
    // Browsers allow six connections to an HTTP/1.1 origin, all tabs together, and each watch holds one: a hidden
    // page gives its own back (see `start`).
    void watchUntil(models, stop.signal);
    void watchUntil(arrivals, stop.signal);
    void watchUntil(runtime, stop.signal);
    return stop;
  }

  return {
    current: () => state,
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    start(page) {
      let watches: AbortController | undefined;
      const follow = () => {
        if (page.visibilityState === "hidden") {
          watches?.abort();
          watches = undefined;
        } else {
          watches ??= open();
        }
      };
      page.addEventListener("visibilitychange", follow);
      follow();
      return () => {
        page.removeEventListener("visibilitychange", follow);
        watches?.abort();
      };
    },
  };
}
