// One set of watches for all of the browser's pages. Browsers allow six connections to an HTTP/1.1 origin, all pages
// together: with four watches in each, the second window would leave none for anything else.
/// <reference lib="webworker" />
import { clientsOver, transportTo } from "./clients";
import { FeedMemory } from "./feed-memory";
import { watchedFeeds } from "./feeds";

declare const self: SharedWorkerGlobalScope;

const memory = new FeedMemory();
const pages = new Set<MessagePort>();

watchedFeeds(clientsOver(transportTo(self.location.origin)))((event) => {
  memory.absorb(event);
  for (const page of pages) {
    page.postMessage(event);
  }
});

self.onconnect = ({ ports: [page] }) => {
  if (!page) {
    return;
  }
  page.onmessage = ({ data }) => {
    if (data === "leave") {
      pages.delete(page);
    }
  };
  for (const event of memory.replay()) {
    page.postMessage(event);
  }
  pages.add(page);
};
