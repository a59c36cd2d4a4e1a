// The connection and the cache, for the components below.
import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { TransportProvider, useTransport } from "@connectrpc/connect-query";
import { type QueryClient, QueryClientProvider, useQuery } from "@tanstack/react-query";
import { type ReactNode, useMemo } from "react";
import { RuntimeService } from "../gen/millm/runtime/v1/runtime_pb";
import { type LiveState, liveQuery } from "./live";

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

export function useLive(): LiveState {
  return useQuery(liveQuery).data;
}
