// Renders a component against services played by a test.
import { createRouterTransport, type ServiceImpl } from "@connectrpc/connect";
import { render } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import type { ReactNode } from "react";
import { MemoryRouter } from "react-router";
import { ApiProvider } from "../api/context";
import { extractionsQuery, type LiveState, liveQuery, NOTHING_YET } from "../api/live";
import { createQueries } from "../api/queries";
import { DatasetsService } from "../gen/millm/catalog/v1/datasets_pb";
import { TemplatesService } from "../gen/millm/catalog/v1/templates_pb";
import { DownloaderService } from "../gen/millm/downloader/v1/downloader_pb";
import { type Extraction, InspectionService } from "../gen/millm/inspection/v1/inspection_pb";
import { RuntimeService } from "../gen/millm/runtime/v1/runtime_pb";
import { notify, Toasts } from "../ui/toasts";

interface Played {
  downloader?: Partial<ServiceImpl<typeof DownloaderService>>;
  runtime?: Partial<ServiceImpl<typeof RuntimeService>>;
  inspection?: Partial<ServiceImpl<typeof InspectionService>>;
  datasets?: Partial<ServiceImpl<typeof DatasetsService>>;
  templates?: Partial<ServiceImpl<typeof TemplatesService>>;
  // Where the page is opened, and what is known of the server.
  path?: string;
  live?: Partial<LiveState>;
  extractions?: readonly Extraction[];
}

export function renderWith(
  children: ReactNode,
  {
    downloader = {},
    runtime = {},
    inspection = {},
    datasets = {},
    templates = {},
    path = "/",
    live,
    extractions,
  }: Played = {},
) {
  const transport = createRouterTransport(({ service }) => {
    service(DownloaderService, downloader);
    service(RuntimeService, runtime);
    service(InspectionService, inspection);
    service(DatasetsService, datasets);
    service(TemplatesService, templates);
  });
  const queries = createQueries(({ message }) => void notify({ tone: "error", text: message }));
  if (live) {
    queries.setQueryData(liveQuery.queryKey, { ...NOTHING_YET, ...live });
  }
  if (extractions) {
    const told = new Map(extractions.map((extraction) => [extraction.id, extraction]));
    queries.setQueryData(extractionsQuery.queryKey, told);
  }
  render(
    <ApiProvider transport={transport} queries={queries}>
      <MemoryRouter initialEntries={[path]}>{children}</MemoryRouter>
      <Toasts />
    </ApiProvider>,
  );
  return userEvent.setup();
}
