// Datasets that this page is adding, and how far they are. It lives in the page's cache, so that a look at the models
// does not lose it. The work goes on without the page.
import { type QueryClient, queryOptions, useQuery, useQueryClient } from "@tanstack/react-query";
import type { Clients } from "../../api/clients";
import { useDownloader } from "../../api/context";
import { type Problem, problemOf, problemOfStatus } from "../../api/errors";
import { useRelist } from "../../api/lists";
import type { Notice } from "../../api/notices";
import { Dataset_State } from "../../gen/millm/catalog/v1/datasets_pb";
import type { AddDatasetProgress } from "../../gen/millm/downloader/v1/downloader_pb";
import { plural } from "../../ui/format";
import { notify } from "../../ui/toasts";
import type { AddRequest } from "./draft";

// By the dataset's id.
export type Additions = ReadonlyMap<bigint, AddDatasetProgress>;

export const additionsQuery = queryOptions({
  queryKey: ["dataset-additions"],
  enabled: false,
  initialData: new Map() as Additions,
  staleTime: Number.POSITIVE_INFINITY,
  gcTime: Number.POSITIVE_INFINITY,
});

interface Effects {
  // Asks for the list of datasets again.
  relist(): Promise<void>;
  tell(notice: Notice): void;
}

// Sends the request. Resolves when the server has accepted it, or with its refusal; the rest is followed in the cache.
export async function addDataset(
  queries: QueryClient,
  downloader: Pick<Clients["downloader"], "addDataset">,
  request: AddRequest,
  { relist, tell }: Effects,
): Promise<Problem | undefined> {
  // Nobody may be looking while it goes on.
  queries.setQueryDefaults(additionsQuery.queryKey, { gcTime: Number.POSITIVE_INFINITY });
  const stream = downloader.addDataset(request)[Symbol.asyncIterator]();
  try {
    const first = await stream.next();
    if (!first.done) {
      void follow(first.value);
      await relist();
    }
    return undefined;
  } catch (cause) {
    return problemOf(cause) ?? undefined;
  }

  async function follow(first: AddDatasetProgress) {
    let last = first;
    try {
      put(last);
      for (let next = await stream.next(); !next.done; next = await stream.next()) {
        last = next.value;
        put(last);
      }
      const notice = noticeOf(last);
      if (notice) {
        tell(notice);
      }
    } catch {
      // The connection is gone; the list still tells how the dataset stands.
    } finally {
      remove(last);
      await relist();
    }
  }

  function current(): Additions {
    return queries.getQueryData(additionsQuery.queryKey) ?? new Map();
  }

  function put(progress: AddDatasetProgress) {
    if (progress.dataset) {
      queries.setQueryData(
        additionsQuery.queryKey,
        new Map([...current(), [progress.dataset.id, progress] as const]),
      );
    }
  }

  function remove({ dataset }: AddDatasetProgress) {
    const rest = [...current()].filter(([id]) => id !== dataset?.id);
    queries.setQueryData(additionsQuery.queryKey, new Map(rest));
  }
}

function noticeOf({ dataset, error }: AddDatasetProgress): Notice | undefined {
  if (!dataset) {
    return undefined;
  }
  const { handle, state, rows } = dataset;
  if (state === Dataset_State.READY) {
    return { tone: "success", text: `${handle} is ready: ${plural(Number(rows), "row")}.` };
  }
  const problem = problemOfStatus(error) ?? problemOfStatus(dataset.error);
  return state === Dataset_State.ERROR
    ? { tone: "error", text: problem?.message ?? `${handle} could not be added.` }
    : undefined;
}

export function useAdditions(): Additions {
  return useQuery(additionsQuery).data;
}

export function useAddDataset(): (request: AddRequest) => Promise<Problem | undefined> {
  const queries = useQueryClient();
  const downloader = useDownloader();
  const relist = useRelist("datasets");
  return (request) =>
    addDataset(queries, downloader, request, { relist, tell: (notice) => void notify(notice) });
}
