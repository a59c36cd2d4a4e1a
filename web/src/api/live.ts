// The page's picture of the server, made from the feeds and kept in the cache. Components read it; nobody else writes
// it.
import { type QueryClient, queryOptions } from "@tanstack/react-query";
import type { Device } from "../gen/millm/runtime/v1/runtime_pb";
import { FeedMemory } from "./feed-memory";
import type { Feed, FeedSource } from "./feeds";
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

// Writes what the source tells into the cache; returns what ends it.
export function followLive(queries: QueryClient, source: FeedSource): () => void {
  const memory = new FeedMemory();
  return source((event) => {
    if (memory.absorb(event)) {
      queries.setQueryData(liveQuery.queryKey, pictureOf(memory));
    }
  });
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
