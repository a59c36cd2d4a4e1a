// Renders a component against services played by a test.
import { createRouterTransport, type ServiceImpl } from "@connectrpc/connect";
import { render } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import type { ReactNode } from "react";
import { MemoryRouter } from "react-router";
import { ApiProvider } from "../api/context";
import { type LiveState, liveQuery, NOTHING_YET } from "../api/live";
import { createQueries } from "../api/queries";
import { DownloaderService } from "../gen/millm/downloader/v1/downloader_pb";
import { RuntimeService } from "../gen/millm/runtime/v1/runtime_pb";
import { notify, Toasts } from "../ui/toasts";

interface Played {
  downloader?: Partial<ServiceImpl<typeof DownloaderService>>;
  runtime?: Partial<ServiceImpl<typeof RuntimeService>>;
  // Where the page is opened, and what is known of the server.
  path?: string;
  live?: Partial<LiveState>;
}

export function renderWith(
  children: ReactNode,
  { downloader = {}, runtime = {}, path = "/", live }: Played = {},
) {
  const transport = createRouterTransport(({ service }) => {
    service(DownloaderService, downloader);
    service(RuntimeService, runtime);
  });
  const queries = createQueries(({ message }) => void notify({ tone: "error", text: message }));
  if (live) {
    queries.setQueryData(liveQuery.queryKey, { ...NOTHING_YET, ...live });
  }
  render(
    <ApiProvider transport={transport} queries={queries}>
      <MemoryRouter initialEntries={[path]}>{children}</MemoryRouter>
      <Toasts />
    </ApiProvider>,
  );
  return userEvent.setup();
}
