// Lists that come in pages and are shown whole: datasets and templates. Nobody watches them: whoever changes one asks for
// the list again.
import type { Transport } from "@connectrpc/connect";
import { callUnaryMethod, useTransport } from "@connectrpc/connect-query";
import { queryOptions, useQuery, useQueryClient } from "@tanstack/react-query";
import { Dataset_State, DatasetsService } from "../gen/millm/catalog/v1/datasets_pb";
import { TemplatesService } from "../gen/millm/catalog/v1/templates_pb";

const PAGE_SIZE = 1000;
// Between two looks at a dataset that is being added, perhaps by another page.
const PENDING_MS = 2_000;

const DATASETS = ["datasets"];
const TEMPLATES = ["templates"];

function datasetsOver(transport: Transport) {
  return queryOptions({
    queryKey: DATASETS,
    queryFn: ({ signal }) =>
      wholeList(async (pageToken) => {
        const page = { pageSize: PAGE_SIZE, pageToken };
        const answer = await callUnaryMethod(transport, DatasetsService.method.listDatasets, page, {
          signal,
        });
        return [answer.datasets, answer.nextPageToken];
      }),
    refetchInterval: ({ state }) =>
      state.data?.some((dataset) => dataset.state === Dataset_State.PENDING) ? PENDING_MS : false,
  });
}

function templatesOver(transport: Transport) {
  return queryOptions({
    queryKey: TEMPLATES,
    queryFn: ({ signal }) =>
      wholeList(async (pageToken) => {
        const page = { pageSize: PAGE_SIZE, pageToken };
        const answer = await callUnaryMethod(transport, TemplatesService.method.listTemplates, page, {
          signal,
        });
        return [answer.templates, answer.nextPageToken];
      }),
  });
}

// The items of all pages; `ask` answers one page and the token of the next, "" for none.
export async function wholeList<T>(ask: (pageToken: string) => Promise<[T[], string]>): Promise<T[]> {
  const items: T[] = [];
  let token = "";
  do {
    const [page, next] = await ask(token);
    items.push(...page);
    token = next;
  } while (token !== "");
  return items;
}

export function useDatasets() {
  return useQuery(datasetsOver(useTransport()));
}

export function useTemplates() {
  return useQuery(templatesOver(useTransport()));
}

// What asks for a list again.
export function useRelist(list: "datasets" | "templates"): () => Promise<void> {
  const queries = useQueryClient();
  return () => queries.invalidateQueries({ queryKey: list === "datasets" ? DATASETS : TEMPLATES });
}
