// How components reach the services and the live picture.
import { createContext, type ReactNode, useContext, useSyncExternalStore } from "react";
import type { Clients } from "./clients";
import type { Live, LiveState } from "./live";

interface Api {
  clients: Clients;
  live: Live;
}

const ApiContext = createContext<Api | undefined>(undefined);

export function ApiProvider({ api, children }: { api: Api; children: ReactNode }) {
  return <ApiContext value={api}>{children}</ApiContext>;
}

function useApi(): Api {
  const api = useContext(ApiContext);
  if (!api) {
    throw new Error("no ApiProvider above this component");
  }
  return api;
}

export function useClients(): Clients {
  return useApi().clients;
}

export function useLive(): LiveState {
  const { live } = useApi();
  return useSyncExternalStore(live.subscribe, live.current);
}
