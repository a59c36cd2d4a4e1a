// The feeds from the worker that all pages share; from the page itself where there are no such workers.
import type { FeedEvent, FeedSource } from "./feeds";

export function sharedFeeds(otherwise: FeedSource): FeedSource {
  if (typeof SharedWorker === "undefined") {
    return otherwise;
  }
  return (emit) => {
    let stopOwn: (() => void) | undefined;
    const worker = new SharedWorker(new URL("./feeds.worker.ts", import.meta.url), { type: "module" });
    worker.onerror = () => {
      // It could not be started: a strict browser, or a proxy that knows better.
      stopOwn ??= otherwise(emit);
    };
    worker.port.onmessage = ({ data }: MessageEvent<FeedEvent>) => emit(data);
    // A worker is not told when a page goes; one that may come back (persisted) keeps its place.
    const leave = () => worker.port.postMessage("leave");
    const leaving = (event: PageTransitionEvent) => {
      if (!event.persisted) {
        leave();
      }
    };
    window.addEventListener("pagehide", leaving);
    return () => {
      window.removeEventListener("pagehide", leaving);
      leave();
      worker.port.close();
      stopOwn?.();
    };
  };
}
