// What the server tells without being asked: its watches, as one stream of events. The models come with the status that
// the server gives them; downloads and loads add the figures. Extractions stand alone.
import type { Download } from "../gen/millm/downloader/v1/downloader_pb";
import type { WatchModelsResponse } from "../gen/millm/gateway/v1/gateway_pb";
import type { Extraction } from "../gen/millm/inspection/v1/inspection_pb";
import type { RuntimeStatus } from "../gen/millm/runtime/v1/runtime_pb";
import type { Clients } from "./clients";
import { watchUntil } from "./watch";

export type Feed = "models" | "downloads" | "runtime" | "extractions";

export type ModelsChange = Pick<WatchModelsResponse, "kind"> &
  Partial<Pick<WatchModelsResponse, "model" | "status" | "failedStep">>;

// Plain data: events also travel between a worker and its pages.
export type FeedEvent =
  // A new connection: the feed's present state follows, what was known before may be gone.
  | { kind: "connected"; feed: Feed }
  | { kind: "lost"; feed: Feed }
  | { kind: "models"; change: ModelsChange }
  | { kind: "download"; download: Download }
  | { kind: "runtime"; status: RuntimeStatus }
  | { kind: "extraction"; extraction: Extraction };

// Begins to tell; returns what ends it.
export type FeedSource = (emit: (event: FeedEvent) => void) => () => void;

// Opens the watches.
export function watchedFeeds(clients: Clients): FeedSource {
  return (emit) => {
    const stop = new AbortController();
    const { signal } = stop;
    const on = (feed: Feed) => ({
      onConnected: () => emit({ kind: "connected", feed }),
      onLost: () => emit({ kind: "lost", feed }),
    });
    void watchUntil(
      {
        ...on("models"),
        open: (signal, onHeader) => clients.models.watchModels({}, { signal, onHeader }),
        onMessage: (change) => emit({ kind: "models", change }),
      },
      signal,
    );
    void watchUntil(
      {
        ...on("downloads"),
        open: (signal, onHeader) => clients.downloader.watchDownloads({}, { signal, onHeader }),
        onMessage: (download) => emit({ kind: "download", download }),
      },
      signal,
    );
    void watchUntil(
      {
        ...on("runtime"),
        open: (signal, onHeader) => clients.runtime.watchStatus({}, { signal, onHeader }),
        onMessage: (status) => emit({ kind: "runtime", status }),
      },
      signal,
    );
    void watchUntil(
      {
        ...on("extractions"),
        open: (signal, onHeader) => clients.inspection.watchExtractions({}, { signal, onHeader }),
        onMessage: (extraction) => emit({ kind: "extraction", extraction }),
      },
      signal,
    );
    return () => stop.abort();
  };
}

// The source, only while the page is visible: a hidden one gives its connections back.
export function whileVisible(source: FeedSource, page: Document): FeedSource {
  return (emit) => {
    let stop: (() => void) | undefined;
    const follow = () => {
      if (page.visibilityState === "hidden") {
        stop?.();
        stop = undefined;
      } else {
        stop ??= source(emit);
      }
    };
    page.addEventListener("visibilitychange", follow);
    follow();
    return () => {
      page.removeEventListener("visibilitychange", follow);
      stop?.();
    };
  };
}
