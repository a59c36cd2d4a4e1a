// The page's picture of the server, made from the feeds. Components read it; nobody else writes it.
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

export interface Live {
  current(): LiveState;
  subscribe(listener: () => void): () => void;
  // Follows the source; returns what ends it.
  follow(source: FeedSource): () => void;
}

export function createLive(): Live {
  const memory = new FeedMemory();
  let state = pictureOf(memory);
  const listeners = new Set<() => void>();
  return {
    current: () => state,
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    follow: (source) =>
      source((event) => {
        if (memory.absorb(event)) {
          state = pictureOf(memory);
          for (const listener of listeners) {
            listener();
          }
        }
      }),
  };
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
