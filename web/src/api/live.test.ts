import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createRouterTransport } from "@connectrpc/connect";
import { expect, test, vi } from "vitest";
import { Model_State } from "../gen/millm/catalog/v1/catalog_pb";
import { Download_State, DownloaderService } from "../gen/millm/downloader/v1/downloader_pb";
import { ModelsService, WatchModelsResponse_Kind } from "../gen/millm/gateway/v1/gateway_pb";
import { InspectionService } from "../gen/millm/inspection/v1/inspection_pb";
import { RuntimeService, RuntimeStatusSchema } from "../gen/millm/runtime/v1/runtime_pb";
import { clientsOver } from "./clients";
import { FeedMemory } from "./feed-memory";
import { type FeedEvent, watchedFeeds, whileVisible } from "./feeds";
import { sampleExtraction } from "./inspection-samples";
import { extractionsQuery, followLive, liveQuery, NOTHING_YET } from "./live";
import { createQueries } from "./queries";
import { rowOf, sampleDownload, sampleLoad, sampleRow } from "./samples";

const PUT = WatchModelsResponse_Kind.PUT;
const DELETED = WatchModelsResponse_Kind.DELETED;
const COMPLETE = { kind: WatchModelsResponse_Kind.SNAPSHOT_COMPLETE };

function picture() {
  const queries = createQueries(() => {});
  const current = () => queries.getQueryData(liveQuery.queryKey) ?? NOTHING_YET;
  return { queries, current };
}

// A stream that stays open until its reader leaves.
function untilLeft(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

test("the streams become one picture, and a lost one comes back without old rows", async () => {
  const quantizing = rowOf(
    sampleRow({ id: 7n, state: Model_State.PENDING }),
    sampleDownload({ state: Download_State.QUANTIZING }),
  );
  let listings = 0;
  const transport = createRouterTransport(({ service }) => {
    service(ModelsService, {
      async *watchModels(_request, { signal }) {
        listings += 1;
        if (listings === 1) {
          yield { kind: PUT, ...rowOf(sampleRow({ id: 1n, handle: "old" })) };
          yield { kind: PUT, ...quantizing };
          yield COMPLETE;
          throw new ConnectError("catalog restarts", Code.Unavailable);
        }
        yield { kind: PUT, ...quantizing };
        yield { kind: PUT, ...rowOf(sampleRow({ id: 8n, handle: "loaded-one" }), undefined, sampleLoad()) };
        yield { kind: PUT, ...rowOf(sampleRow({ id: 9n, handle: "short-lived" })) };
        yield COMPLETE;
        yield { kind: DELETED, model: { id: 9n } };
        await untilLeft(signal);
      },
    });
    service(DownloaderService, {
      async *watchDownloads(_request, { signal }) {
        yield sampleDownload({ state: Download_State.QUANTIZING });
        await untilLeft(signal);
      },
    });
    service(RuntimeService, {
      async *watchStatus(_request, { signal }) {
        yield { models: [sampleLoad({ modelId: 8n })], devices: [{ id: "cpu", totalBytes: 10n }] };
        await untilLeft(signal);
      },
    });
    service(InspectionService, {
      async *watchExtractions(_request, { signal }) {
        yield sampleExtraction({ id: "a1", samplesDone: 1n });
        yield sampleExtraction({ id: "a2" });
        yield sampleExtraction({ id: "a1", samplesDone: 2n });
        await untilLeft(signal);
      },
    });
  });

  const { queries, current } = picture();
  expect(current()).toMatchObject({ listed: false, settled: false, models: [] });
  const seen: string[][] = [];
  queries
    .getQueryCache()
    .subscribe(() => seen.push(current().models.map((model) => `${model.handle} ${model.status}`)));
  const stop = followLive(queries, watchedFeeds(clientsOver(transport)));
  await vi.waitFor(() => {
    expect(current().lost).toEqual([]);
    expect(current().models.map((model) => [model.id, model.status])).toEqual([
      [8n, "loaded"],
      [7n, "quantizing"],
    ]);
    const told = [...(queries.getQueryData(extractionsQuery.queryKey)?.values() ?? [])];
    expect(told.map(({ id, samplesDone }) => [id, samplesDone])).toEqual([
      ["a1", 2n],
      ["a2", 120n],
    ]);
  });
  stop();

  expect(current()).toMatchObject({ settled: true, devices: [{ id: "cpu" }] });
  // The second list replaced the first in one step: never was there a picture with only its first row.
  expect(seen.filter((models) => models.length === 1)).toEqual([]);
});

test("a hidden page gives its connections back and takes them again", async () => {
  let open = 0;
  async function* held(signal: AbortSignal) {
    open += 1;
    await untilLeft(signal);
    open -= 1;
    yield* [];
  }
  const transport = createRouterTransport(({ service }) => {
    service(ModelsService, { watchModels: (_request, { signal }) => held(signal) });
    service(DownloaderService, { watchDownloads: (_request, { signal }) => held(signal) });
    service(RuntimeService, { watchStatus: (_request, { signal }) => held(signal) });
    service(InspectionService, { watchExtractions: (_request, { signal }) => held(signal) });
  });
  const page = Object.assign(document.implementation.createHTMLDocument(), {});
  let visibility: DocumentVisibilityState = "visible";
  Object.defineProperty(page, "visibilityState", { get: () => visibility });
  const show = (state: DocumentVisibilityState) => {
    visibility = state;
    page.dispatchEvent(new Event("visibilitychange"));
  };

  const stop = followLive(picture().queries, whileVisible(watchedFeeds(clientsOver(transport)), page));
  await vi.waitFor(() => expect(open).toBe(4));
  show("hidden");
  await vi.waitFor(() => expect(open).toBe(0));
  show("visible");
  await vi.waitFor(() => expect(open).toBe(4));
  stop();
  await vi.waitFor(() => expect(open).toBe(0));
});

test("who comes later is told the same", () => {
  const told: FeedEvent[] = [
    { kind: "connected", feed: "models" },
    { kind: "models", change: { kind: PUT, ...rowOf(sampleRow({ id: 1n })) } },
    { kind: "models", change: { kind: PUT, ...rowOf(sampleRow({ id: 2n })) } },
    { kind: "models", change: COMPLETE },
    { kind: "models", change: { kind: DELETED, model: sampleRow({ id: 1n }) } },
    { kind: "connected", feed: "downloads" },
    { kind: "download", download: sampleDownload({ modelId: 2n }) },
    { kind: "runtime", status: create(RuntimeStatusSchema, { processMemoryBytes: 5n }) },
    { kind: "extraction", extraction: sampleExtraction({ id: "old" }) },
    { kind: "connected", feed: "extractions" },
    { kind: "extraction", extraction: sampleExtraction({ id: "a1" }) },
    { kind: "lost", feed: "runtime" },
    // A second list is half told.
    { kind: "connected", feed: "models" },
    { kind: "models", change: { kind: PUT, ...rowOf(sampleRow({ id: 3n })) } },
  ];
  const first = new FeedMemory();
  for (const event of told) {
    first.absorb(event);
  }
  const later = new FeedMemory();
  for (const event of first.replay()) {
    // As it arrives from a worker.
    later.absorb(structuredClone(event));
  }
  expect([...later.rows.keys()]).toEqual([2n]);
  expect([...later.extractions.keys()]).toEqual(["a1"]);
  expect(later).toEqual(first);

  for (const memory of [first, later]) {
    memory.absorb({ kind: "models", change: COMPLETE });
    expect([...memory.rows.keys()]).toEqual([3n]);
  }
});
