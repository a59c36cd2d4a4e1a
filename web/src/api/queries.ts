// The page's cache: answers of calls, and the state that streams bring (`live.ts`, the conversation in the chat).
import { MutationCache, QueryClient } from "@tanstack/react-query";
import { type Problem, problemOf } from "./errors";

declare module "@tanstack/react-query" {
  interface Register {
    mutationMeta: {
      // The caller shows a refusal where it belongs, beside a field or in a dialog.
      refusalShown?: boolean;
    };
  }
}

// `tell` gets the refusals that no caller shows.
export function createQueries(tell: (problem: Problem) => void): QueryClient {
  return new QueryClient({
    mutationCache: new MutationCache({
      onError: (cause, _variables, _result, mutation) => {
        const problem = mutation.meta?.refusalShown ? null : problemOf(cause);
        if (problem) {
          tell(problem);
        }
      },
    }),
    defaultOptions: {
      // The server may run on this machine, so a lost network is no reason to wait.
      queries: { networkMode: "always", retry: false, refetchOnWindowFocus: false },
      mutations: { networkMode: "always" },
    },
  });
}
