// The connection and the cache, for the components below.
import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { TransportProvider, useTransport } from "@connectrpc/connect-query";
import { type QueryClient, QueryClientProvider, useQuery } from "@tanstack/react-query";
import { type ReactNode, useMemo } from "react";
import { DownloaderService } from "../gen/millm/downloader/v1/downloader_pb";
import type { Extraction } from "../gen/millm/inspection/v1/inspection_pb";
import { RuntimeService } from "../gen/millm/runtime/v1/runtime_pb";
import { extractionsQuery, type LiveState, liveQuery, removedQuery } from "./live";

interface Props {
  transport: Transport;
  queries: QueryClient;
  children: ReactNode;
}

export function ApiProvider({ transport, queries, children }: Props) {
  return (
    <TransportProvider transport={transport}>
      <QueryClientProvider client={queries}>{children}</QueryClientProvider>
    </TransportProvider>
  );
}

// For its streams; its other calls go through connect-query.
export function useRuntime(): Client<typeof RuntimeService> {
  const transport = useTransport();
  return useMemo(() => createClient(RuntimeService, transport), [transport]);
}

export function useDownloader(): Client<typeof DownloaderService> {
  const transport = useTransport();
  return useMemo(() => createClient(DownloaderService, transport), [transport]);
}

export function useLive(): LiveState {
  return useQuery(liveQuery).data;
}

// The extractions as the feed last told of them, by id.
export function useToldExtractions(): ReadonlyMap<string, Extraction> {
  const told = useQuery(extractionsQuery).data;
  const removed = useQuery(removedQuery).data;
  return useMemo(
    () => (removed.size === 0 ? told : new Map([...told].filter(([id]) => !removed.has(id)))),
    [told, removed],
  );
}
