// The page's picture of the server, made from the feeds and kept in the cache. Components read it; nobody else writes
// it.
import { type QueryClient, queryOptions } from "@tanstack/react-query";
import type { Extraction } from "../gen/millm/inspection/v1/inspection_pb";
import type { Device } from "../gen/millm/runtime/v1/runtime_pb";
import { FeedMemory } from "./feed-memory";
import type { Feed, FeedEvent, FeedSource } from "./feeds";
import { joinModels, type ModelView } from "./join";

export interface LiveState {
  models: readonly ModelView[];
  // False until the first list has come, so that "no models" is never said too early; and until the runtime has
  // spoken or is known to be away, so that no loaded model is first shown as ready.
  listed: boolean;
  // False until the runtime has spoken as well: before, nobody knows what is loaded.
  settled: boolean;
  devices: readonly Device[];
  // Feeds that were lost and are being asked for again.
  lost: readonly Feed[];
}

export const NOTHING_YET: LiveState = pictureOf(new FeedMemory());

// Never fetched and never stale: the feeds write it.
export const liveQuery = queryOptions({
  queryKey: ["live"],
  enabled: false,
  initialData: NOTHING_YET,
  staleTime: Number.POSITIVE_INFINITY,
  gcTime: Number.POSITIVE_INFINITY,
});

// What is known of the extractions, by id: apart from the rest, because a running one changes all the time.
export const extractionsQuery = queryOptions({
  queryKey: ["extractions"],
  enabled: false,
  initialData: new Map() as ReadonlyMap<string, Extraction>,
  staleTime: Number.POSITIVE_INFINITY,
  gcTime: Number.POSITIVE_INFINITY,
});

// Extractions that this page has removed: the feed does not tell of an end.
export const removedQuery = queryOptions({
  queryKey: ["removed-extractions"],
  enabled: false,
  initialData: new Set() as ReadonlySet<string>,
  staleTime: Number.POSITIVE_INFINITY,
  gcTime: Number.POSITIVE_INFINITY,
});

export function forgetExtraction(queries: QueryClient, id: string) {
  const before = queries.getQueryData(removedQuery.queryKey) ?? new Set();
  queries.setQueryDefaults(removedQuery.queryKey, { gcTime: Number.POSITIVE_INFINITY });
  queries.setQueryData(removedQuery.queryKey, new Set([...before, id]));
}

// Writes what the source tells into the cache; returns what ends it.
export function followLive(queries: QueryClient, source: FeedSource): () => void {
  const memory = new FeedMemory();
  return source((event) => {
    if (!memory.absorb(event)) {
      return;
    }
    if (isOfExtractions(event)) {
      queries.setQueryData(extractionsQuery.queryKey, new Map(memory.extractions));
    }
    if (event.kind !== "extraction") {
      queries.setQueryData(liveQuery.queryKey, pictureOf(memory));
    }
  });
}

function isOfExtractions(event: FeedEvent): boolean {
  return event.kind === "extraction" || (event.kind === "connected" && event.feed === "extractions");
}

function pictureOf({ rows, downloads, status, listed, lost }: FeedMemory): LiveState {
  const showable = listed && (status !== undefined || lost.has("runtime"));
  return {
    models: joinModels(showable ? rows.values() : [], downloads, status?.models ?? []),
    listed: showable,
    settled: listed && status !== undefined,
    devices: status?.devices ?? [],
    lost: [...lost],
  };
}
