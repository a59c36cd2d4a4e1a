// The list of extractions: the server's pages say which there are, and the feed how they stand now.

import { timestampMs } from "@bufbuild/protobuf/wkt";
import { createConnectQueryKey, useInfiniteQuery, useQuery } from "@connectrpc/connect-query";
import { type QueryClient, useQueryClient } from "@tanstack/react-query";
import { useEffect, useMemo, useRef } from "react";
import { useToldExtractions } from "../../api/context";
import { forgetExtraction } from "../../api/live";
import { type Extraction, InspectionService } from "../../gen/millm/inspection/v1/inspection_pb";

const PAGE_SIZE = 50;

export interface Listing {
  // Undefined until the first page has come.
  extractions: readonly Extraction[] | undefined;
  error: unknown;
  isFetching: boolean;
  retry(): void;
  // Asks for the next page; undefined where there is none.
  more: (() => void) | undefined;
}

export function useListing(): Listing {
  const told = useToldExtractions();
  const { data, error, isFetching, refetch, hasNextPage, fetchNextPage } = useInfiniteQuery(
    InspectionService.method.listExtractions,
    { pageSize: PAGE_SIZE, pageToken: "" },
    {
      pageParamKey: "pageToken",
      getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
      // Another page may have removed some meanwhile, which the feed does not tell.
      refetchOnWindowFocus: true,
    },
  );
  const listed = useMemo(() => data?.pages.flatMap((page) => page.extractions), [data]);

  // One that is newer than the list, or came while it was on its way: asked for once.
  const missed = useRef(new Set<string>());
  useEffect(() => {
    const unknown = listed && newerThan(listed, told).filter(({ id }) => !missed.current.has(id));
    if (unknown && unknown.length > 0) {
      for (const { id } of unknown) {
        missed.current.add(id);
      }
      void refetch();
    }
  }, [listed, told, refetch]);

  return {
    extractions: listed?.map((extraction) => told.get(extraction.id) ?? extraction),
    error,
    isFetching,
    retry: () => void refetch(),
    more: hasNextPage ? () => void fetchNextPage() : undefined,
  };
}

// What the feed has told of that is newer than all that is listed.
export function newerThan(
  listed: readonly Extraction[],
  told: ReadonlyMap<string, Extraction>,
): Extraction[] {
  const known = new Set(listed.map(({ id }) => id));
  const [newest] = listed;
  const since = newest ? createdAt(newest) : Number.NEGATIVE_INFINITY;
  return [...told.values()].filter(
    (extraction) => !known.has(extraction.id) && createdAt(extraction) >= since,
  );
}

function createdAt({ createTime }: Extraction): number {
  return createTime ? timestampMs(createTime) : 0;
}

// One extraction as it stands now.
export function useExtraction(id: string) {
  const told = useToldExtractions();
  const { data, error, isFetching, refetch } = useQuery(InspectionService.method.getExtraction, { name: id });
  return { extraction: error ? undefined : (told.get(id) ?? data), error, isFetching, refetch };
}

// The extractions that do this one again.
export function useReplays(id: string): Extraction[] {
  const told = useToldExtractions();
  return [...told.values()]
    .filter(({ replayOf }) => replayOf === `extractions/${id}`)
    .sort((a, b) => createdAt(b) - createdAt(a));
}

// Takes a removed extraction from all lists.
export function useForget(): (id: string) => Promise<void> {
  const queries = useQueryClient();
  return async (id) => {
    forgetExtraction(queries, id);
    await relist(queries);
  };
}

function relist(queries: QueryClient): Promise<void> {
  const queryKey = createConnectQueryKey({
    schema: InspectionService.method.listExtractions,
    cardinality: "infinite",
  });
  return queries.invalidateQueries({ queryKey });
}
